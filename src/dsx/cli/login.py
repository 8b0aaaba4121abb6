"""``dsx login``, ``logout`` and ``hubs``: the hubs that this user's commands and clients know."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dsx import DatasetHubClient, InvalidRequestError
from dsx._logins import Login, read_logins, write_logins
from dsx.cli.hub import read_key, say, show_json, show_name
from dsx.config import check_key, get_config_folder, resolve_url
from dsx.protocol.text import shown


@click.command()
@click.argument("url")
@click.option(
    "--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with the hub's key."
)
def login(url: str, key_file: Path | None) -> None:
    """Log in to the hub at URL, like http://192.168.1.5:8000.

    Asks for the key that the hub printed, unless --key-file names a file that has it or it comes on standard input. The
    hub is asked whether the key is right before both are kept, readable for you alone. The hub of the last login is the
    one that commands and DatasetHubClient() mean when nothing else names one.
    """
    url = resolve_url(url)
    key = check_key(read_key(key_file) if key_file is not None else _ask_for_key(url))
    with DatasetHubClient(url, key, cache_dir=None) as hub:
        names = hub.list_datasets()
    folder = get_config_folder()
    file = write_logins(folder, read_logins(folder).with_login(Login(url=url, api_key=key)))
    say(f"logged in to {url}, which has {len(names)} dataset{'' if len(names) == 1 else 's'}; the key is in {file}")


def _ask_for_key(url: str) -> str:
    if sys.stdin.isatty():
        key: str = click.prompt(f"Key of {url}", hide_input=True, err=True)
        return key.strip()
    lines = sys.stdin.read().splitlines()
    if len(lines) != 1 or not lines[0].strip():
        raise InvalidRequestError("standard input must be the key, in one line; or use --key-file FILE")
    return lines[0].strip()


@click.command()
@click.argument("url", required=False)
def logout(url: str | None) -> None:
    """Forget the key of the hub at URL; of the last login if URL is left out."""
    folder = get_config_folder()
    logins = read_logins(folder)
    if not logins.hubs:
        say("there is no login to forget")
        return
    url = logins.hubs[0].url if url is None else resolve_url(url)
    if logins.find(url) is None:
        raise InvalidRequestError(f"there is no login for {shown(url)}; see: dsx hubs")
    write_logins(folder, logins.without(url))
    say(f"logged out of {url}")


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def hubs(is_json: bool) -> None:
    """List the hubs you are logged in to, one a line; the first is meant when none is named."""
    known = read_logins(get_config_folder()).hubs
    if is_json:
        show_json([{"url": login.url, "is_default": number == 0} for number, login in enumerate(known)])
    else:
        for login in known:
            show_name(login.url)
