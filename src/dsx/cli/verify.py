"""``dsx verify``: a local copy of a dataset, read as a whole and held against the hub's manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dsx import DatasetHubClient, InvalidRequestError
from dsx._layout import PRIVATE
from dsx._selecting import Selection
from dsx._verify import Findings, Verification, list_extra
from dsx.cli.amounts import format_bytes, format_entries
from dsx.cli.choosing import Chosen, find_place, to_text, with_choice
from dsx.cli.hub import say, show_json, with_hub
from dsx.client import access_of
from dsx.protocol.text import printable, shown


@click.command()
@with_hub(cache=True)
@with_choice
@click.option("--strict", is_flag=True, help="Fail for files in DEST, too, that the manifest does not have.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify(client: DatasetHubClient, chosen: Chosen, *, strict: bool, as_json: bool) -> None:
    """Read every entry of DATASET in DEST, or in the cache, and compare it with what the hub says it is.

    Compared is the SHA-256 of the whole file; where the hub does not know it yet, the size and the first kilobyte. What
    is wrong is listed, on lines like `missing PATH`, `differs PATH` and `unreadable PATH`; the exit status is 1 then.
    Files in DEST that the manifest does not have are `extra PATH`, and fail only with --strict. Nothing is changed, and
    DEST may be any folder: one that `dsx pull` filled, or a copy that came by rsync or on a disk.
    """
    access = access_of(client)
    options = chosen.make_options("full")
    place = find_place(access.folders.find("verify", chosen.dest), chosen.dataset)
    if not place.is_dir():
        raise InvalidRequestError(f"there is no copy of dataset {shown(chosen.dataset)} at {printable(str(place))}")
    manifest, selection = chosen.select(access, options, keeps=False)
    if len(manifest) and not len(selection.entries):
        raise InvalidRequestError("no entry was chosen; nothing was verified")
    prefix = str(place).rstrip(os.sep) + os.sep
    label = f"verifying {selection.dataset}"
    findings = Verification(prefix, selection.entries).run(label, selection.total_bytes)
    extra: list[str] = []
    if chosen.dest is not None:
        extra = sorted(list_extra(prefix, manifest, PRIVATE, findings.unreadable))
    if as_json:
        show_json(_describe(selection, place, findings, extra))
    else:
        for line in _format_lines(findings, extra):
            click.echo(line)
    say(_format_summary(selection, findings, extra))
    if not findings.is_complete or (strict and extra):
        click.get_current_context().exit(1)


def _format_lines(findings: Findings, extra: list[str]) -> Iterator[str]:
    """Write one line for each thing that is wrong, sorted by path."""
    what = {"missing": findings.missing, "differs": findings.differs, "unreadable": findings.unreadable, "extra": extra}
    for path, word in sorted((path, word) for word, paths in what.items() for path in paths):
        yield f"{word} {printable(path)}"


def _format_summary(selection: Selection, findings: Findings, extra: list[str]) -> str:
    total = format_entries(len(selection.entries))
    right = f"{findings.right:,} of {total} are right, {format_bytes(findings.right_bytes)}"
    counts = {"missing": findings.missing, "different": findings.differs, "unreadable": findings.unreadable}
    counts["extra"] = extra
    wrong = "".join(f", {len(paths):,} {word}" for word, paths in counts.items() if paths)
    lines = [f"dataset {shown(selection.dataset)}, revision {selection.revision}: {right}{wrong}"]
    lines += [f"  {printable(path)}: {reason}" for path, reason in list(findings.unreadable.items())[:5]]
    if findings.head_only:
        lines.append(
            f"  {format_entries(findings.head_only)} of those that are right could be compared by size and first "
            "kilobyte only: the hub has not computed their SHA-256 yet"
        )
    return "\n".join(lines)


def _describe(selection: Selection, place: Path, findings: Findings, extra: list[str]) -> dict[str, Any]:
    """Return what was found, for JSON."""
    return {
        "dataset": selection.dataset,
        "revision": selection.revision,
        "folder": to_text(str(place)),
        "complete": findings.is_complete,
        "selected": {"entries": len(selection.entries), "bytes": selection.total_bytes},
        "right": {"entries": findings.right, "bytes": findings.right_bytes, "by_head_only": findings.head_only},
        "missing": findings.missing,
        "differs": findings.differs,
        "unreadable": {to_text(path): reason for path, reason in sorted(findings.unreadable.items())},
        "extra": [to_text(path) for path in extra],
    }
