"""Rows in which the way is long, or the disk slow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hubs import HOST
from measuring import BenchmarkError
from rows import LABELS, PLAIN, Reading, Row
from samples import HERE, Sample
from transfer_sides import COLD_MS

LINK = "over 300 Mbit/s with 40 ms"
LINK_SOME = 50
COLD = f"{COLD_MS} ms for each open"
COLD_FILES = 6_000
COLD_SOME = 300
STOP_S = 10.0


def make_hard_rows(reading: Reading) -> list[Row]:
    """Return them in the order of the table."""
    rows = []
    for name in ("small", "medium"):
        rows += _make_link_rows(reading, name)
    return [*rows, *_make_cold_rows(reading, "small")]


def _make_link_rows(reading: Reading, name: str) -> list[Row]:
    def measure() -> Sample:
        return reading.read(name, "iter", reading.sides.get_hub(), reading.sides.get_link())

    def measure_plain() -> Sample:
        plain, url = reading.sides.get_plain_hub(), reading.sides.get_plain_link()
        return reading.read(name, "requests", plain, url, limit=LINK_SOME)

    label = f"{LABELS[name]}, {LINK}"
    return [
        Row(f"{name}/link-iter", label, "**`iter_file_bytes`**", measure, ours=True),
        Row(f"{name}/link-plain", label, PLAIN, measure_plain),
    ]


def _make_cold_rows(reading: Reading, name: str) -> list[Row]:
    def measure() -> Sample:
        hub = reading.sides.get_cold_hub()
        with _polling(hub.hub.port) as answers_s:
            sample = reading.read(name, "iter", hub, hub.hub.url, limit=COLD_FILES)
        return sample | {"health_s": find_percentile(answers_s, 0.99), "health_answers": len(answers_s)}

    def measure_plain() -> Sample:
        plain = reading.sides.get_cold_plain_hub()
        return reading.read(name, "requests", plain, plain.url, limit=COLD_SOME)

    label = f"{LABELS[name]}, {COLD}"
    return [
        Row(f"{name}/cold-iter", label, "**`iter_file_bytes`**", measure, ours=True),
        Row(f"{name}/cold-plain", label, PLAIN, measure_plain),
    ]


@contextmanager
def _polling(port: int) -> Iterator[list[float]]:
    """Ask for ``/health`` from another process meanwhile; the list has the times, in s, when the context has ended."""
    command = [sys.executable, str(HERE / "health_poll.py"), HOST, str(port)]
    answers_s: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield answers_s
        finally:
            said, _ = process.communicate(timeout=STOP_S)
    if process.returncode:
        raise BenchmarkError("the hub stopped answering /health")
    answers_s += json.loads(said)


def find_percentile(values: list[float], share: float) -> float:
    """Return the value that ``share`` of them are not above."""
    if not values:
        raise BenchmarkError("there was no answer to /health")
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
