"""Several processes of ``torch.distributed`` over one dataset: killed in the middle, resumed as more."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY
from tests.pytorch.conftest import COUNT, NUMBERS
from tests.sdk.conftest import WAIT_S, Dataset

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")

RANK = """
import json, os, signal, sys
import torch.distributed as dist
from dsx import DatasetHubClient
from dsx.torch import HubDataset, HubDataLoader
url, name, key, rendezvous, rank, world_size, folder, steps, remainder = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world_size))
dataset = HubDataset(DatasetHubClient(url, key, cache_dir=None), name, target=None)
loader = HubDataLoader(dataset, 3, shuffle=True, seed=4, num_workers=2, remainder=remainder or None)
state = os.path.join(folder, "state.json")
if os.path.exists(state):
    with open(state) as file:
        loader.load_state_dict(json.load(file))
taken = []
for number, batch in enumerate(loader, 1):
    taken += [data.decode() for data in batch]
    if number == int(steps):
        dist.barrier()
        if rank == "1":
            with open(state, "w") as file:
                json.dump(loader.state_dict(), file)
        dist.barrier()
        print(json.dumps([taken, len(loader)]), flush=True)
        signal.pause()  # until it is killed
print(json.dumps([taken, len(loader)]), flush=True)
dist.destroy_process_group()
"""


def run_ranks(
    animals: Dataset, start_python: Any, folder: Path, world_size: int, *, steps: int = 0, remainder: str = "exact"
) -> list[tuple[list[int], int]]:
    """Run a process for each rank, kill all when each has said what it has taken, and return that, with len(loader)."""
    rendezvous = folder / f"rendezvous-{world_size}-{steps}-{remainder}"
    options = (animals.url, animals.name, KEY, rendezvous)
    ranks = [start_python(RANK, *options, rank, world_size, folder, steps, remainder) for rank in range(world_size)]
    told = []
    for process in ranks:
        line = process.stdout.readline()
        assert line.startswith("[["), line + process.stdout.read()
        taken, length = json.loads(line)
        told.append(([NUMBERS[each.encode()] for each in taken], length))
    for process in ranks:
        if steps:
            process.kill()
        process.wait(WAIT_S)
    return told


@pytest.mark.skipif(sys.platform == "win32", reason="gloo meets at a file")
def test_two_killed_ranks_go_on_as_three_without_loss(animals: Dataset, start_python: Any, tmp_path: Path) -> None:
    first = run_ranks(animals, start_python, tmp_path, 2, steps=5)
    assert [len(taken) for taken, _ in first] == [15, 15]
    second = run_ranks(animals, start_python, tmp_path, 3)
    assert sorted(number for taken, _ in first + second for number in taken) == list(range(COUNT))


@pytest.mark.skipif(sys.platform == "win32", reason="gloo meets at a file")
def test_ranks_are_padded_unless_told_otherwise(animals: Dataset, start_python: Any, tmp_path: Path) -> None:
    told = run_ranks(animals, start_python, tmp_path, 2, remainder="")
    assert [(len(taken), length) for taken, length in told] == [(51, 17), (51, 17)]
    assert {number for taken, _ in told for number in taken} == set(range(COUNT))
