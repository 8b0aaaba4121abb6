"""The index for coroutines: nobody waits in a thread for somebody else's scan.

At most two scans of a dataset are of interest at a time: the one under way, and the next, which begins after it and
answers all who have asked meanwhile. They have threads of their own, so that a slow disk holds up its own dataset only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from dsx_server.index.index import Index
from dsx_server.index.revisions import RevisionInfo, Row

SCAN_THREADS = 4
READ_THREADS = 8

P = ParamSpec("P")
T = TypeVar("T")


class WaitingRoom:
    """Gives coroutines what an `Index` knows."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._scan_threads = ThreadPoolExecutor(SCAN_THREADS, thread_name_prefix="dsx-scan")
        self._read_threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="dsx-index")
        self._current: dict[str, asyncio.Task[tuple[RevisionInfo, list[Row]]]] = {}
        self._next: dict[str, asyncio.Task[tuple[RevisionInfo, list[Row]]]] = {}

    async def load(self, dataset: str) -> tuple[RevisionInfo, list[Row]]:
        """Return the newest revision and its rows, from a scan that begins after this call.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read.
        """
        scan = self._next.get(dataset)
        if scan is None:
            scan = self._next[dataset] = asyncio.ensure_future(self._scan(dataset))
            scan.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits any more
        return await asyncio.shield(scan)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``call``, which may block but for a short time, returns."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._read_threads, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Begin no more work, and close the index."""
        self._scan_threads.shutdown(wait=False, cancel_futures=True)
        self._read_threads.shutdown(wait=False, cancel_futures=True)
        self.index.close()

    async def _scan(self, dataset: str) -> tuple[RevisionInfo, list[Row]]:
        before = self._current.get(dataset)
        if before is not None:
            await asyncio.wait([before])
        # From here on whoever asks wants a later scan.
        task = self._current[dataset] = self._next.pop(dataset)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._scan_threads, self.index.load, dataset)
        finally:
            if self._current.get(dataset) is task:
                del self._current[dataset]
