"""``dsx pull``: a dataset, or a part of it, into the cache or a folder of one's own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from dsx import DatasetHubClient, DownloadError, InvalidRequestError
from dsx._progress import Notice
from dsx._pull import Pull, Survey, Tally, check_room
from dsx._selecting import Selection, Verify
from dsx.cli.amounts import format_bytes, format_entries, format_files
from dsx.cli.choosing import Chosen, find_place, to_text, with_choice
from dsx.cli.hub import say, show_json, show_name, with_hub
from dsx.client import access_of
from dsx.protocol.text import printable, shown

NAMED = 5
"""How many paths a question or an error names."""

QUICK_S = 0.5
"""So long, in s, it is looked for what is there without a word."""


@click.command()
@with_hub(cache=True)
@with_choice
@click.option(
    "--verify",
    type=click.Choice(["auto", "full"]),
    default="auto",
    show_default=True,
    help="Read what is there only where it was touched since it came, or all of it.",
)
@click.option("--delete", is_flag=True, help="Remove from DEST what earlier pulls put there and is not selected now.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan of --dry-run, or what was done, as JSON.")
def pull(
    client: DatasetHubClient,
    chosen: Chosen,
    *,
    verify: Verify,
    delete: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Fetch the entries of DATASET that are missing or have changed, and print the folder they lie in.

    Without DEST that is the cache, where training finds them; files of yours are touched in neither. A pull that was
    interrupted goes on where it stopped when the same command is given again.
    """
    _check(chosen, delete=delete, asks=not yes and not dry_run)
    with _saying_how_to_go_on():
        plan = Plan(client, chosen, verify, deletes=delete, notes=not dry_run)
        if dry_run:
            plan.show(as_json=as_json)
            return
        say(plan.format())
        check_room(plan.survey, plan.place)
        if plan.survey.surplus and not yes and not _ask(plan.survey):
            raise InvalidRequestError("nothing was fetched and nothing deleted")
        started = time.monotonic()
        tally = plan.run()
        seconds = time.monotonic() - started
    say(plan.format_result(tally, seconds))
    if as_json:
        show_json(plan.describe_result(tally, seconds))
    else:
        show_name(str(plan.place))


class Plan:
    """What a pull is going to do.

    Args:
        client: The hub.
        chosen: What is to be where.
        verify: How much of what is there is read.
        deletes: Whether what is not selected goes.
        notes: Whether anything may be changed; a plan that is only shown changes nothing.

    Attributes:
        survey: What was found in the folder.
        place: The folder that the entries lie in.
    """

    def __init__(self, client: DatasetHubClient, chosen: Chosen, verify: Verify, *, deletes: bool, notes: bool) -> None:
        access = access_of(client)
        options = chosen.make_options(verify, deletes=deletes)
        folder = access.folders.find("download_dataset", chosen.dest)
        _, self.selection = chosen.select(access, options, keeps=notes)
        self.place = find_place(folder, chosen.dataset)
        self._pull = Pull(access.batches, folder, self.selection, deletes=deletes)
        self.survey = _look(self._pull, self.selection, notes=notes)

    def run(self) -> Tally:
        """Do it.

        Raises:
            DownloadError: Some entries failed; it names the first of them.
        """
        try:
            return self._pull.run(self.survey.left)
        except DownloadError as error:
            raise _shorten(error) from error

    def format(self) -> str:
        """Write what is going to be done."""
        survey, chosen = self.survey, self.selection
        count, size = self._count_placed()
        lines = [
            f"dataset {shown(chosen.dataset)}, revision {chosen.revision}: {_format_part(chosen)}",
            f"  there already    {format_entries(count)}, {format_bytes(size)}",
            f"  to be fetched    {_format_part(survey.missing)}",
        ]
        if len(survey.unclear.entries):
            lines.append(f"  to be read first {_format_part(survey.unclear)}")
        if survey.begun_bytes:
            lines.append(f"  begun earlier    {format_bytes(survey.begun_bytes)} of what is to be fetched")
        if survey.surplus:
            lines.append(f"  to be deleted    {format_files(len(survey.surplus))}")
        return "\n".join([*lines, f"  into             {printable(str(self.place))}"])

    def show(self, *, as_json: bool) -> None:
        """Print what would be done, on stdout."""
        if as_json:
            show_json(self.describe())
        else:
            click.echo(self.format())
        if not self.survey.has_room:
            needed, free = format_bytes(self.survey.needed_bytes), format_bytes(self.survey.free_bytes or 0)
            say(f"dsx: there is too little room: {needed} would be fetched, and {free} are free")

    def describe(self) -> dict[str, Any]:
        """Return what is going to be done, for JSON."""
        survey = self.survey
        return self._describe_head() | {
            "fetch": _describe_part(survey.missing),
            "check": _describe_part(survey.unclear),
            "delete": {"files": len(survey.surplus), "paths": list(survey.surplus)},
            "begun_bytes": survey.begun_bytes,
            "needed_bytes": survey.needed_bytes,
            "free_bytes": survey.free_bytes,
        }

    def describe_result(self, tally: Tally, seconds: float) -> dict[str, Any]:
        """Return what was done, for JSON."""
        return self._describe_head() | {
            "there": {"entries": len(self.selection.entries) - tally.fetched},
            "fetched": {"entries": tally.fetched, "bytes": tally.fetched_bytes},
            "deleted": {"files": tally.removed},
            "seconds": round(seconds, 3),
        }

    def format_result(self, tally: Tally, seconds: float) -> str:
        """Write what was done."""
        speed = format_bytes(tally.fetched_bytes / max(seconds, 0.001))
        how = f", {format_bytes(tally.fetched_bytes)} in {seconds:.1f} s ({speed}/s)" if tally.fetched else ""
        there = len(self.selection.entries) - tally.fetched
        deleted = f", {format_files(tally.removed)} deleted" if self.survey.surplus or tally.removed else ""
        where = printable(str(self.place))
        return (
            f"fetched {format_entries(tally.fetched)}{how}; {there:,} were already there{deleted}; they lie in {where}"
        )

    def _count_placed(self) -> tuple[int, int]:
        count = len(self.selection.entries) - len(self.survey.left.entries)
        return count, self.selection.total_bytes - self.survey.left.total_bytes

    def _describe_head(self) -> dict[str, Any]:
        count, size = self._count_placed()
        return {
            "dataset": self.selection.dataset,
            "revision": self.selection.revision,
            "folder": to_text(str(self.place)),
            "selected": {"entries": len(self.selection.entries), "bytes": self.selection.total_bytes},
            "there": {"entries": count, "bytes": size},
        }


