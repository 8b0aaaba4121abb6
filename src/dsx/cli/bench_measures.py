"""What ``dsx bench`` has measured, as numbers and nothing else. What they mean is in `bench_verdict`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

_FROZEN = ConfigDict(frozen=True)


class Pass(BaseModel):
    """Some reading, from its beginning to the last byte that counts.

    Attributes:
        files: Files that came.
        bytes: Bytes that came.
        seconds: How long that took, in s.
        cpu_s: Processor time of this process meanwhile, in s.
        first_s: Time until the first file was there, in s; 0 where that says nothing.
    """

    model_config = _FROZEN

    files: int
    bytes: int
    seconds: float
    cpu_s: float
    first_s: float = 0.0

    @property
    def files_per_s(self) -> float:
        """Files per second."""
        return self.files / self.seconds if self.seconds else 0.0

    @property
    def mb_per_s(self) -> float:
        """Megabytes (10^6 bytes) per second."""
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def cpu_share(self) -> float:
        """Processor time of this process for each second; 1 is one core."""
        return self.cpu_s / self.seconds if self.seconds else 0.0


class Extent(BaseModel):
    """How much a dataset has.

    Attributes:
        dataset: Its name.
        files: Its files.
        bytes: Their bytes.
        small_files: Those that calls for many files fetch in batches; the others come in ranges.
        small_bytes: Their bytes.
        largest_bytes: Size of the largest file, in bytes.
    """

    model_config = _FROZEN

    dataset: str
    files: int
    bytes: int
    small_files: int
    small_bytes: int
    largest_bytes: int


class Way(BaseModel):
    """The way to the hub, without any file.

    Attributes:
        is_loopback: Whether the hub's address is this very machine's.
        connect_ms: Time to make a TCP connection, in ms, median; None when there is no direct one, but a proxy.
        round_trip_ms: Time of ``GET /health`` on a connection that is there, in ms, median.
        round_trip_p99_ms: The time, in ms, that one in a hundred took longer than.
    """

    model_config = _FROZEN

    is_loopback: bool
    connect_ms: float | None
    round_trip_ms: float
    round_trip_p99_ms: float


class Measures(BaseModel):
    """What was measured; None for what the dataset has no files for.

    Attributes:
        extent: How much the dataset has.
        way: The way to the hub.
        large: The largest file in several ranges at once, from its beginning, once; None when files as short as that
            are not fetched in ranges.
        large_again: The same again, and as often as there was time.
        one_stream: The largest file in one plain answer.
        answer_ms: Time from a request for a small file to the beginning of the answer, in ms, median, the first time.
        answer_again_ms: The same for the same files, the second time.
        one_by_one: Small files, each with a call of its own.
        batches: Small files that were not read before, in batches.
        batches_again: The same files again.
        one_byte_each: One byte of each of the same files: what the hub does for them, without their bytes.
    """

    model_config = _FROZEN

    extent: Extent
    way: Way
    large: Pass | None = None
    large_again: Pass | None = None
    one_stream: Pass | None = None
    answer_ms: float | None = None
    answer_again_ms: float | None = None
    one_by_one: Pass | None = None
    batches: Pass | None = None
    batches_again: Pass | None = None
    one_byte_each: Pass | None = None
