"""Keeps a cache folder under its limit: the least recently used of what the SDK has put there makes room.

There is no daemon and no list of uses. The access time of a file says until when it is kept: a stream that reads it
sets that to now, a call that hands out its path to ten minutes from now. What is oldest goes first, and nothing whose
time is still to come. A dataset that was downloaded as a whole has one such time for all its files, that of a file in
``.dsx/held``.

Processes that share a folder agree through the ledger. Whoever removes a file first has the ledger no longer vouch for
it, then looks at its time once more; whoever hands one out first sets its time, then asks the ledger. So one of the two
sees the other. Sizes are added up by the ledger, in the transaction that enters new files: however many processes
write, together they stay under the limit.
"""

from __future__ import annotations

import functools
import heapq
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dsx._ledger import Ledger, OverLimitError, Record
from dsx.errors import CacheError
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

HELD_S = 600
"""How long, in s, a path that was handed out is kept: the user's figure, ten minutes."""

RENEWED_AFTER_S = 60
"""A time that is younger than this, in s, is not set anew; a held path gets so much more, and is kept long enough."""

KNOWN = 20_000
"""So many of the oldest files are found by one look at all of them."""

PAGE = 5000
GROUP = 256
"""So many files are removed in one transaction."""

LOOKS = 2
"""So often all files are looked at for one need: what the first look found may be gone, or in use meanwhile."""

SPARE_PART = 32
SPARE_BYTES = 64 * 1024 * 1024
"""Beside what is needed, a part of the limit is freed, but at most this, in bytes: room for the next ones."""


class _Old(NamedTuple):
    """A file that may go."""

    kept_until_ns: int
    dataset: str
    path: str
    size: int
    mtime_ns: int


class Entered(NamedTuple):
    """What became of records that were to be written.

    Attributes:
        taken: The paths that another dataset has, with its name; their records were not written.
        errors: The paths for which there is no room, with what to do.
    """

    taken: dict[str, str]
    errors: dict[str, CacheError]


def hold_file(file: str | os.PathLike[str]) -> None:
    """Keep a file for the time that a path handed out is good for, if it is there; asked before the ledger is."""
    try:
        status = os.stat(file)
        now_ns = time.time_ns()
        if status.st_atime_ns < now_ns + HELD_S * 10**9:
            os.utime(file, ns=(now_ns + (HELD_S + RENEWED_AFTER_S) * 10**9, status.st_mtime_ns))
    except OSError:
        pass  # not there, or somebody else's: neither is ever removed


def note_use(descriptor: int, status: os.stat_result) -> None:
    """Note that an open file is read now."""
    now_ns = time.time_ns()
    if status.st_atime_ns < now_ns - RENEWED_AFTER_S * 10**9 and os.utime in os.supports_fd:
        try:
            os.utime(descriptor, ns=(now_ns, status.st_mtime_ns))
        except OSError:
            pass  # somebody else's, or a disk that takes no writes


