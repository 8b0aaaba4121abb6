"""``dsx cache``: what lies in a cache folder, and how it is kept small and right. No hub is asked."""

from __future__ import annotations

from pathlib import Path

import click

from dsx import CacheError, InvalidRequestError
from dsx._cache import Cache
from dsx._cleaning import CachedDataset, clear_cache, list_cached, prune_cache, verify_cache
from dsx.cli.amounts import format_bytes
from dsx.cli.hub import say, show_json, show_name
from dsx.config import parse_bytes, resolve_cache_limit
from dsx.protocol.text import printable, shown

with_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


@click.group()
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("cache"),
    show_default="./cache",
    help="The cache folder.",
)
@click.pass_context
def cache(ctx: click.Context, cache_dir: Path) -> None:
    """Look at the cache folder, keep it small, and check it."""
    if not cache_dir.is_dir():
        raise CacheError(f"there is no cache folder {cache_dir}; name another with: dsx cache --cache-dir FOLDER ...")
    ctx.obj = ctx.with_resource(_opened(Cache(cache_dir)))


class _opened:  # noqa: N801 -- a context manager, used like a function
    """Closes a cache in the end."""

    def __init__(self, folder: Cache) -> None:
        self._folder = folder

    def __enter__(self) -> Cache:
        return self._folder

    def __exit__(self, *_: object) -> None:
        self._folder.close()


@cache.command("ls")
@click.option("-l", "is_long", is_flag=True, help="Print bytes and number of files before each name.")
@with_json
@click.pass_obj
def list_datasets(folder: Cache, is_long: bool, is_json: bool) -> None:
    """List the datasets that have something in the cache, one a line."""
    found = list_cached(folder)
    if is_json:
        show_json([dataset._asdict() for dataset in found])
    elif is_long:
        width = max((len(str(dataset.bytes)) for dataset in found), default=0)
        files = max((len(str(dataset.files)) for dataset in found), default=0)
        for dataset in found:
            click.echo(f"{dataset.bytes:{width}}  {dataset.files:{files}}  {printable(dataset.name)}")
    else:
        for dataset in found:
            show_name(dataset.name)


@cache.command()
@click.argument("dataset", required=False)
@with_json
@click.pass_obj
def size(folder: Cache, dataset: str | None, is_json: bool) -> None:
    """Print how much the cache takes, of one DATASET or of all."""
    found = [known for known in list_cached(folder) if dataset in (None, known.name)]
    if dataset is not None and not found:
        raise CacheError(f"dataset {shown(dataset)} has nothing in the cache {folder.root}; see: dsx cache ls")
    count, files = sum(known.bytes for known in found), sum(known.files for known in found)
    if is_json:
        show_json({"bytes": count, "files": files})
    else:
        click.echo(format_bytes(count))


@cache.command()
@click.option("--limit", metavar="SIZE", help="What the cache may have, like 50GB or 20GiB; else DSX_CACHE_LIMIT.")
@click.pass_obj
def prune(folder: Cache, limit: str | None) -> None:
    """Remove what was not used for longest until the cache is under a limit.

    What was handed out within the last ten minutes stays, and what other people have put there. The status is 1 when
    that is why the cache is still over the limit.
    """
    most = resolve_cache_limit(None if limit is None else parse_bytes(limit, "--limit"))
    if most is None:
        raise InvalidRequestError("say how much may stay, like: dsx cache prune --limit 50GB")
    pruned = prune_cache(folder, most)
    say(f"{format_bytes(pruned.freed)} freed; {format_bytes(pruned.left)} of files are in {folder.root}")
    if pruned.left > most:
        raise CacheError(
            f"{pruned.left - most} bytes more than that are left: handed out within the last ten minutes; try later"
        )


@cache.command()
@click.argument("dataset", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def clear(folder: Cache, dataset: str | None, yes: bool) -> None:
    """Delete what dsx has put into the cache, of one DATASET or of all."""
    found: list[CachedDataset] = [known for known in list_cached(folder) if dataset in (None, known.name)]
    if not found:
        say("there is nothing to delete")
        return
    what = ", ".join(printable(known.name) for known in found)
    if not yes:
        count = format_bytes(sum(known.bytes for known in found))
        if not click.confirm(f"Delete {count} of {what} from {folder.root}?", err=True):
            raise CacheError("nothing was deleted")
    say(f"{format_bytes(clear_cache(folder, dataset))} freed")


@cache.command()
@with_json
@click.pass_obj
def verify(folder: Cache, is_json: bool) -> None:
    """Read every file that dsx has put into the cache, and compare it with what was verified when it came.

    Prints "damaged" or "missing" and the name of each that is not right; the status is 1 then. The next call that needs
    one of them gets it from the hub again.
    """
    checked = verify_cache(folder)
    if is_json:
        show_json(checked._asdict())
    else:
        for word, names in (("damaged", checked.damaged), ("missing", checked.missing)):
            for name in names:
                show_name(f"{word} {name}")
    say(f"{checked.right} files are right")
    if checked.unknown:
        say(f"{checked.unknown} were never verified, since a ledger was lost; they are when they are next used")
    if checked.damaged or checked.missing:
        raise CacheError(f"{len(checked.damaged)} files are damaged, {len(checked.missing)} missing in {folder.root}")
