"""``dsx bench``: one long file, into memory and away, in ranges as the SDK fetches it, and as one plain answer."""

from __future__ import annotations

import hashlib
import threading
from contextlib import ExitStack, closing

from dsx._ranges import Begun, Ranges, Version, check_part
from dsx._retry import TRANSFER_S
from dsx._transport import BLOCK_BYTES, Transport
from dsx._wanted import Wanted
from dsx.cli.bench_clock import Clock
from dsx.cli.bench_measures import Pass


def read_in_ranges(transport: Transport, wanted: Wanted, limit_s: float, *, repeats: bool) -> Pass:
    """Read a file in several ranges at once, and hash it as it comes; all that has come counts, in order or not.

    Args:
        transport: The hub.
        wanted: The file; it is long.
        limit_s: How long, in s, is read.
        repeats: Whether it is read again as long as there is time.

    Raises:
        DsxError: It did not come.
    """
    clock = Clock(limit_s)
    files = size = 0
    while True:
        ranges, begun = _begin(transport, wanted)
        digest = hashlib.sha256()
        with closing(ranges.iter_blocks(0, begun)) as blocks:
            for block in blocks:
                digest.update(block)
                if clock.left_s < 0:
                    return clock.read(files, size + ranges.came_bytes)
            size += ranges.came_bytes
        files += 1
        if not repeats or clock.left_s < 0:
            return clock.read(files, size)


def _begin(transport: Transport, wanted: Wanted) -> tuple[Ranges, Begun]:
    """Ask for the first range, and return what asks for the others."""
    with ExitStack() as opened:
        headers = {"Range": f"bytes=0-{transport.link.range_bytes - 1}", "Accept-Encoding": "identity"}
        answer = opened.enter_context(transport.open("GET", wanted.url, headers=headers))
        _, stop, size = check_part(answer, wanted.name)
        version = Version(wanted.url, wanted.name, answer.headers.get("ETag", ""), size)
        ranges = Ranges(transport, version, TRANSFER_S, threading.Event())
        return ranges, Begun(answer, opened.pop_all(), stop)


def read_one_stream(transport: Transport, wanted: Wanted, limit_s: float) -> Pass:
    """Read a file in one answer, as any program would, again and again as long as there is time.

    Args:
        transport: The hub.
        wanted: The file; it is not empty.
        limit_s: How long, in s, is read.

    Raises:
        DsxError: It did not come.
    """
    clock = Clock(limit_s)
    files = size = 0
    while True:
        with transport.open("GET", wanted.url, headers={"Accept-Encoding": "identity"}) as answer:
            for block in answer.iter_arrivals(BLOCK_BYTES):
                size += len(block)
                if clock.left_s < 0:
                    return clock.read(files, size)
        files += 1
        if clock.left_s < 0:
            return clock.read(files, size)
