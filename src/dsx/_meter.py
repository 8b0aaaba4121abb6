"""How a pass over samples goes: what came, what was waited for, and what it took of the hub."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass

REQUESTS_KEPT = 4096
"""The durations of so many requests are kept, the last ones; quantiles are of these."""


@dataclass(frozen=True)
class StreamStats:
    """How one pass went so far.

    Attributes:
        samples: Samples that the loop has taken.
        bytes: Their bytes.
        seconds: Time since the pass began, in s.
        waited_s: For how much of it, in s, the loop waited for samples.
        requests: Requests that the hub was sent.
        retries: How many of them followed one that failed.
        request_p50_s: Median duration of a request, in s; 0 when there was none.
        request_p99_s: The duration, in s, that one request in a hundred took longer than.
    """

    samples: int = 0
    bytes: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    requests: int = 0
    retries: int = 0
    request_p50_s: float = 0.0
    request_p99_s: float = 0.0

    @property
    def samples_per_s(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def mb_per_s(self) -> float:
        """Megabytes (10^6 bytes) per second."""
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def waited_share(self) -> float:
        """Share of the time that the loop waited: near 0, the loop is the bottleneck; near 1, the data is."""
        return min(1.0, self.waited_s / self.seconds) if self.seconds else 0.0

    @property
    def requests_per_1000(self) -> float:
        """Requests per thousand samples."""
        return 1000 * self.requests / self.samples if self.samples else 0.0

    def __str__(self) -> str:
        line = (
            f"{self.samples:,} samples in {self.seconds:.1f} s: {self.samples_per_s:,.0f} samples/s, "
            f"{self.mb_per_s:.1f} MB/s; waited for data {self.waited_share:.0%} of the time"
        )
        if not self.requests:
            return line
        return (
            f"{line}; {self.requests_per_1000:.1f} requests per 1,000 samples, p50 {1000 * self.request_p50_s:.0f} ms, "
            f"p99 {1000 * self.request_p99_s:.0f} ms, {self.retries} retries"
        )


class Meter:
    """Measures one pass, from when it is made until `stop`. What comes of requests may be noted by any thread."""

    def __init__(self) -> None:
        self.samples = 0
        self.bytes = 0
        self.waited_s = 0.0
        self._began = time.monotonic()
        self._ended: float | None = None
        self._requests = 0
        self._retries = 0
        self._durations: deque[float] = deque(maxlen=REQUESTS_KEPT)
        self._lock = threading.Lock()

    def note_request(self, seconds: float) -> None:
        """Count a request that took so long."""
        with self._lock:
            self._requests += 1
            self._durations.append(seconds)

    def note_retry(self) -> None:
        """Count a request that has to be made again."""
        with self._lock:
            self._retries += 1

    def stop(self) -> None:
        """Let no more time pass."""
        if self._ended is None:
            self._ended = time.monotonic()

    def read(self) -> StreamStats:
        """Return how it goes."""
        with self._lock:
            durations = sorted(self._durations)
            requests, retries = self._requests, self._retries
        seconds = (time.monotonic() if self._ended is None else self._ended) - self._began
        return StreamStats(
            self.samples,
            self.bytes,
            seconds,
            self.waited_s,
            requests,
            retries,
            _find_quantile(durations, 0.5),
            _find_quantile(durations, 0.99),
        )


def _find_quantile(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0
