"""Datasets to transfer: the same files every time, made once and used again.

```
folder/
  payloads.json       what lies below; written last, so that half of it is not taken for the whole
  served/small/       files around 2.6 KB, log-normal, random bytes
  served/medium/      files around 95 KB, likewise
  served/large/       one file
  served/clipart/     the PNG files of Debian's openclipart-png, when it is installed
  orders/small.json   its paths in the shuffled order in which they are read; likewise the others
```
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from measuring import BenchmarkError, say

SEED = 4
SPREAD = 0.5
"""Standard deviation of the logarithm of the sizes: two thirds of the files are between 0.6 and 1.65 x the middle."""

FILES_PER_FOLDER = 1000
BLOCK_BYTES = 1024 * 1024
CLIPART = Path("/usr/share/openclipart/png")
NO_CLIPART = "openclipart-png is not installed: apt-get install openclipart-png"

AT_REST_S = 3.0
"""A hub reads files anew that changed less than 2 s before it read them; new ones rest so long, in s."""


class Scale(NamedTuple):
    """How much data there is.

    Attributes:
        small: Number of files around 2.6 KB.
        medium: Number of files around 95 KB.
        large_bytes: Size of the one large file.
        clipart: The most PNG files to take.
    """

    small: int
    medium: int
    large_bytes: int
    clipart: int


FULL = Scale(30_000, 6_000, 1024**3, 100_000)
TRIAL = Scale(2_000, 400, 64 * 1024**2, 300)
TINY = Scale(60, 12, 3 * 1024**2, 5)

SCALES = {"full": FULL, "trial": TRIAL, "tiny": TINY}


class Payload(NamedTuple):
    """One dataset on the disk.

    Attributes:
        name: Its name.
        root: Its folder.
        order: File with its paths, a JSON list, in the order in which they are read.
        files: How many it has.
        total: How many bytes it has.
    """

    name: str
    root: Path
    order: Path
    files: int
    total: int

    def read_order(self) -> list[str]:
        """Return the paths in the order in which they are read."""
        paths: list[str] = json.loads(self.order.read_text(encoding="utf-8"))
        return paths

    def count_bytes(self, limit: int | None) -> tuple[int, int]:
        """Return how many files the first ``limit`` in order are, and their bytes; None for all."""
        if limit is None or limit >= self.files:
            return self.files, self.total
        return limit, sum((self.root / path).stat().st_size for path in self.read_order()[:limit])


class Payloads(NamedTuple):
    """All datasets, and what was left out.

    Attributes:
        served: What a hub is to serve.
        datasets: By name.
        notes: What is missing and why.
    """

    served: Path
    datasets: dict[str, Payload]
    notes: list[str]


def prepare_payloads(folder: Path, scale: Scale) -> Payloads:
    """Return the datasets in ``folder``; they are made unless they are there, and read once into the page cache.

    Raises:
        BenchmarkError: There are others.
    """
    served, marker = folder / "served", folder / "payloads.json"
    clipart = _list_clipart(scale.clipart)
    expected = {"scale": list(scale), "seed": SEED, "clipart": len(clipart)}
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        _write_all(served, scale, clipart)
        (folder / "orders").mkdir(exist_ok=True)
        for root in served.iterdir():
            _write_order(root, folder / "orders" / f"{root.name}.json")
        marker.write_text(json.dumps(expected) + "\n", encoding="utf-8")
        if scale is not TINY:
            time.sleep(AT_REST_S)
        found = expected
    if found != expected:
        raise BenchmarkError(f"{folder} has other datasets ({found}, not {expected}): remove it or name another one")
    names = ["small", "medium", "large", *(["clipart"] if clipart else [])]
    datasets = {name: _open_payload(served / name, folder / "orders" / f"{name}.json") for name in names}
    return Payloads(served, datasets, [] if clipart else [f"the PNG files are left out: {NO_CLIPART}"])


def _list_clipart(limit: int) -> list[Path]:
    """Return the regular files among the PNG files of the package: its links repeat them."""
    return [path for path in sorted(CLIPART.rglob("*.png")) if path.is_file() and not path.is_symlink()][:limit]


def _write_all(served: Path, scale: Scale, clipart: list[Path]) -> None:
    if served.exists():
        say(f"{served} is not complete; it is written once more")
        shutil.rmtree(served)
    say(f"writing {scale.small} + {scale.medium} files and one of {scale.large_bytes} bytes into {served}")
    chance = random.Random(SEED)
    _write_files(served / "small", scale.small, 2_600, chance)
    _write_files(served / "medium", scale.medium, 95_000, chance)
    (served / "large").mkdir()
    with open(served / "large" / "large.bin", "wb") as file:
        for start in range(0, scale.large_bytes, BLOCK_BYTES):
            file.write(chance.randbytes(min(BLOCK_BYTES, scale.large_bytes - start)))
    for source in clipart:
        target = served / "clipart" / source.relative_to(CLIPART)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _write_files(root: Path, files: int, mean_bytes: int, chance: random.Random) -> None:
    middle = math.log(mean_bytes) - SPREAD**2 / 2
    for start in range(0, files, FILES_PER_FOLDER):
        folder = root / f"class_{start // FILES_PER_FOLDER:04d}"
        folder.mkdir(parents=True)
        for number in range(start, min(start + FILES_PER_FOLDER, files)):
            with open(folder / f"img_{number:06d}.bin", "wb", buffering=0) as file:
                file.write(chance.randbytes(max(1, round(chance.lognormvariate(middle, SPREAD)))))


def _write_order(root: Path, order: Path) -> None:
    paths = sorted(_walk(root))
    random.Random(SEED).shuffle(paths)
    order.write_text(json.dumps(paths), encoding="utf-8")


def _walk(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield (Path(folder) / name).relative_to(root).as_posix()


def _open_payload(root: Path, order: Path) -> Payload:
    """Read every file, so that all are in the page cache."""
    paths = json.loads(order.read_text(encoding="utf-8"))
    total = 0
    for path in paths:
        with open(root / path, "rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                total += len(block)
    return Payload(root.name, root, order, len(paths), total)
