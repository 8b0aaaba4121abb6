"""How much is asked for at once."""

from __future__ import annotations

import itertools

import pytest

from dsx._pace import FIRST_ENTRIES, JOB_BYTES, LEAST_JOB_BYTES, Pace
from dsx._reads import Read
from dsx.manifest import ManifestEntry

KNOWN = Read("a", None, ManifestEntry("a", 10_000, "", None, None))
UNKNOWN = Read("a")


def test_job_is_of_a_size_that_is_known() -> None:
    assert len(Pace().cut(itertools.repeat(KNOWN))) == -(-JOB_BYTES // 10_000)


@pytest.mark.parametrize(
    ("bytes_per_s", "job_bytes"),
    [(1e9, JOB_BYTES), (37.5e6, JOB_BYTES), (1e6, 2e6), (250e3, 500e3), (1e3, LEAST_JOB_BYTES), (0, LEAST_JOB_BYTES)],
)
def test_job_takes_two_seconds_of_a_slow_link(bytes_per_s: float, job_bytes: float) -> None:
    pace = Pace()
    for _ in range(20):
        pace.note_speed(int(bytes_per_s * 0.1), 0.1)
    assert len(pace.cut(itertools.repeat(KNOWN))) == pytest.approx(job_bytes / 10_000, rel=0.05)


def test_job_grows_again_with_the_link() -> None:
    pace = Pace()
    pace.note_speed(100_000, 1.0)
    for _ in range(8):
        pace.note_speed(100_000_000, 1.0)
    assert len(pace.cut(itertools.repeat(KNOWN))) == -(-JOB_BYTES // 10_000)


def test_one_quick_or_slow_answer_says_nothing() -> None:
    pace = Pace()
    pace.note_speed(10, 0.15)
    assert len(pace.cut(itertools.repeat(KNOWN))) == -(-JOB_BYTES // 10_000)


def test_entries_of_unknown_size_are_few_until_some_have_come() -> None:
    pace = Pace()
    counts = []
    for _ in range(4):
        counts.append(len(pace.cut(itertools.repeat(UNKNOWN))))
        pace.note([b"x" * 1000] * counts[-1])
    assert counts == [FIRST_ENTRIES, 4 * FIRST_ENTRIES, 16 * FIRST_ENTRIES, 2048]
