"""How much is asked for at once: by what is known of the entries, and by how quickly bytes come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsx._batch import MOST_ENTRIES, Result
from dsx._reads import Read

JOB_BYTES = 8 * 1024 * 1024
LEAST_JOB_BYTES = 256 * 1024
"""About how many bytes one job is to bring, at most and at least."""

JOB_S = 2.0
"""About how long, in s, one job may take if the link were its own, where bytes come slowly.

The jobs share it, and results are handed out in order: what the second and the third bring is of no use yet."""

FIRST_ENTRIES = 64
"""How many entries a job has while nothing is known of their sizes."""

GROWTH = 4
"""A job has at most this many times the entries of the one before: the first may have been small ones by chance."""

MEASURED_S = 0.2
"""So much waiting, in s, tells how quickly bytes come; less of it is more the time of a first answer."""


class Pace:
    """Cuts reads into jobs of about as many bytes as are good.

    Args:
        most_bytes: About how many bytes one job is to bring, at most.
    """

    def __init__(self, most_bytes: int = JOB_BYTES) -> None:
        self._most_bytes = most_bytes
        self._mean_bytes: float | None = None
        self._waited_s = 0.0
        self._waited_bytes = 0
        self._job_bytes = most_bytes
        self._last_count = FIRST_ENTRIES

    def note(self, results: Sequence[Result]) -> None:
        """Learn from results that have come."""
        sizes = [len(result) for result in results if isinstance(result, bytes)]
        if sizes:
            mean = sum(sizes) / len(sizes)
            self._mean_bytes = mean if self._mean_bytes is None else (self._mean_bytes + mean) / 2

    def note_speed(self, size: int, seconds: float) -> None:
        """Learn from so many bytes that came while somebody waited for them."""
        self._waited_s += seconds
        self._waited_bytes += size
        if self._waited_s >= MEASURED_S:
            fitting = int(self._waited_bytes / self._waited_s * JOB_S)
            self._job_bytes = min(self._most_bytes, max(LEAST_JOB_BYTES, fitting))
            self._waited_s, self._waited_bytes = self._waited_s / 2, self._waited_bytes // 2

    def cut(self, reads: Iterator[Read]) -> list[Read]:
        """Take the reads of the next job; none when there are no more."""
        job: list[Read] = []
        size = 0.0
        guessed = 0
        for read in reads:
            job.append(read)
            expected = read.expected_bytes
            guessed += expected is None
            size += (self._mean_bytes or 0.0) if expected is None else expected
            if size >= self._job_bytes or len(job) >= MOST_ENTRIES or guessed >= self._most_guessed():
                break
        if guessed:
            self._last_count = max(FIRST_ENTRIES, len(job))
        return job

    def _most_guessed(self) -> int:
        """How many entries of unknown size a job may have."""
        return FIRST_ENTRIES if self._mean_bytes is None else self._last_count * GROWTH
