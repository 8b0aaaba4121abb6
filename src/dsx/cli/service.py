"""``dsx service``: the hub as a systemd unit of the user, so that it runs without a terminal and after a restart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click

from dsx import InvalidRequestError
from dsx.cli.hub import say
from dsx.config import get_unit_folder
from dsx.protocol.text import shown

UNIT = "dsx-hub.service"

_UNIT = """\
[Unit]
Description=DSX Hub: serves folders as datasets

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=5
UMask=0077
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


@click.group()
def service() -> None:
    """Run the hub in the background, as a systemd unit of yours."""
    if sys.platform != "linux":
        raise InvalidRequestError(
            "dsx service writes systemd units, which this system does not have; have its tools run: dsx serve FOLDER"
        )


@service.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that answer.")
@click.option("--key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with the key.")
@click.option("--print", "is_printed", is_flag=True, help="Print the unit, and change nothing.")
def install(
    folder: Path, host: str | None, port: int | None, workers: int | None, key_file: Path | None, is_printed: bool
) -> None:
    """Have systemd run `dsx serve FOLDER`, from now on and whenever you are logged in.

    The options are those of dsx serve. Installing again replaces the unit.
    """
    told = {"--host": host, "--port": port, "--workers": workers, "--key-file": key_file and key_file.absolute()}
    options = [str(part) for name, value in told.items() if value is not None for part in (name, value)]
    unit = format_unit([sys.executable, "-m", "dsx.cli", "serve", str(folder.absolute()), *options])
    if is_printed:
        click.echo(unit, nl=False)
        return
    file = get_unit_folder() / UNIT
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(unit, "utf-8")
    except OSError as error:
        raise InvalidRequestError(f"the unit cannot be written to {file}: {error.strerror}") from None
    say(f"wrote {file}")
    if not _run(["daemon-reload"], ["enable", UNIT], ["restart", UNIT]):
        say(f"systemd does not run for you here; where it does, run: systemctl --user enable --now {UNIT}")
        return
    say(f"the hub runs; its address and where its key is: journalctl --user -u {UNIT}")
    say("it ends when you log out, unless you run once: loginctl enable-linger")


@service.command()
def remove() -> None:
    """Stop the hub that systemd runs, and delete the unit."""
    file = get_unit_folder() / UNIT
    if not file.exists():
        say(f"there is no {file}")
        return
    _run(["disable", "--now", UNIT])
    file.unlink()
    _run(["daemon-reload"])
    say(f"removed {file}; datasets, index and key are where they were")


@service.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show what systemd says of the hub; the status is that of systemctl, 3 when it does not run."""
    if not (get_unit_folder() / UNIT).exists():
        raise InvalidRequestError("no service is installed; install one with: dsx service install FOLDER")
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        raise InvalidRequestError("systemctl is not on this system, so that nothing is known of the service")
    done = subprocess.run(  # noqa: S603 -- a program of the system, with words of ours
        [systemctl, "--user", "--no-pager", "status", UNIT], check=False
    )
    ctx.exit(done.returncode)


def format_unit(command: list[str]) -> str:
    """Return the text of a unit that runs a command.

    Raises:
        InvalidRequestError: A part of it has a line break, which a unit cannot say.
    """
    for part in command:
        if any(ord(char) < ord(" ") for char in part):
            raise InvalidRequestError(f"{shown(part)} has a character that no systemd unit can hold; rename it")
    return _UNIT.format(command=" ".join(map(_quote, command)))


def _quote(part: str) -> str:
    """Quote a word as systemd.service(5) has it: % and $ double, backslash and quote escaped."""
    escaped = part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _run(*calls: list[str]) -> bool:
    """Have systemctl do something; tell whether it did all of it."""
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return False
    for call in calls:
        done = subprocess.run(  # noqa: S603 -- a program of the system, with words of ours
            [systemctl, "--user", *call], capture_output=True, text=True, check=False
        )
        if done.returncode:
            say(f"systemctl --user {' '.join(call)}: {done.stderr.strip() or f'status {done.returncode}'}")
            return False
    return True
