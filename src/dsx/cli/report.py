"""What the demo's two processes tell each other, and the table of where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, Field


class Job(BaseModel):
    """What the training process is told on its standard input.

    Attributes:
        url: Where the hub is.
        api_key: The hub's key.
        dataset: Name of the dataset.
        cache_dir: Folder for downloaded files.
        report: File to write the `Report` to.
    """

    url: str
    api_key: str = Field(repr=False)
    dataset: str
    cache_dir: Path
    report: Path


class Step(BaseModel):
    """One thing done.

    Attributes:
        name: What was done.
        seconds: How long it took.
        files: How many files it handled; 0 where their number says nothing.
    """

    name: str
    seconds: float
    files: int = 0


class Report(BaseModel):
    """What the training process found.

    Attributes:
        accuracy: Share of the test files whose digit was recognised, from 0 to 1.
        steps: What it did, in order.
        error: Why it came to no end; empty if it did.
    """

    accuracy: float = 0.0
    steps: list[Step] = []
    error: str = ""


class Stopwatch:
    """Times steps.

    Attributes:
        steps: Those that have ended.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._start = time.perf_counter()

    @contextmanager
    def time(self, name: str, *, files: int = 0) -> Iterator[None]:
        """Time what happens in the ``with`` block, under ``name``."""
        start = time.perf_counter()
        yield
        self.steps.append(Step(name=name, seconds=time.perf_counter() - start, files=files))

    def elapsed_s(self) -> float:
        """Return the seconds since this stopwatch was made."""
        return time.perf_counter() - self._start


def format_table(steps: Sequence[Step], total_s: float) -> str:
    """Lay out steps in aligned columns: seconds, files, files per second; the last row is the whole.

    Args:
        steps: What was done.
        total_s: Seconds that all took; what the steps leave of it is a row of its own.
    """
    rest = Step(name="starting and stopping", seconds=max(0.0, total_s - sum(step.seconds for step in steps)))
    rows = [*steps, rest, Step(name="total", seconds=total_s)]
    width = max(len(row.name) for row in rows)
    return "\n".join(f"  {row.name:<{width}}  {row.seconds:6.2f} s{_format_rate(row)}" for row in rows)


def _format_rate(step: Step) -> str:
    return f"  {step.files:6,} files  {step.files / step.seconds:7,.0f} files/s" if step.files else ""
