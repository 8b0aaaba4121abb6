"""How much memory batches may take, whatever their number and however slowly they are read."""

from __future__ import annotations

import asyncio
from collections import deque

from dsx_server.problems import ProblemError

BUDGET_BYTES = 128 * 1024 * 1024
"""For all batches of one process: what is read and not sent, and the requests themselves, in bytes."""

AHEAD_SHARE = 0.5
"""Up to this share of the budget a batch may read ahead of what it sends."""

ADMITTED_SHARE = 0.75
"""Up to this share a new batch is let in. The rest is for the next block of each that is: none waits for ever."""

RETRY_AFTER_S = 1


class ByteBudget:
    """Bytes that batches hold, counted. For one event loop.

    Args:
        limit: How many there may be.

    Attributes:
        used: How many there are.
    """

    def __init__(self, limit: int = BUDGET_BYTES) -> None:
        self.used = 0
        self._limit = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def is_tight(self) -> bool:
        """Whether nobody should hold more than has to be."""
        return self.used > self._limit * AHEAD_SHARE

    def admit(self, size: int) -> None:
        """Take bytes for a batch that has not begun.

        Raises:
            ProblemError: There are too few: the client shall come again.
        """
        if self._waiting or self.used + size > self._limit * ADMITTED_SHARE:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            raise ProblemError("busy", "the hub is sending as many batches as its memory allows; try again", headers)
        self.used += size

    def take_ahead(self, size: int) -> bool:
        """Take bytes to read ahead, if there are plenty; tell whether they were taken."""
        if self._waiting or self.used + size > self._limit * AHEAD_SHARE:
            return False
        self.used += size
        return True

    async def take(self, size: int) -> None:
        """Take bytes, as soon as they are there and those who came before have theirs."""
        if not self._waiting and self.used + size <= self._limit:
            self.used += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        self.used -= size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if self.used + wanted > self._limit:
                    return
                self.used += wanted
                turn.set_result(None)
            self._waiting.popleft()


class Share:
    """What one batch holds of a budget for as long as it lasts; `close` it when done."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = 0

    def resize(self, size: int) -> None:
        """Hold ``size`` bytes instead.

        Raises:
            ProblemError: There are too few: the client shall come again.
        """
        if size > self.size:
            self._budget.admit(size - self.size)
        else:
            self._budget.give_back(self.size - size)
        self.size = size

    def close(self) -> None:
        """Give back what is held."""
        self.resize(0)
