"""What one reading of many files took, measured in the process that reads. Imports little."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from cpu import measure_own_cpu_s
from memory import read_memory, reset_peak


class Tally:
    """Counts the files that come."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self.first: float | None = None

    def add(self, path: str, data: bytes) -> None:  # noqa: ARG002 -- `ExactTally` uses it
        """Take one file; ``path`` may be empty where it is not known."""
        self.files += 1
        self.bytes += len(data)
        if self.first is None:
            self.first = time.perf_counter()


class ExactTally(Tally):
    """Holds every file against the one that was served.

    Args:
        root: Folder of the dataset.

    Attributes:
        wrong: Paths of those that differ.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self._root = root

    def add(self, path: str, data: bytes) -> None:
        """Take one file and compare it."""
        super().add(path, data)
        if (self._root / path).read_bytes() != data:
            self.wrong.append(path)


Run: TypeAlias = Callable[[Tally], None]
"""Reads everything into a tally; what is made ready once in a process is made ready before."""


def measure_run(run: Run, tally: Tally) -> dict[str, Any]:
    """Run, and return what it took: times in s, memory in bytes above the level before."""
    gc.collect()
    before = reset_peak(os.getpid())
    cpu_s, began = measure_own_cpu_s(), time.perf_counter()
    run(tally)
    took_s = time.perf_counter() - began
    after = read_memory(os.getpid())
    return {
        "files": tally.files,
        "bytes": tally.bytes,
        "took_s": took_s,
        "first_s": None if tally.first is None else tally.first - began,
        "cpu_s": measure_own_cpu_s() - cpu_s,
        "memory": None if before is None or after is None else after.peak - before.rss,
        "wrong": getattr(tally, "wrong", []),
    }
