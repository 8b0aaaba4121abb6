"""Many small things that may each wait for a disk: one after another while it is quick, several at once when not.

A cold NAS answers 16 requests in the time of one. A warm local disk answers in two microseconds, and there threads
would only hand the interpreter to and fro. So the things are timed, threads are tried where they are slow, and kept
where they help.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
CHUNK = 16
"""How many things one thread does at once, at most; fewer where otherwise threads would have nothing to do."""

BLOCK = 512
"""How many things are begun together."""

JUDGED_S = 0.05
"""The pace is judged after so much time, in s: by the mean, since a single thing may have been interrupted."""

SLOW_S = 200e-6
"""Where a thing takes longer than this, in s, threads are tried."""

GAIN = 1.5
"""They are kept when they are so many times as fast."""


class Crew:
    """Does the small things of one walk; leave its context to let its threads go.

    Attributes:
        is_slow: Whether threads are at work.
    """

    def __init__(self) -> None:
        self.is_slow = False
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dsx-disk")
        self._things = 0
        self._elapsed_s = 0.0
        self._alone_s = 0.0
        self._may_try = True

    def map(self, work: Callable[[Sequence[T]], list[R]], things: Sequence[T]) -> Iterator[R]:
        """Yield what ``work`` makes of every thing, in order.

        Args:
            work: Takes some of the things, and returns as many results.
            things: All of them.
        """
        for start in range(0, len(things), BLOCK):
            block = things[start : start + BLOCK]
            began = time.perf_counter()
            done = self._do_at_once(work, block) if self.is_slow else work(block)
            self._judge(len(block), time.perf_counter() - began)
            yield from done

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _do_at_once(self, work: Callable[[Sequence[T]], list[R]], things: Sequence[T]) -> list[R]:
        size = min(CHUNK, -(-len(things) // THREADS))
        chunks = [things[at : at + size] for at in range(0, len(things), size)]
        return [result for results in self._threads.map(work, chunks) for result in results]

    def _judge(self, things: int, elapsed_s: float) -> None:
        """Decide whether threads are worth while."""
        self._things += things
        self._elapsed_s += elapsed_s
        if self._elapsed_s < JUDGED_S:
            return
        each_s = self._elapsed_s / self._things
        self._things, self._elapsed_s = 0, 0.0
        if self.is_slow:
            self.is_slow = self._may_try = each_s * GAIN < self._alone_s
        elif each_s > SLOW_S and self._may_try:
            self.is_slow = True
            self._alone_s = each_s
