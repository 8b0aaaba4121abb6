"""What the verbs of the ``dsx`` command share: which hub they talk to, and what they print where."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from dsx import DatasetHubClient, InvalidRequestError
from dsx.protocol.text import printable

_HUB_OPTIONS = (
    click.option("--hub", "url", metavar="URL", help="The hub; else DSX_URL, else the one of `dsx login`."),
    click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File with the hub's key; else DSX_API_KEY, else the key of `dsx login`.",
    ),
)
_CACHE_OPTION = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("cache"),
    show_default="./cache",
    help="The cache folder.",
)


def with_hub(*, cache: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb the options that name a hub, and a client of it as its first argument.

    Args:
        cache: Whether the verb uses the cache folder; it has an option for it then. With a ``dest`` it uses none.
    """

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(verb)
        def run(url: str | None, key_file: Path | None, **arguments: Any) -> Any:
            cache_dir = arguments.pop("cache_dir") if cache else None
            if arguments.get("dest") is not None:
                cache_dir = None
            api_key = None if key_file is None else read_key(key_file)
            with ExitStack() as stack:
                client = stack.enter_context(DatasetHubClient(url, api_key, cache_dir=cache_dir))
                return verb(client, **arguments)

        for option in (*_HUB_OPTIONS, *((_CACHE_OPTION,) if cache else ())):
            run = option(run)
        return run

    return decorate


def read_key(file: Path) -> str:
    """Return the key in a file; the end of the line is no part of it.

    Raises:
        InvalidRequestError: The file cannot be read, is empty, or holds more than one line.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidRequestError(f"the key file {file} cannot be read: {reason}") from None
    if len(lines) != 1 or not lines[0].strip():
        raise InvalidRequestError(f"the key file {file} must hold the key in its one line")
    return lines[0].strip()


def split_target(target: str) -> tuple[str, str]:
    """Split ``DATASET/PATH`` into the dataset and the rest, which is empty when there is none."""
    dataset, _, path = target.partition("/")
    return dataset, path


def say(text: str) -> None:
    """Tell the person something, on stderr."""
    click.echo(text, err=True)


def show_name(name: str) -> None:
    """Print a name on a line of its own, on stdout; what would do something to a terminal is escaped."""
    click.echo(printable(name))


def show_json(value: object) -> None:
    """Print a value as JSON, on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
