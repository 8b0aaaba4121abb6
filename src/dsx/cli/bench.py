"""``dsx bench``: how quickly a hub's files come to this machine, and what holds them up."""

from __future__ import annotations

from statistics import median

import click

from dsx import DatasetHubClient, DatasetNotFoundError, Manifest, OfflineError
from dsx._access import Access
from dsx._fetch import LONG_BYTES
from dsx._transport import SMALL_BODY_BYTES, quote_path
from dsx._wanted import Wanted
from dsx.cli.amounts import format_bytes, format_files
from dsx.cli.bench_clock import Clock
from dsx.cli.bench_large import read_in_ranges, read_one_stream
from dsx.cli.bench_measures import Extent, Measures, Pass
from dsx.cli.bench_small import (
    FIRST_FILES,
    pick_sample,
    read_batches,
    read_growing,
    read_one_by_one,
    read_one_byte_each,
    time_answers,
)
from dsx.cli.bench_verdict import format_rate, format_seconds, judge
from dsx.cli.bench_way import measure_way, settle
from dsx.cli.hub import say, show_json, with_hub
from dsx.cli.look import with_json
from dsx.client import access_of
from dsx.errors import HubError
from dsx.manifest import columns_of
from dsx.protocol.models import DatasetInfo
from dsx.protocol.text import printable

TOTAL_S = 20.0
"""About how long all of it may take, in s; the parts below are shares of it."""

WAY_SHARE = 0.05
LARGE_SHARE = 0.12
LARGE_AGAIN_SHARE = 0.07
ONE_STREAM_SHARE = 0.07
ANSWERS_SHARE = 0.05
ONE_BY_ONE_SHARE = 0.12
SETTLE_SHARE = 0.1
BATCHES_SHARE = 0.18
"""Twice more, at most, for the same files again, and one byte of each."""

SAMPLED_S = 0.3
"""A file of a sample comes in so much time, in s, by what one stream brought: else one would take all there is."""

LOOK_S = 3.0
"""How long, in s, datasets are looked at to find the largest."""

INFO_TIMEOUT_S = 10.0


@click.command()
@click.argument("dataset", required=False)
@with_json
@with_hub()
def bench(hub: DatasetHubClient, dataset: str | None, is_json: bool) -> None:
    """Measure how quickly files come from the hub, for about 20 seconds, and say what the limit is.

    Left out, DATASET is the largest one. Network, the hub's disk, its processor and this machine are told apart, with
    what would help. Files are read into memory and thrown away. Which ones is always the same, so that a second run
    finds them in the hub's memory.
    """
    access = access_of(hub)
    if access.transport.is_offline:
        raise OfflineError("DSX_OFFLINE is set, so that no hub is asked and none can be measured; unset it")
    with DatasetHubClient(access.address.url, access.address.api_key, cache_dir=None, readahead=False) as client:
        name = dataset if dataset is not None else _find_largest(client, access)
        measures = measure(client, name)
    verdict = judge(measures)
    if is_json:
        show_json({"hub": access.address.url, **measures.model_dump(), "verdict": verdict.model_dump()})
        return
    click.echo(format_measures(measures))
    click.echo()
    for sentence in verdict.sentences:
        click.echo(sentence)


def _find_largest(client: DatasetHubClient, access: Access) -> str:
    """Return the name of the dataset with the most bytes, of as many as can be looked at in a moment.

    Raises:
        DatasetNotFoundError: There is none.
    """
    names = client.list_datasets()
    if not names:
        raise DatasetNotFoundError(
            f"the hub at {access.address.url} has no dataset to read; a folder with files in its served folder is one"
        )
    if len(names) == 1:
        return names[0]
    say("Looking for the largest dataset ...")
    clock = Clock(LOOK_S)
    sizes: dict[str, int] = {}
    for name in names:
        body = access.transport.get_body(
            f"/datasets/{quote_path(name)}", timeout_s=INFO_TIMEOUT_S, limit=SMALL_BODY_BYTES
        )
        try:
            sizes[name] = DatasetInfo.model_validate_json(body.data).bytes
        except ValueError as error:
            raise HubError(f"what answers at {access.address.url} is not a DSX hub") from error
        if clock.left_s < 0:
            break
    return max(sizes, key=sizes.__getitem__)


def measure(client: DatasetHubClient, dataset: str) -> Measures:
    """Measure all that a dataset has the files for, and say on stderr what is being done.

    Args:
        client: The hub; it keeps no files, and reads none ahead.
        dataset: Name of the dataset.

    Raises:
        DatasetNotFoundError: The hub has no such dataset.
        DsxError: Something did not come.
    """
    transport = access_of(client).transport
    manifest = client.load_manifest(dataset)
    extent = _describe(dataset, manifest)
    say(f"Dataset {printable(dataset)}: {format_files(extent.files)}, {format_bytes(extent.bytes)}.")
    say("Asking and being answered ...")
    measures = Measures(extent=extent, way=measure_way(transport, WAY_SHARE * TOTAL_S))
    if extent.largest_bytes:
        measures = _measure_large(client, manifest, measures)
    if extent.small_files and extent.small_bytes:
        measures = _measure_small(client, manifest, measures)
    return measures


