"""One way of calls through a manifest: what is learned of it, and what is held for it. No I/O, no lock."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque

from dsx._columns import DIGEST_BYTES, HASH_BYTES, NO_DIGEST
from dsx._pattern import Pattern
from dsx._transport import Answer
from dsx.manifest import Manifest, columns_of
from dsx.protocol.digests import HEAD_BYTES, head_hash

ENTRY_BYTES = 64
"""What an entry is counted as beside its bytes: empty ones are not held without end either."""

LONGEST_BYTES = 1024 * 1024
"""Entries that cost more than this, in bytes, are left to the call that wants them."""

PACE_S = 0.25
"""Over what time, in s, the pace of calls is measured, at least."""

OUT_OF_ORDER = 32
"""By how many calls one may be late when several threads make them."""


class Job:
    """Entries of one walk that are asked for together.

    Attributes:
        rows: Their rows in the manifest, by path.
        answer: The answer that is being read.
        is_stopped: Whether nobody wants it any more.
    """

    def __init__(self, rows: dict[str, int]) -> None:
        self.rows = rows
        self.answer: Answer | None = None
        self.is_stopped = False


class Walk:
    """The way of calls through the manifest of one dataset, and what is brought for them.

    Attributes:
        for_files: Whether the calls put files into the cache.
        pattern: What is learned of it.
        frontier: The last row that was looked at to be asked for ahead.
        look_from: The row that has to be reached before it is worth looking further.
        coming: Rows on their way, by path.
        ready: What has come, by path: row, bytes, and the time until which they may be used.
        order: Row and path of those, in the order that they are expected in; also of some that were taken.
        recent: Rows of the last calls: as many as one may be late by, or one.
        unsorted: Rows of calls that are not learned from yet, since an earlier one may come; a heap.
        waiting: How many calls wait for a path.
        jobs: What is under way.
        is_off: Whether the hub does not give what this manifest names.
    """

    def __init__(self, dataset: str, manifest: Manifest, *, for_files: bool) -> None:
        self.dataset = dataset
        self.manifest = manifest
        self.for_files = for_files
        self.pattern = Pattern(manifest)
        self.frontier = self.look_from = -1
        self.coming: dict[str, int] = {}
        self.ready: dict[str, tuple[int, bytes, float]] = {}
        self.order: deque[tuple[int, str]] = deque()
        self.recent: deque[int] = deque(maxlen=1)
        self.unsorted: list[int] = []
        self.waiting: dict[str, int] = {}
        self.jobs: list[Job] = []
        self.is_off = False
        self._columns = columns_of(manifest)
        self._thread = threading.get_ident()
        self._taken = 0
        self._since = time.monotonic()
        self._pace = 0.0

    def cost_of(self, row: int) -> int:
        """Return how many bytes an entry is counted as."""
        return self._columns.sizes[row] + ENTRY_BYTES

    def is_right(self, row: int, data: bytes) -> bool:
        """Tell whether these bytes are what the manifest names."""
        columns = self._columns
        if len(data) != columns.sizes[row]:
            return False
        digest = columns.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
        if digest not in (b"", NO_DIGEST):
            return hashlib.sha256(data).digest() == digest
        return head_hash(data) == columns.hashes[row * HASH_BYTES : (row + 1) * HASH_BYTES].hex()

    def is_told(self, row: int) -> bool:
        """Tell whether `is_right` can be sure by itself, so that the hub need not hold the entry against its row."""
        columns = self._columns
        return columns.sizes[row] <= HEAD_BYTES or columns.read_digest(row) is not None

    def note_thread(self) -> bool:
        """Tell whether only one thread has made calls, so that they come in order."""
        if self.recent.maxlen == 1 and threading.get_ident() != self._thread:
            self.recent = deque(self.recent, OUT_OF_ORDER)
        return self.recent.maxlen == 1

    def note_taken(self, size: int) -> None:
        """Count bytes that a call has got."""
        self._taken += size

    def measure_pace(self) -> float:
        """Return how many bytes a second calls have got lately."""
        elapsed_s = time.monotonic() - self._since
        if elapsed_s > PACE_S or (not self._pace and elapsed_s):
            self._pace = self._taken / elapsed_s
            self._taken = 0
            self._since += elapsed_s
        return self._pace

    def choose(self, room: int, most_entries: int) -> dict[str, int]:
        """Choose what to ask for next, by path: rows that cost so many bytes together."""
        rows: dict[str, int] = {}
        for row, path in self.pattern.iter_expected(max(self.frontier, self.pattern.row, *self.unsorted)):
            if path is not None and self.cost_of(row) <= LONGEST_BYTES:
                room -= self.cost_of(row)
                if room < 0 or len(rows) >= most_entries:
                    return rows
                rows[path] = row
            self.frontier = row
        if not rows:
            self.look_from = self.frontier
        return rows
