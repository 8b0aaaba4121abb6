"""A row of `transfer.py` is one way in which one dataset is read; `Reading` is what all rows need for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubs import KEY
from payloads import Payload, Payloads
from samples import Expected, Sample, measure_script
from servers import Server
from transfer_sides import Sides

LABELS = {"small": "2.6 KB", "medium": "95 KB", "large": "1 GiB", "clipart": "PNG files"}

PLAIN = "`requests` in a loop, FastAPI `FileResponse`"

SOME = {"small": 3_000, "medium": 2_000, "clipart": 2_000}
"""How many files the slow ways read: their speed does not depend on it."""


@dataclass(frozen=True)
class Row:
    """One way in which one dataset is read.

    Attributes:
        key: Its name.
        payload: What is read, in words.
        label: How, in words.
        measure: Reads it once.
        ours: Whether it is this project.
        prepare: Makes what it needs, or reads once and holds every byte against the disk.
    """

    key: str
    payload: str
    label: str
    measure: Callable[[], Sample]
    ours: bool = False
    prepare: Callable[[], object] | None = None


class Reading:
    """Reads datasets in processes of their own.

    Args:
        sides: Where they are read from.
        payloads: What is read.
        work: Folder for what is written.
    """

    def __init__(self, sides: Sides, payloads: Payloads, work: Path) -> None:
        self.sides = sides
        self.work = work
        self.served = payloads.served
        self._payloads = payloads.datasets

    def has(self, name: str) -> bool:
        """Tell whether there is such a dataset."""
        return name in self._payloads

    def get_payload(self, name: str) -> Payload:
        """Return a dataset."""
        return self._payloads[name]

    def read(
        self, name: str, kind: str, server: Server | None, url: str, *, limit: int | None = None, **more: object
    ) -> Sample:
        """Read a dataset, or the first ``limit`` files of it, and return what that took on both sides."""
        job, expected = self.make_job(name, kind, url, limit)
        sample = self.add_memory(measure_script("readers.py", job | more, expected, server), server)
        return sample | ({"requests": sample["files"]} if kind == "requests" else {})

    def add_memory(self, sample: Sample, server: Server | None) -> Sample:
        """Add what the other side took above its idle level, in bytes."""
        if server is not None:
            sample["server_memory"] = sample["server_peak"] - self.sides.idle[server.pid]
        return sample

    def make_job(self, name: str, kind: str, url: str, limit: int | None = None) -> tuple[dict[str, Any], Expected]:
        """Return what `readers.py` is to do, and what has to come."""
        payload = self._payloads[name]
        job = {"kind": kind, "dataset": name, "url": url, "key": KEY, "limit": limit}
        job |= {"order": str(payload.order), "root": str(payload.root)}
        return job, Expected(*payload.count_bytes(limit))
