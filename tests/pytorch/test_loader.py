"""`HubDataLoader` over a real hub: exact, resumable, with any number and kind of workers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dsx import ConflictError, DatasetHubClient, InvalidRequestError
from dsx.order import Order
from tests.conftest import KEY, HubProcess, write_files
from tests.pytorch.conftest import CLASSES, COUNT, FILES, LABELS, NUMBERS, PATHS
from tests.sdk.conftest import WAIT_S, Dataset, run_python, wait_until
from tests.sdk.proxy import Proxy

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")

from torch.utils.data import DataLoader, DistributedSampler, Subset, random_split  # noqa: E402 -- after the skip

from dsx.torch import HubDataLoader, HubDataset  # noqa: E402 -- the same

# Eight workers are what the tests are about, however few cores there are.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Open = Callable[..., HubDataset]

WORKERS = [(0, None), (2, "fork"), (2, "spawn"), (2, "forkserver"), (8, "fork")]
IDS = ["no workers", "2 forked", "2 spawned", "2 of a fork server", "8 forked"]


def load(dataset: Any, workers: tuple[int, str | None] = (0, None), **options: Any) -> HubDataLoader:
    count, method = workers
    options = {"batch_size": 8, "shuffle": True, "num_workers": count, "multiprocessing_context": method} | options
    return HubDataLoader(dataset, **options)


def take(batches: Iterator[Any] | HubDataLoader, count: int | None = None) -> list[list[int]]:
    """Take batches, check data and labels, and return the numbers of the samples."""
    taken = []
    for data, labels in islice(batches, count):
        numbers = [NUMBERS[each] for each in data]
        assert labels.tolist() == [LABELS[number] for number in numbers]
        taken.append(numbers)
    return taken


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def expected(epoch: int = 0, seed: int = 0, start: int = 0, size: int = 8) -> list[list[int]]:
    order = Order(COUNT, seed=seed, epoch=epoch).take(range(start, COUNT))
    return [order[at : at + size] for at in range(0, len(order), size)]


def carry(state: dict[str, Any]) -> dict[str, Any]:
    carried: dict[str, Any] = json.loads(json.dumps(state))
    return carried


@pytest.mark.parametrize("workers", WORKERS, ids=IDS)
def test_epochs_are_exact_and_states_count_what_the_loop_has_taken(open_dataset: Open, workers: Any) -> None:
    loader = load(open_dataset(), workers, seed=5)
    assert len(loader) == 13
    assert take(loader) == expected(0, 5)
    batches = iter(loader)
    assert take(batches, 6) == expected(1, 5)[:6]
    state = carry(loader.state_dict())
    assert (state["epoch"], state["position"]) == (1, 48)
    other = load(open_dataset(), workers)
    for _ in range(2):
        other.load_state_dict(state)
        assert take(other) == expected(1, 5, 48)
        assert other.epoch == 2
    assert take(batches) == expected(1, 5)[6:]
    assert take(loader) == expected(2, 5)


@pytest.mark.parametrize("workers", [(0, None), (2, "fork")], ids=["no workers", "2 forked"])
def test_state_after_every_batch_leaves_exactly_the_tail(open_dataset: Open, workers: Any) -> None:
    dataset = open_dataset()
    loader, other = load(dataset, workers), load(dataset)
    batches = iter(loader)
    for number in range(14):
        other.load_state_dict(carry(loader.state_dict()))
        assert take(other) == expected()[number:]
        assert other.epoch == 1
        assert take(batches, 1) == expected()[number : number + 1]
    assert loader.state_dict()["epoch"] == 1


@pytest.mark.parametrize("counts", [(2, 8, 2), (8, 2, 0), (0, 6, 0)])
def test_workers_may_change_in_the_middle(open_dataset: Open, counts: tuple[int, ...]) -> None:
    dataset, state, taken = open_dataset(), None, []
    for number, count in enumerate(counts):
        loader = load(dataset, (count, "fork" if count else None))
        if state is not None:
            loader.load_state_dict(carry(state))
        taken += take(iter(loader), 4 if number < len(counts) - 1 else None)
        state = loader.state_dict()
    assert taken == expected()


@pytest.mark.parametrize("sizes", [(8, 2, 8), (2, 3, 1), (3, 16, 5)])
def test_world_size_may_change_in_the_middle(open_dataset: Open, sizes: tuple[int, ...]) -> None:
    dataset, state, taken = open_dataset(), None, []
    for number, world_size in enumerate(sizes):
        states = []
        for rank in range(world_size):
            loader = load(dataset, batch_size=2, rank=rank, world_size=world_size, remainder="exact")
            if state is not None:
                loader.load_state_dict(carry(state))
            taken += flat(take(iter(loader), 2 if number < len(sizes) - 1 else None))
            states.append(loader.state_dict())
        state = states[0]
        assert all(each == state for each in states) or number == len(sizes) - 1
    assert sorted(taken) == list(range(COUNT))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_global_batch_is_the_same_for_every_world_size(open_dataset: Open, world_size: int) -> None:
    dataset = open_dataset()
    loaders = [load(dataset, batch_size=12 // world_size, rank=r, world_size=world_size) for r in range(world_size)]
    ranks = [take(loader) for loader in loaders]
    for number in range(COUNT // 12):
        assert sorted(n for rank in ranks for n in rank[number]) == sorted(expected(size=12)[number])


@pytest.mark.parametrize("world_size", [2, 3, 16, 200])
def test_ranks_are_padded_as_pytorch_pads_them(open_dataset: Open, world_size: int) -> None:
    dataset = open_dataset(include=None)
    loaders = [load(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
    counts = [len(flat(take(loader))) for loader in loaders]
    theirs = [len(DistributedSampler(dataset, world_size, rank)) for rank in range(world_size)]
    assert counts == theirs == [len(loader.sampler) for loader in loaders]
    for remainder, total in [("exact", COUNT), ("drop", COUNT // world_size * world_size)]:
        loaders = [load(dataset, rank=r, world_size=world_size, remainder=remainder) for r in range(world_size)]
        assert sum(len(loader.sampler) for loader in loaders) == total


@pytest.mark.parametrize("drop_last", [False, True])
def test_last_batch_may_be_left_out(open_dataset: Open, drop_last: bool) -> None:
    loader = load(open_dataset(), drop_last=drop_last)
    assert take(loader) == expected()[: len(loader)]
    assert len(loader) == 13 - drop_last
    assert loader.epoch == 1


@pytest.mark.parametrize("workers", [(0, None), (2, "fork")], ids=["no workers", "2 forked"])
def test_none_and_one_sample(open_dataset: Open, workers: Any) -> None:
    assert take(load(open_dataset(include="*/none"), workers)) == []
    one = load(open_dataset(include="*/000.bin"), workers)
    assert [take(one), take(one)] == [[[PATHS.index("cats/000.bin")]]] * 2


def test_set_epoch_wins_but_not_over_the_epoch_that_is_under_way(open_dataset: Open) -> None:
    loader = load(open_dataset())
    take(iter(loader), 3)
    state = loader.state_dict()
    loader.set_epoch(4)
    assert take(loader) == expected(4)
    loader.load_state_dict(state)
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        assert take(loader) == (expected(epoch) if epoch else expected(0)[3:])


@pytest.mark.parametrize("drop_last", [False, True])
def test_loop_that_counts_the_batches_goes_on_to_the_next_epoch(open_dataset: Open, drop_last: bool) -> None:
    loader = load(open_dataset(), drop_last=drop_last)
    for epoch in range(3):
        batches = iter(loader)
        assert take(batches, len(loader)) == expected(epoch)[: len(loader)]
    state = loader.state_dict()
    loader.set_epoch(2)
    assert take(loader) == expected(2)[: len(loader)]
    loader.load_state_dict(state)
    assert take(loader) == []


def test_persistent_workers_serve_many_epochs_and_another_revision(
    open_dataset: Open, animals: Dataset, connect: Callable[..., DatasetHubClient]
) -> None:
    loader = load(open_dataset(), (2, "fork"), persistent_workers=True)
    assert [take(loader) for _ in range(3)] == [expected(epoch) for epoch in range(3)]
    state = loader.state_dict()
    take(iter(loader), 2)
    assert take(loader) == expected(3)
    client = connect(animals.url)
    animals.write({"zebras/new.bin": b"new"})
    wait_until(lambda: client.get_revision(animals.name) != state["revision"], "the new file is seen")
    grown = load(open_dataset(), (2, "fork"), persistent_workers=True)
    assert len(grown.dataset) == COUNT + 1
    assert sum(len(labels) for _, labels in grown) == COUNT + 1
    grown.load_state_dict(carry(state))
    assert len(grown.dataset) == COUNT
    assert grown.dataset.classes == CLASSES
    assert take(grown) == expected(3)
    pinned = load(open_dataset(revision=client.get_revision(animals.name)))
    with pytest.raises(ValueError, match="revision is"):
        pinned.load_state_dict(state)


@pytest.mark.parametrize("workers", [(0, None), (2, "spawn")], ids=["no workers", "2 spawned"])
def test_parts_of_a_split_are_loaded_and_told_apart(open_dataset: Open, workers: Any) -> None:
    dataset = open_dataset()
    parts = random_split(dataset, [60, 41], torch.Generator().manual_seed(1))
    loaders = [load(part, workers, seed=2) for part in parts]
    first = take(loaders[0])
    assert sorted(flat(first)) == sorted(parts[0].indices)
    assert sorted(flat(take(loaders[1]))) == sorted(parts[1].indices)
    assert flat(first) == [parts[0].indices[number] for number in Order(60, seed=2).take(range(60))]
    loaders[0].set_epoch(0)
    take(iter(loaders[0]), 3)
    state = carry(loaders[0].state_dict())
    again = load(parts[0])
    again.load_state_dict(state)
    assert take(again) == first[3:]
    for other in (parts[1], dataset, Subset(dataset, parts[0].indices[:59])):
        with pytest.raises(ValueError, match="subset is"):
            load(other).load_state_dict(state)
    nested = Subset(Subset(dataset, [5, 6, 7, -1]), [3, 0])
    assert take(load(nested, shuffle=False)) == [[COUNT - 1, 5]]


def test_loaders_of_one_dataset_do_not_disturb_each_other(
    animals: Dataset, connect: Callable[..., DatasetHubClient], start_proxy: Callable[[int], Proxy]
) -> None:
    """As a loop does that validates in the middle of an epoch."""
    proxy = start_proxy(animals.port)
    dataset = HubDataset(connect(proxy.url), animals.name)
    training, validation = random_split(dataset, [80, 21])
    loaders = load(training), load(validation)
    batches = iter(loaders[0])
    taken = take(batches, 3)
    assert len(flat(take(loaders[1]))) == 21
    taken += take(batches)
    assert len(flat(taken)) == 80
    assert sum(request.path.startswith("/batch") for request in proxy.requests) == 2


def test_pytorchs_own_loader_takes_the_dataset(open_dataset: Open) -> None:
    dataset = open_dataset()
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, 2, 1, shuffle=True)
    plain: Any = DataLoader(dataset, 8, sampler=sampler, num_workers=2)
    assert flat(take(plain)) == list(sampler)
    assert flat(take(DataLoader(Subset(dataset, [4, 4, 2]), 2))) == [4, 4, 2]  # type: ignore[arg-type]


def test_transforms_and_collate_functions_are_pytorchs(open_dataset: Open) -> None:
    dataset = open_dataset(transform=lambda data: torch.tensor(len(data)))
    loader = load(dataset, collate_fn=lambda items: torch.stack([size for size, _ in items]), shuffle=False)
    assert torch.cat(list(loader)).tolist() == [len(data) for data in FILES.values()]


def test_failed_prefetch_is_tried_again_on_demand(open_dataset: Open, animals: Dataset) -> None:
    numbers = flat(expected())
    path = PATHS[numbers[70]]
    loader = load(open_dataset())
    (animals.folder / path).unlink()
    batches = iter(loader)
    taken = take(batches, 8)  # all the rest has come by now, and this one could not
    reads = loader.dataset._reads._followers
    wait_until(lambda: all(job.is_done for each in reads.values() for job in jobs_of(each)), "all was asked for")
    write_files(animals.folder, {path: FILES[path]})
    os.utime(animals.folder / path, ns=(0, mtime_of(loader, numbers[70])))
    assert taken + take(batches) == expected()


def jobs_of(follower: Any) -> Any:
    return follower._results.gi_frame.f_locals["self"]._jobs


def mtime_of(loader: HubDataLoader, number: int) -> int:
    found = loader.dataset._source._manifest[number].mtime_ns
    assert found is not None
    return found


@pytest.mark.parametrize("workers", [(0, None), (2, "fork")], ids=["no workers", "2 forked"])
def test_sample_that_has_changed_is_named(open_dataset: Open, animals: Dataset, workers: Any) -> None:
    loader = load(open_dataset(), workers)
    path = PATHS[flat(expected())[50]]
    (animals.folder / path).write_bytes(b"another")
    batches = iter(loader)
    assert take(batches, 6) == expected()[:6]
    with pytest.raises(ConflictError, match=path):
        take(batches)
    assert loader.state_dict()["position"] == 48


def test_restarted_hub_is_not_noticed(
    start_hub: Callable[..., HubProcess], served: Path, connect: Callable[..., DatasetHubClient]
) -> None:
    write_files(served / "animals", FILES)
    hub = start_hub()
    loader = load(HubDataset(connect(hub.url), "animals"), (2, "fork"), prefetch_bytes=1000)
    batches = iter(loader)
    taken = take(batches, 2)
    hub.kill()
    restart = threading.Timer(0.5, hub.start)
    restart.start()
    assert taken + take(batches) == expected()
    restart.join()


LOOP = """
import os, signal, sys
import torch.multiprocessing
from dsx import DatasetHubClient
from dsx.torch import HubDataset, HubDataLoader
dataset = HubDataset(DatasetHubClient(sys.argv[1], sys.argv[3], cache_dir=None), sys.argv[2])
loader = HubDataLoader(dataset, 4, shuffle=True, num_workers=2, prefetch_factor=1)
batches = iter(loader)
next(batches)
workers = [process.pid for process in torch.multiprocessing.active_children()]
print(os.getpid(), *workers, flush=True)
"""


def test_killed_worker_is_an_error_and_leaves_nothing(animals: Dataset) -> None:
    kill = """