def _describe(dataset: str, manifest: Manifest) -> Extent:
    sizes = columns_of(manifest).sizes
    small = [size for size in sizes if size <= LONG_BYTES]
    return Extent(
        dataset=dataset,
        files=len(sizes),
        bytes=sum(sizes),
        small_files=len(small),
        small_bytes=sum(small),
        largest_bytes=max(sizes, default=0),
    )


def _measure_large(client: DatasetHubClient, manifest: Manifest, measures: Measures) -> Measures:
    """Add what comes of the largest file; first in ranges, as calls fetch long ones: nobody has read it yet."""
    transport, extent = access_of(client).transport, measures.extent
    entry = manifest[list(columns_of(manifest).sizes).index(extent.largest_bytes)]
    wanted = Wanted(extent.dataset, entry.path, entry)
    say(f"Reading the largest file, {format_bytes(entry.size)} ...")
    found = {}
    if entry.size > LONG_BYTES:
        found["large"] = read_in_ranges(transport, wanted, LARGE_SHARE * TOTAL_S, repeats=False)
        settle(transport, measures.way, SETTLE_SHARE * TOTAL_S)
        found["large_again"] = read_in_ranges(transport, wanted, LARGE_AGAIN_SHARE * TOTAL_S, repeats=True)
        settle(transport, measures.way, SETTLE_SHARE * TOTAL_S)
    found["one_stream"] = read_one_stream(transport, wanted, ONE_STREAM_SHARE * TOTAL_S)
    return measures.model_copy(update=found)


def _measure_small(client: DatasetHubClient, manifest: Manifest, measures: Measures) -> Measures:
    """Add what comes of small files, each of them read by one way of reading first, and then again by the same."""
    transport, dataset = access_of(client).transport, measures.extent.dataset
    settle(transport, measures.way, SETTLE_SHARE * TOTAL_S)
    streams = (measures.large, measures.large_again, measures.one_stream)
    mb_per_s = max((stream.mb_per_s for stream in streams if stream is not None), default=0.0)
    fitting_bytes = int((SAMPLED_S + 2 * measures.way.round_trip_ms / 1000) * mb_per_s * 1e6)
    smallest = min(columns_of(manifest).sizes)
    sample = pick_sample(manifest, max(smallest, min(LONG_BYTES, fitting_bytes)))
    say("Reading small files one by one ...")
    answers_ms = time_answers(transport, dataset, sample.answers, ANSWERS_SHARE * TOTAL_S)
    again_ms = time_answers(transport, dataset, sample.answers[: len(answers_ms)], ANSWERS_SHARE * TOTAL_S)
    alone = read_one_by_one(client, dataset, sample.one_by_one, ONE_BY_ONE_SHARE * TOTAL_S)
    say("Reading small files in batches ...")
    limit_s = BATCHES_SHARE * TOTAL_S
    first_files = max(1, min(FIRST_FILES, int(fitting_bytes * alone.files / max(1, alone.bytes))))
    batches, paths = read_growing(client, dataset, sample.batches, first_files, limit_s)
    say("Reading the same files again ...")
    return measures.model_copy(
        update={
            "answer_ms": median(answers_ms),
            "answer_again_ms": median(again_ms),
            "one_by_one": alone,
            "batches": batches,
            "batches_again": read_batches(client, dataset, paths, limit_s),
            "one_byte_each": read_one_byte_each(client, dataset, paths),
        }
    )


def format_measures(measures: Measures) -> str:
    """Lay out measures as a table: what was done, how quickly it went, and more of it."""
    way, rows = measures.way, []
    if way.connect_ms is not None:
        rows.append(("connect", f"{way.connect_ms:.2f} ms", "TCP"))
    rows.append(("round trip", f"{way.round_trip_ms:.2f} ms", f"99th percentile {way.round_trip_p99_ms:.2f} ms"))
    if measures.answer_ms is not None and measures.answer_again_ms is not None:
        again = f"the second time {measures.answer_again_ms:.2f} ms"
        rows.append(("a small file's answer begins", f"{measures.answer_ms:.2f} ms", again))
    size = format_bytes(measures.extent.largest_bytes)
    rows += _format_bytes_row(f"the largest file ({size}), in ranges", measures.large)
    rows += _format_bytes_row("the same again", measures.large_again)
    rows += _format_bytes_row(f"the largest file ({size}), one stream", measures.one_stream)
    rows += _format_files_row("small files, one by one", measures.one_by_one)
    rows += _format_files_row("small files, in batches", measures.batches)
    rows += _format_files_row("the same again", measures.batches_again)
    if measures.one_byte_each is not None:
        rows.append(("one byte of each of them", f"{format_rate(measures.one_byte_each.files_per_s)} files/s", ""))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{what:{widths[0]}}  {rate:>{widths[1]}}  {more}".rstrip() for what, rate, more in rows)


def _format_bytes_row(what: str, reading: Pass | None) -> list[tuple[str, str, str]]:
    if reading is None:
        return []
    return [(what, f"{format_rate(reading.mb_per_s)} MB/s", f"{reading.cpu_share:.0%} of a core")]


def _format_files_row(what: str, reading: Pass | None) -> list[tuple[str, str, str]]:
    if reading is None:
        return []
    more = f"{format_rate(reading.mb_per_s)} MB/s, the first after {format_seconds(reading.first_s)}"
    return [(what, f"{format_rate(reading.files_per_s)} files/s", f"{more}, {reading.cpu_share:.0%} of a core")]
