"""What the transfers of long entries from one hub share: how much they have in flight, how many requests, how long.

A long entry is fetched in ranges. Their bytes come together in memory until it is their turn, so all transfers of a
client take them from one budget. How long a range is follows from what one request brings in a second; how many there
are, from what the hub puts up with.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

BUDGET_BYTES = 48 * 1024**2
"""How many bytes of ranges may be on their way or waiting for their turn, of all transfers together."""

MOST_REQUESTS = 8
"""How many ranges are asked for at once, of all transfers together, as long as the hub does not refuse any."""

FIRST_RANGE_BYTES = 2 * 1024**2
LEAST_RANGE_BYTES = 1024**2
MOST_RANGE_BYTES = 16 * 1024**2

RANGE_S = 1.0
"""How long one range is to take, in s: what has come of those behind a broken one is lost with the process."""

GROWTH = 2.0
"""A range is at most so many times as long as those before: one may have been quick by chance."""

PEACE_RANGES = 32
"""After so many ranges without a refusal one more is asked for at once."""

POLL_S = 0.25


class Link:
    """What is in flight from one hub to this process. Threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held_bytes = 0
        self._requests = 0
        self._most_requests = MOST_REQUESTS
        self._in_peace = 0
        self._range_bytes = float(FIRST_RANGE_BYTES)

    @property
    def range_bytes(self) -> int:
        """How long the next range should be, in bytes."""
        return int(self._range_bytes)

    def take(self, left: int, *, is_needed: bool) -> int:
        """Take room for the next range of a transfer.

        Args:
            left: How many bytes it has still to ask for.
            is_needed: Whether it has no other under way. It gets a short one then, whatever the others have.

        Returns:
            How many bytes the range is to have; 0 when there is no room.
        """
        with self._changed:
            size = self.range_bytes
            if left < size + LEAST_RANGE_BYTES:
                size = left
            if self._held_bytes + size > BUDGET_BYTES:
                size = min(left, LEAST_RANGE_BYTES) if is_needed else 0
            self._held_bytes += size
            return size

    def hold(self, size: int) -> None:
        """Take room for a range that is on its way already."""
        with self._changed:
            self._held_bytes += size

    def give_back(self, size: int) -> None:
        """Give back the room of a range."""
        with self._changed:
            self._held_bytes -= size

    @contextmanager
    def request(self, stop: threading.Event) -> Iterator[None]:
        """Wait until one more request may be made, and count it while the block runs; `stop` ends the wait."""
        with self._changed:
            while self._requests >= self._most_requests and not stop.is_set():
                self._changed.wait(POLL_S)
            self._requests += 1
        try:
            yield
        finally:
            with self._changed:
                self._requests -= 1
                self._changed.notify()

    def note_refusal(self) -> None:
        """The hub has too much to do: ask for fewer ranges at once."""
        with self._changed:
            self._most_requests = max(1, min(self._most_requests, self._requests) // 2)
            self._in_peace = 0

    def note_range(self, size: int, seconds: float) -> None:
        """A range of ``size`` bytes has come in ``seconds`` without being broken."""
        with self._changed:
            if size >= LEAST_RANGE_BYTES:  # less, the end of an entry, says little
                due = min(size / max(seconds, 1e-6) * RANGE_S, self._range_bytes * GROWTH)
                self._range_bytes = max(LEAST_RANGE_BYTES, min(due, MOST_RANGE_BYTES))
            self._in_peace += 1
            if self._in_peace >= PEACE_RANGES:
                self._in_peace = 0
                self._most_requests = min(MOST_REQUESTS, self._most_requests + 1)
                self._changed.notify()