os.kill(workers[0], signal.SIGKILL)
try:
    list(batches)
except (RuntimeError, OSError, EOFError):
    print(loader.state_dict()["position"] // 4 < len(loader))
"""
    pids, is_error = run_python(LOOP + kill, animals.url, animals.name, KEY).strip().splitlines()
    assert is_error == "True"
    wait_until(lambda: not find_left([int(pid) for pid in pids.split()]), "nothing is left")


def test_killed_process_leaves_no_worker_and_no_memory(animals: Dataset, start_python: Callable[..., Any]) -> None:
    process = start_python(LOOP + "signal.pause()", animals.url, animals.name, KEY)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3
    process.kill()
    process.wait(WAIT_S)
    wait_until(lambda: not find_left(pids), "nothing is left")


def find_left(pids: list[int]) -> list[str]:
    """Name the processes that still run, and what they have left in named shared memory, where the system shows it."""
    folder = Path("/dev/shm")
    memory = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    left = [name for name in memory for pid in pids if f"_{pid}_" in name]
    return left + [str(pid) for pid in pids if is_running(pid)]


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("end", ["end", "error", "interrupt", "exit"])
@pytest.mark.parametrize("workers", [0, 2])
def test_process_that_took_one_batch_ends_within_seconds(animals: Dataset, end: str, workers: int) -> None:
    code = """
        import os, signal, sys, time
        from dsx import DatasetHubClient
        from dsx.torch import HubDataset, HubDataLoader
        dataset = HubDataset(DatasetHubClient(sys.argv[1], sys.argv[3], cache_dir=None), sys.argv[2])
        batches = iter(HubDataLoader(dataset, 4, shuffle=True, num_workers=int(sys.argv[5]), prefetch_bytes=1000))
        first = next(batches)
        try:
            if sys.argv[4] == "error":
                raise ZeroDivisionError
            if sys.argv[4] == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            if sys.argv[4] == "exit":
                sys.exit(0)
        except (ZeroDivisionError, KeyboardInterrupt):
            pass
        print(len(first))
    """
    began = time.monotonic()
    run_python(code, animals.url, animals.name, KEY, end, workers)
    assert time.monotonic() - began < 45


def test_broken_pass_leaves_no_thread(open_dataset: Open) -> None:
    loader = load(open_dataset(), prefetch_bytes=500)
    batches = iter(loader)
    take(batches, 1)
    del batches
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "dsx-batch"], "the threads have ended")
    assert take(loader) == expected()


def test_line_and_stats_of_an_epoch(open_dataset: Open, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dsx")
    for workers in WORKERS[:2]:
        loader = load(open_dataset(), workers)
        assert loader.stats().samples == 0
        take(loader)
        stats = loader.stats()
        assert (stats.samples, stats.bytes) == (COUNT, sum(map(len, FILES.values())))
        assert 0 < stats.waited_s <= stats.seconds
        assert stats.requests == (1 if workers[0] == 0 else 0)
    lines = [each.message for each in caplog.records if each.message.startswith("epoch 0 of dataset")]
    assert len(lines) == 2
    assert "requests per 1,000 samples" in lines[0]
    assert "requests" not in lines[1]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": None}, "batch_size"),
        ({"seed": "x"}, "seed"),
        ({"rank": 0}, "rank and world_size"),
        ({"rank": 2, "world_size": 2}, "rank is from 0 to 1"),
        ({"remainder": "all"}, "remainder"),
        ({"prefetch_bytes": 0}, "prefetch_bytes"),
        ({"sampler": [1]}, "sampler"),
        ({"batch_sampler": [[1]]}, "batch_sampler"),
        ({"in_order": False}, "in_order"),
    ],
)
def test_wrong_arguments_are_refused(open_dataset: Open, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        load(open_dataset(), **wrong)


def test_other_datasets_are_refused_with_what_to_do(open_dataset: Open) -> None:
    for other in ([1, 2], torch.utils.data.ConcatDataset([open_dataset()])):
        with pytest.raises(InvalidRequestError, match="PyTorch's DataLoader"):
            load(other)


def test_dataset_pickles_and_says_what_it_is(open_dataset: Open) -> None:
    dataset = open_dataset()
    take(iter(load(dataset)), 1)
    again = pickle.loads(pickle.dumps(dataset))
    assert again[7] == dataset[7]
    assert repr(dataset).startswith("<dsx.torch.HubDataset of")
    assert KEY not in repr(dataset)


def test_without_pytorch_the_error_is_the_line_that_adds_it() -> None:
    code = """
        import sys
        sys.modules["torch"] = None
        try:
            import dsx.torch
        except ImportError as error:
            print(error)
    """
    assert 'pip install "dsx-hub[torch]"' in run_python(textwrap.dedent(code))


@pytest.mark.parametrize("workers", [0, 2])
def test_second_epoch_of_kept_samples_asks_for_nothing(
    workers: int, animals: Dataset, connect: Any, start_proxy: Any, cache_dir: Any
) -> None:
    proxy = start_proxy(animals.port)
    hub_dataset = HubDataset(connect(proxy.url), animals.name, cache=True)
    loader = HubDataLoader(hub_dataset, batch_size=8, shuffle=True, num_workers=workers, collate_fn=list)
    orders = []
    for epoch in range(4):
        asked = len(proxy.requests)
        items = [item for batch in loader for item in batch]
        assert sorted(NUMBERS[data] for data, _ in items) == list(range(COUNT))
        assert all(label == LABELS[NUMBERS[data]] for data, label in items)
        assert epoch == 0 or len(proxy.requests) == asked
        orders.append([NUMBERS[data] for data, _ in items])
    assert len({tuple(order) for order in orders}) == 4
    changed = cache_dir / animals.name / PATHS[5]
    changed.write_bytes(b"x" * len(FILES[PATHS[5]]))
    assert sorted(NUMBERS[data] for batch in loader for data, _ in batch) == list(range(COUNT))
