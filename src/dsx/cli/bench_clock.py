"""The clock of one measurement: how long it takes, how long it may, and how much this process computes meanwhile."""

from __future__ import annotations

import time

from dsx.cli.bench_measures import Pass


class Clock:
    """Runs from when it is made.

    Args:
        limit_s: After so long, in s, the measurement shall end.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._began_s = time.perf_counter()
        self._computed_s = time.process_time()

    @property
    def elapsed_s(self) -> float:
        """How long it runs, in s."""
        return time.perf_counter() - self._began_s

    @property
    def left_s(self) -> float:
        """How long the measurement may go on, in s; below 0 when it has taken too long."""
        return self._limit_s - self.elapsed_s

    def read(self, files: int, size: int, first_s: float = 0.0) -> Pass:
        """Return the pass that brought so many files and bytes until now."""
        cpu_s = time.process_time() - self._computed_s
        return Pass(files=files, bytes=size, seconds=self.elapsed_s, cpu_s=cpu_s, first_s=first_s)
