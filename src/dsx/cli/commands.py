"""The verbs of the ``dsx`` command, and the door through which their errors leave."""

from __future__ import annotations

from typing import Any

import click

from dsx import DsxError, MissingExtraError, __version__
from dsx.cli.bench import bench
from dsx.cli.cache import cache
from dsx.cli.demo import run_demo
from dsx.cli.diff import diff
from dsx.cli.login import hubs, login, logout
from dsx.cli.look import info, list_names, show_bytes
from dsx.cli.pull import pull
from dsx.cli.serve import serve
from dsx.cli.service import service
from dsx.cli.verify import verify

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the signal's number, as shells count."""


class Door(click.Group):
    """Ends an error of DSX Hub as one sentence on stderr, and Ctrl-C without a word."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except DsxError as error:
            click.echo(f"dsx: {error}", err=True)
            ctx.exit(2 if isinstance(error, MissingExtraError) else 1)


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dsx")
def dsx() -> None:
    """Train from folders that live on another machine."""


@dsx.command()
def demo() -> None:
    """Show the whole way on this machine, in under a minute.

    Writes 1,797 handwritten digits as PNG files into a temporary folder, serves them with a hub, trains a classifier on
    them in a second process that reads them over HTTP, and says how well it does and where the time went. Leaves
    nothing behind.
    """
    run_demo()


for verb in (serve, service, login, logout, hubs, list_names, info, show_bytes, pull, diff, verify, cache):
    dsx.add_command(verb)
dsx.add_command(bench)