def _check(chosen: Chosen, *, delete: bool, asks: bool) -> None:
    """Refuse what cannot be meant, before anything is asked or done."""
    if delete and chosen.dest is None:
        raise click.UsageError("--delete makes a folder of your own like the dataset: name it, as DEST")
    if delete and asks and not (sys.stdin and sys.stdin.isatty()):  # None where it was closed
        raise InvalidRequestError(
            "--delete asks before it deletes, and there is no terminal to ask on; nothing was done; give --yes too"
        )


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        after_sign = "\n" if sys.stderr.isatty() else ""  # a terminal has written ^C
        say(f"{after_sign}dsx: interrupted; the same command goes on where it stopped")
        raise


def _look(pull: Pull, selection: Selection, *, notes: bool) -> Survey:
    total, started = len(selection.entries), time.monotonic()
    with Notice() as notice:

        def tell(count: int) -> None:
            if time.monotonic() - started > QUICK_S:
                notice.say(f"looking at what is there: {count:,} of {total:,} entries")

        return pull.survey(notes=notes, on_seen=tell)


def _ask(survey: Survey) -> bool:
    """Ask on the terminal whether to delete."""
    named = "\n".join(f"  {printable(path)}" for path in survey.surplus[:NAMED])
    more = f"\n  and {len(survey.surplus) - NAMED:,} more" if len(survey.surplus) > NAMED else ""
    say(f"{format_files(len(survey.surplus))} will be deleted:\n{named}{more}")
    click.echo("go on? [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _shorten(error: DownloadError) -> DownloadError:
    """Name the first of many failures only."""
    lines = [str(error).partition("\n")[0]]
    lines += [f"  {printable(path)}: {printable(str(reason))}" for path, reason in list(error.failures.items())[:NAMED]]
    if len(error.failures) > NAMED:
        lines.append(f"  and {len(error.failures) - NAMED:,} more")
    return DownloadError("\n".join(lines))


def _format_part(part: Selection) -> str:
    return f"{format_entries(len(part.entries))}, {format_bytes(part.total_bytes)}"


def _describe_part(part: Selection) -> dict[str, Any]:
    return {
        "entries": len(part.entries),
        "bytes": part.total_bytes,
        "paths": [entry.path for entry in part.entries],
    }
