"""``dsx diff``: what has changed in a dataset between two of its revisions."""

from __future__ import annotations

import click

from dsx import DatasetHubClient, RevisionNotFoundError
from dsx.cli.amounts import format_bytes, format_entries
from dsx.cli.hub import say, show_json, with_hub
from dsx.protocol.text import printable, shown


@click.command()
@with_hub()
@click.argument("dataset")
@click.argument("rev_a", required=False)
@click.argument("rev_b", required=False)
@click.option("--list", "lists", is_flag=True, help="List the revisions that the hub keeps instead, newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def diff(
    client: DatasetHubClient, *, dataset: str, rev_a: str | None, rev_b: str | None, lists: bool, as_json: bool
) -> None:
    """Say what has changed in DATASET from revision REV_A to REV_B, which is the newest when left out.

    One line a path: `+` was added, `-` was removed, `~` has other content or another modification time. The exit status
    is 0 whether or not anything has changed.
    """
    if lists and rev_a is not None:
        raise click.UsageError("--list takes no revisions")
    if lists:
        _list_revisions(client, dataset, as_json=as_json)
    elif rev_a is None:
        raise click.UsageError(f"which revision to begin with? `dsx diff {printable(dataset)} --list` lists them")
    else:
        _show_diff(client, dataset, rev_a, rev_b, as_json=as_json)


def _show_diff(client: DatasetHubClient, dataset: str, rev_a: str, rev_b: str | None, *, as_json: bool) -> None:
    try:
        found = client.diff(dataset, rev_a, client.get_revision(dataset) if rev_b is None else rev_b)
    except RevisionNotFoundError as error:
        named = " or no ".join(shown(each) for each in (rev_a, rev_b) if each is not None)
        raise RevisionNotFoundError(
            f"dataset {shown(dataset)} has no revision {named}, or has it no longer; "
            f"`dsx diff {printable(dataset)} --list` lists those it has"
        ) from error
    if as_json:
        show_json({"dataset": dataset} | found.model_dump(by_alias=True))
    else:
        signs = {"+": found.added, "-": found.removed, "~": found.changed}
        for path, sign in sorted((path, sign) for sign, paths in signs.items() for path in paths):
            click.echo(f"{sign} {printable(path)}")
    say(
        f"{len(found.added):,} added, {len(found.removed):,} removed, {len(found.changed):,} changed "
        f"from revision {found.from_revision} to {found.to_revision}"
    )


def _list_revisions(client: DatasetHubClient, dataset: str, *, as_json: bool) -> None:
    revisions = client.list_revisions(dataset)
    if as_json:
        show_json([each.model_dump() for each in revisions])
        return
    for each in revisions:
        holds = f"{format_entries(each.entries)}, {format_bytes(each.bytes)}"
        click.echo(f"{each.revision}  {printable(each.created_at)}  {holds}")
