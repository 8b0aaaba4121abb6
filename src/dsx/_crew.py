"""Threads that nobody has to wait for, and what they are given to do."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from dsx.manifest import ManifestEntry


class Crew:
    """A few threads that do the same with whatever they are given; they begin when there is something to do.

    Daemons, not a pool: after Ctrl-C nobody shall wait for a thread that waits for a silent hub.

    Args:
        most: How many threads there are, at most.
        work: What they do.
        stop: When it is set, nothing more is begun; it is set when one of them fails.
    """

    def __init__(self, most: int, work: Callable[[ManifestEntry], None], stop: threading.Event) -> None:
        self._most = most
        self._work = work
        self._stop = stop
        self._queue: queue.SimpleQueue[ManifestEntry | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._crash: BaseException | None = None

    def put(self, entry: ManifestEntry) -> None:
        """Give them one more."""
        self._queue.put(entry)
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._run, name=f"dsx-get-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait_below(self, count: int) -> None:
        """Wait until fewer than ``count`` are waiting."""
        while self._queue.qsize() >= count and not self._stop.is_set():
            self._stop.wait(0.05)

    def finish(self) -> None:
        """Wait until all is done, and raise what one of them failed with."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        if self._crash is not None:
            raise self._crash

    def abandon(self, deadline: float) -> None:
        """Let them end, and wait for that until ``deadline``, by the monotonic clock."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        try:
            while (entry := self._queue.get()) is not None:
                if not self._stop.is_set():
                    self._work(entry)
        except BaseException as error:  # noqa: BLE001 -- the outermost door of a thread: finish() raises it
            self._crash = error
            self._stop.set()
