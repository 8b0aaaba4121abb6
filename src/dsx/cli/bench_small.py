"""``dsx bench``: small files, one by one and in batches, read for the first time and again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from dsx import DatasetHubClient
from dsx._transport import Transport, quote_path
from dsx.cli.bench_clock import Clock
from dsx.cli.bench_measures import Pass
from dsx.manifest import Manifest, columns_of
from dsx.order import Order

SEED = 0

MOST_SAMPLED = 65_536
MOST_ANSWERS = 60
MOST_ONE_BY_ONE = 300
"""How many files are read at most, in all, for the beginning of the answer, and one by one."""

FIRST_FILES = 64
"""How many files the first chunk of `read_growing` has, at most."""

GROWTH = 4.0
"""A chunk has so many times the files of the one before, at most."""

ENOUGH_SHARE = 0.25
"""A chunk that took this share of the time is long enough to tell."""

OVERTIME = 2.0
"""What takes so many times as long as it may is cut off, wherever it is."""


class Sample(NamedTuple):
    """Paths of small files in random order, as far as there are enough no path in two of the lists.

    Attributes:
        answers: For the time to the beginning of the answer.
        one_by_one: For calls for one file.
        batches: For calls for many.
    """

    answers: list[str]
    one_by_one: list[str]
    batches: list[str]


def pick_sample(manifest: Manifest, most_bytes: int) -> Sample:
    """Pick small files, the same ones each time.

    Args:
        manifest: What there is.
        most_bytes: No file is larger than this, in bytes.
    """
    rows = [row for row, size in enumerate(columns_of(manifest).sizes) if size <= most_bytes]
    numbers = Order(len(rows), seed=SEED).take(range(min(len(rows), MOST_SAMPLED)))
    names = manifest.paths
    paths = [names[rows[number]] for number in numbers]
    first = min(MOST_ANSWERS, -(-len(paths) // 10))
    second = first + min(MOST_ONE_BY_ONE, len(paths) // 4)
    one_by_one = paths[first:second] or paths[:first]
    return Sample(paths[:first], one_by_one, paths[second:] or paths)


def time_answers(transport: Transport, dataset: str, paths: Sequence[str], limit_s: float) -> list[float]:
    """Return how long each answer took to begin, in ms; of as many files as there is time for, at least one.

    A hub reads a small file before it begins to answer. So this is a round trip and what the hub does for the file, its
    disk included, however slowly the bytes come then.

    Args:
        transport: The hub.
        dataset: Name of the dataset.
        paths: The files.
        limit_s: How long, in s, files are asked for.
    """
    clock = Clock(limit_s)
    durations_ms: list[float] = []
    for path in paths:
        began = time.perf_counter()
        url = f"/file/{quote_path(dataset, path)}"
        with transport.open("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
            durations_ms.append(1000 * (time.perf_counter() - began))
            for _ in answer.iter_blocks():
                pass  # read to its end, so that the connection is used again
        if clock.left_s < 0:
            break
    return durations_ms


def read_one_by_one(client: DatasetHubClient, dataset: str, paths: Sequence[str], limit_s: float) -> Pass:
    """Read files with a call for each, as many as there is time for, at least one."""
    clock = Clock(limit_s)
    files = size = 0
    first_s = 0.0
    for path in paths:
        size += len(client.get_file_bytes(dataset, path))
        files += 1
        first_s = first_s or clock.elapsed_s
        if clock.left_s < 0:
            break
    return clock.read(files, size, first_s)


def read_growing(
    client: DatasetHubClient, dataset: str, paths: Sequence[str], first_files: int, limit_s: float
) -> tuple[Pass, list[str]]:
    """Read files in chunks, each of them to its end, until one is long enough to tell; return that one, and its paths.

    What an iterator has asked for and not yielded is not known here. A chunk that is read to its end has no such bytes,
    and how long the next one may be follows from it, however slow the link or the disk.

    Args:
        client: The hub.
        dataset: Name of the dataset.
        paths: The files, at least one.
        first_files: How many the first chunk has.
        limit_s: How long, in s, all chunks may take.
    """
    clock = Clock(limit_s)
    begun, count = 0, first_files
    best: tuple[Pass, list[str]] | None = None
    while True:
        chunk = list(paths[begun : begun + count])
        done = read_batches(client, dataset, chunk, limit_s)
        begun += len(chunk)
        if best is None or done.files >= best[0].files:
            best = done, chunk[: done.files]
        left = len(paths) - begun
        growth = min(GROWTH, clock.left_s / done.seconds)
        if not left or growth < 1 or done.seconds >= limit_s * ENOUGH_SHARE:
            return best
        count = int(len(chunk) * growth)
        if left < 1.5 * count:
            count = left


def read_batches(client: DatasetHubClient, dataset: str, paths: Sequence[str], limit_s: float) -> Pass:
    """Read files in batches, all of them unless that takes `OVERTIME` times as long as it may."""
    clock = Clock(limit_s * OVERTIME)
    files = size = 0
    first_s = 0.0
    with closing(client.iter_file_bytes(dataset, paths)) as pairs:
        for _, data in pairs:
            files += 1
            size += len(data)
            first_s = first_s or clock.elapsed_s
            if clock.left_s < 0:
                break
        return clock.read(files, size, first_s)


def read_one_byte_each(client: DatasetHubClient, dataset: str, paths: Sequence[str]) -> Pass:
    """Read the first byte of each file, in batches."""
    clock = Clock(0)
    read = client.read_ranges(dataset, [(path, 0, 1) for path in paths])
    return clock.read(len(read), sum(map(len, read)))
