"""What the tests of ``dsx.torch`` share: the hub and the clients of the SDK's tests, and a dataset of small samples."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from dsx import DatasetHubClient
from tests.sdk.conftest import Dataset, cache_dir, common_hub, connect, dataset, start_proxy, start_python

__all__ = ["cache_dir", "common_hub", "connect", "dataset", "start_proxy", "start_python"]

COUNT = 101
PATHS = sorted(f"{('cats', 'dogs', 'owls')[number % 3]}/{number:03}.bin" for number in range(COUNT))
FILES = {path: path.encode() * (1 + number % 40) for number, path in enumerate(PATHS)}
CLASSES = ["cats", "dogs", "owls"]
LABELS = [CLASSES.index(path[:4]) for path in PATHS]
NUMBERS = {data: number for number, (_, data) in enumerate(FILES.items())}


@pytest.fixture
def animals(dataset: Dataset) -> Dataset:
    """A dataset of ``FILES`` in folders that are its classes."""
    dataset.write(FILES)
    return dataset


@pytest.fixture
def open_dataset(animals: Dataset, connect: Callable[..., DatasetHubClient]) -> Callable[..., Any]:
    """Make `HubDataset` objects of it."""
    torch_module = pytest.importorskip("dsx.torch", reason="PyTorch is not installed: pip install torch==2.13.0")

    def make(**options: Any) -> Any:
        return torch_module.HubDataset(connect(animals.url), animals.name, **options)

    return make


def make_bytes(seed: int, size: int) -> bytes:
    """Make bytes that a seed fixes."""
    return random.Random(seed).randbytes(size)