class Quota:
    """Removes what was not used for longest. Threads may share it.

    Args:
        ledger: What the SDK has published.
        root: The folder.
        find_prefix: Gives what comes before the path of an entry of a dataset.
        limit_bytes: How many bytes the entries may have together; None for any number.
        is_shared: Whether files of other datasets may have the same names.
    """

    def __init__(
        self, ledger: Ledger, root: Path, find_prefix: Callable[[str], str], limit_bytes: int | None, *, is_shared: bool
    ) -> None:
        self._ledger = ledger
        self._root = root
        self._find_prefix = functools.cache(find_prefix)
        self._holds = root / ".dsx" / "held"
        self._limit_bytes = limit_bytes
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._oldest: deque[_Old] = deque()

    def enter(self, dataset: str, records: Mapping[str, Record]) -> Entered:
        """Write the records of files that are about to get their names; what was not used for longest makes room."""
        limit = self._limit_bytes
        if limit is None:
            return Entered(self._ledger.enter(dataset, records, is_shared=self._is_shared), {})
        entered = Entered({}, {})
        count = sum(record.size for record in records.values())
        is_small = count <= limit // SPARE_PART  # a group that is not may need more room than there is at once
        for group in (records,) if is_small else ({path: record} for path, record in records.items()):
            entered.taken.update(self._enter(dataset, group, limit, entered.errors))
        return entered

    def _enter(
        self, dataset: str, records: Mapping[str, Record], limit: int, errors: dict[str, CacheError]
    ) -> dict[str, str]:
        count = sum(record.size for record in records.values())
        try:
            self.check_fits(count, f"{shown(next(iter(records), ''))} of dataset {shown(dataset)}")
        except CacheError as error:
            errors.update(dict.fromkeys(records, error))
            return {}
        while True:
            try:
                return self._ledger.enter(dataset, records, is_shared=self._is_shared, limit=limit)
            except OverLimitError as over:
                if self.free(over.excess, spare=min(limit // SPARE_PART, SPARE_BYTES)) < over.excess:
                    errors.update(dict.fromkeys(records, self._describe_full(self._ledger.count_bytes() + count)))
                    return {}

    def check_fits(self, count: int, what: str) -> None:
        """Make sure that ``count`` bytes can be in this folder at all.

        Raises:
            CacheError: They are more than its limit; the message has the number needed.
        """
        if self._limit_bytes is not None and count > self._limit_bytes:
            raise CacheError(
                f"{what} has {count} bytes, and the cache {self._root} is limited to {self._limit_bytes}; "
                f"set cache_limit_bytes or DSX_CACHE_LIMIT to {count} or more, or read it without the cache"
            )

    def _describe_full(self, needed: int) -> CacheError:
        return CacheError(
            f"the cache {self._root} is full: {self._limit_bytes} bytes are its limit, and what was handed out within "
            f"the last {HELD_S // 60} minutes is kept; set cache_limit_bytes or DSX_CACHE_LIMIT to {needed} or more, "
            "or read with get_file_bytes() or stream()"
        )

    def hold_dataset(self, dataset: str) -> None:
        """Keep all files of a dataset for the time that a path handed out is good for."""
        file = self._holds / dataset
        now_ns = time.time_ns()
        if self._read_hold(dataset) < now_ns + HELD_S * 10**9:
            self._holds.mkdir(exist_ok=True)
            file.touch()
            until_ns = now_ns + (HELD_S + RENEWED_AFTER_S) * 10**9
            os.utime(file, ns=(until_ns, until_ns))

    def free(self, count: int, *, spare: int = 0) -> int:
        """Remove files until at least ``count`` bytes are gone; return how many are, fewer when the rest is in use.

        Args:
            count: How many bytes are needed.
            spare: At most so many more are removed where that is possible.
        """
        freed = removed = looks = 0
        with self._lock:
            while freed < count or (removed and self._oldest):
                group = self._take_group(count - freed, spare)
                if group:
                    gone = self._remove(group)
                    freed += sum(old.size for old in gone)
                    removed += len(gone)
                elif freed >= count or looks == LOOKS:
                    break
                else:
                    looks += 1
                    self._look()
        if removed:
            log.debug("%d files with %d bytes made room in the cache", removed, freed)
        return freed

    def _read_hold(self, dataset: str) -> int:
        try:
            return os.stat(self._holds / dataset).st_mtime_ns
        except OSError:
            return 0

    def _take_group(self, needed: int, spare: int) -> list[_Old]:
        """Return the next few that are to go, none when what is needed is there and the next one is more than spare."""
        group: list[_Old] = []
        while self._oldest and len(group) < GROUP:
            size = self._oldest[0].size
            if needed <= 0 and size > needed + spare:
                break
            group.append(self._oldest.popleft())
            needed -= size
        return group

    def _look(self) -> None:
        """Find the files that were not used for longest."""
        self._oldest = deque(heapq.nsmallest(KNOWN, self._iter_removable()))

    def _iter_removable(self) -> Iterator[_Old]:
        after = ("", "")
        holds: dict[str, int] = {}
        now_ns = time.time_ns()
        while rows := self._ledger.list_some_ours(after, PAGE):
            after = rows[-1][:2]
            for dataset, path, size, mtime_ns in rows:
                if dataset not in holds:
                    holds[dataset] = self._read_hold(dataset)
                until_ns = max(holds[dataset], self._read_time(dataset, path, mtime_ns))
                if until_ns <= now_ns:
                    yield _Old(until_ns, dataset, path, max(size, 0), mtime_ns)

    def _read_time(self, dataset: str, path: str, mtime_ns: int) -> int:
        """Return until when a file is kept, ns; one that is not the ledger's is somebody's, or on its way."""
        try:
            status = os.lstat(self._find_prefix(dataset) + path)
        except (OSError, ValueError):
            return mtime_ns + HELD_S * 10**9  # not there: on its way for a while, and then removed by somebody
        if mtime_ns not in (0, status.st_mtime_ns):
            return max(status.st_mtime_ns, time.time_ns()) + HELD_S * 10**9
        return status.st_atime_ns

    def _remove(self, group: list[_Old]) -> list[_Old]:
        by_file = {(old.dataset, old.path, old.mtime_ns): old for old in group}
        self._ledger.doubt(by_file)
        begun_ns = time.time_ns()
        holds = {dataset: self._read_hold(dataset) for dataset in {old.dataset for old in group}}

        def remove(dataset: str, path: str, mtime_ns: int) -> bool:
            if max(holds[dataset], self._read_time(dataset, path, mtime_ns)) > begun_ns:
                return False
            try:
                os.unlink(self._find_prefix(dataset) + path)  # noqa: PTH108 -- a name is all that is known of each
            except FileNotFoundError:
                return True
            except OSError:  # open on a system that keeps open files, or a folder now
                return False
            return True

        return [by_file[file] for file in self._ledger.remove_doubted(list(by_file), remove)]
