"""Whether the hub is busy: work that nobody waits for is done while it is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

IDLE_AFTER_S = 1.0
"""The hub is idle when nothing was asked of it for so long, in s."""


class Activity:
    """Counts requests under way. Threads may share it.

    Args:
        on_busy: Told, at most once in `IDLE_AFTER_S`, that there is work: another process may want to know.
    """

    def __init__(self, on_busy: Callable[[], object] = bool) -> None:
        self._on_busy = on_busy
        self._lock = threading.Lock()
        self._under_way = 0
        self._last = self._told = float("-inf")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the body as a request."""
        with self._lock:
            self._under_way += 1
        self.note_busy()
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
            self.note_busy()

    def note_busy(self) -> None:
        """There is work at this moment."""
        now = self._last = time.monotonic()
        if now - self._told > IDLE_AFTER_S / 2:
            self._told = now
            self._on_busy()

    def is_idle(self) -> bool:
        """Tell whether nothing is asked of the hub."""
        return not self._under_way and time.monotonic() - self._last > IDLE_AFTER_S
