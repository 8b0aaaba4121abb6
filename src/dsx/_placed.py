"""Samples that all lie in the cache: read as local files are, without a question to the ledger for each.

What a process has once found in the ledger it remembers, a number for each row. A file is read if its size and its time
are still those; whatever is not comes the way of other samples.
"""

from __future__ import annotations

import os
import stat
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import chain, islice

from dsx._ahead import Ahead
from dsx._batch import Result
from dsx._cache import Cache
from dsx._quota import RENEWED_AFTER_S, note_use
from dsx._reads import Read
from dsx.manifest import Manifest, ManifestEntry, columns_of

ASKED_AT_ONCE = 500
"""So many entries one question to the ledger is about."""

_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Placed:
    """Knows which entries of one manifest are in the cache. Threads may share it.

    Args:
        cache: The cache.
        dataset: Name of the dataset.
        manifest: The whole manifest.
    """

    def __init__(self, cache: Cache, dataset: str, manifest: Manifest) -> None:
        self._cache = cache
        self._dataset = dataset
        self._columns = columns_of(manifest)
        self._prefix = os.fsencode(cache.layout.find_prefix(cache.root, dataset))
        self._times = array("q", bytes(8 * len(manifest)))

    def covers(self, rows: Sequence[int]) -> bool:
        """Tell whether the ledger vouches for all these rows; asked before a pass."""
        times = self._times
        unknown = (row for row in rows if not times[row])
        while some := list(islice(unknown, ASKED_AT_ONCE)):
            if not self._ask(some):
                return False
        return True

    def _ask(self, rows: Sequence[int]) -> bool:
        entries = [ManifestEntry._make(self._columns.read_row(row)) for row in rows]
        parts = self._cache.parts
        records = parts.ledger.get_many(self._dataset, [entry.path for entry in entries])
        for row, entry in zip(rows, entries, strict=True):
            record = records.get(entry.path)
            if record is None or not record.is_entry(entry) or not parts.is_vouched(self._dataset, entry.path, record):
                return False
            self._times[row] = record.mtime_ns
        return True

    def read(self, row: int, used_before: float) -> tuple[bytes, bytes | None]:
        """Return the path of a row and its bytes; None for these when its file is no longer what it was.

        Args:
            row: The row.
            used_before: A file that was used earlier, by the wall clock in s, is noted to be used now.
        """
        size, path = self._columns.sizes[row], self._columns.read_path(row)
        try:
            descriptor = os.open(self._prefix + path, _FLAGS)
        except OSError:
            self._times[row] = 0
            return path, None
        data = b""
        try:
            status = os.fstat(descriptor)
            if status.st_mtime_ns == self._times[row] and status.st_size == size and stat.S_ISREG(status.st_mode):
                data = os.read(descriptor, size + 1)
                while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                    data += more
                if len(data) == size:
                    if status.st_atime < used_before:
                        note_use(descriptor, status)
                    return path, data
        except OSError:
            pass
        finally:
            os.close(descriptor)
        self._times[row] = 0
        return path, None


class Nearby:
    """Reads samples of which all are in the cache, in the place of what reads ahead.

    Args:
        placed: Where they are.
        rows: The row of each sample.
        numbers: Which samples, in order.
        otherwise: Brings samples from the first on that is not there any more.
    """

    def __init__(
        self, placed: Placed, rows: Sequence[int], numbers: Iterable[int], otherwise: Callable[[Iterator[int]], Ahead]
    ) -> None:
        self._placed = placed
        self._rows = rows
        self._numbers = iter(numbers)
        self._otherwise = otherwise

    def take(self) -> Generator[tuple[Read, Result], None, None]:
        """Yield what was to be read and its bytes, in order."""
        read, rows = self._placed.read, self._rows
        used_before = time.time() - RENEWED_AFTER_S
        for number in self._numbers:
            path, data = read(rows[number], used_before)
            if data is None:
                yield from self._otherwise(chain([number], self._numbers)).take()
                return
            yield Read(path.decode()), data
