"""The index for coroutines: nobody waits in a thread for somebody else's scan.

At most two scans of a dataset are of interest at a time: the one under way, and the next, which begins after it and
answers all who have asked meanwhile. They have threads of their own, so that a slow disk holds up its own dataset only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

from dsx.errors import HubUnavailableError
from dsx.protocol.text import shown
from dsx_server.index.index import Index, Known
from dsx_server.index.revisions import RevisionInfo

QUICK_SCAN_S = 0.1
"""A dataset that is scanned in this time, in s, is scanned for every question: the answer is what is there now.

Of a larger one the answer is the newest revision; watching, or the next scan, brings it up to date."""

FRESH_WITHIN_S = 1.0
"""How long, in s, a request waits for a scan before it is answered from the newest revision published."""

FIRST_SCAN_S = 10.0
"""How long, in s, it waits when there is none yet."""

RETRY_AFTER_S = 2.0

SCAN_THREADS = 16
READ_THREADS = 8

P = ParamSpec("P")
T = TypeVar("T")


class FirstScanError(HubUnavailableError):
    """A dataset is being looked at for the first time; it is worth asking again.

    Attributes:
        entries: How many entries were found so far.
    """

    def __init__(self, dataset: str, entries: int) -> None:
        super().__init__(f"dataset {shown(dataset)} is being scanned for the first time: {entries} entries so far")
        self.entries = entries
        self.retry_after_s = RETRY_AFTER_S

    def __reduce__(self) -> tuple[type[HubUnavailableError], tuple[str]]:
        return HubUnavailableError, (str(self),)


class Scans(Protocol):
    """Whoever scans: the keeper of this process, or that of another."""

    def refresh(self, dataset: str) -> None:
        """Scan a dataset, and return when that is published; see `Keeper.refresh`."""

    def count_scanned(self, dataset: str) -> int | None:
        """Return how many entries the scan under way has found so far; None when there is none."""

    def note_damaged(self) -> None:
        """The index was found damaged, and is to be made anew."""


class WaitingRoom:
    """Gives coroutines what an `Index` knows."""

    def __init__(self, index: Index, scans: Scans) -> None:
        self.index = index
        self._scans = scans
        self._scan_threads = ThreadPoolExecutor(SCAN_THREADS, thread_name_prefix="dsx-wait")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="dsx-index")
        self._current: dict[str, asyncio.Task[None]] = {}
        self._next: dict[str, asyncio.Task[None]] = {}

    async def load(self, dataset: str, *, patience_s: float = FIRST_SCAN_S) -> RevisionInfo:
        """Return the newest revision.

        Of a dataset that is quickly scanned, it comes from a scan that begins after this call. Of another it is the
        newest revision published.

        Args:
            dataset: Name of the dataset.
            patience_s: How long to wait, in s, when none was published yet.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read.
            FirstScanError: The dataset's first scan has not ended yet.
        """
        known = await self.run(self.index.find_known, dataset)
        usable = _find_usable(known)
        if usable is not None and usable.scan_s > QUICK_SCAN_S:
            return usable
        scan = self._begin(dataset)
        done, _ = await asyncio.wait([scan], timeout=FRESH_WITHIN_S)
        if not done and usable is not None:
            return usable
        if not done:
            done, _ = await asyncio.wait([scan], timeout=max(0.0, patience_s - FRESH_WITHIN_S))
        if not done:
            raise FirstScanError(dataset, await self.count_scanned(dataset) or 0)
        scan.result()
        newest = await self.run(self.index.find_newest, dataset)
        if newest is None:
            raise RuntimeError(f"dataset {dataset!r} was scanned and has no revision")
        return newest

    async def count_scanned(self, dataset: str) -> int | None:
        """Return how many entries the scan under way has found so far; None when there is none."""
        return await self.run(self._scans.count_scanned, dataset)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``call``, which may block but for a short time, returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_threads, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Begin no more work."""
        self._scan_threads.shutdown(wait=False, cancel_futures=True)
        self._read_threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, dataset: str) -> asyncio.Task[None]:
        scan = self._next.get(dataset)
        if scan is None:
            scan = self._next[dataset] = asyncio.ensure_future(self._scan(dataset))
            scan.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits any more
        return scan

    async def _scan(self, dataset: str) -> None:
        before = self._current.get(dataset)
        if before is not None:
            await asyncio.wait([before])
        # From here on whoever asks wants a later scan.
        task = self._current[dataset] = self._next.pop(dataset)
        try:
            await asyncio.get_running_loop().run_in_executor(self._scan_threads, self._scans.refresh, dataset)
        finally:
            if self._current.get(dataset) is task:
                del self._current[dataset]


def _find_usable(known: Known) -> RevisionInfo | None:
    """Return the newest revision if it can be believed without a look at the folder."""
    return known.newest if known.failure is None and known.is_same_folder else None
