"""The order of samples: a permutation, the same everywhere, shared among ranks without loss."""

from __future__ import annotations

import json
import math
import pickle
import random
import subprocess
import sys
from collections import Counter
from itertools import chain, pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx import order as order_module
from dsx.errors import InvalidRequestError
from dsx.order import Order, Remainder, Share

seeds = st.integers(-(2**70), 2**70)
lengths = st.integers(0, 300)
world_sizes = st.integers(1, 16)
REMAINDERS = get_args(Remainder)

# Computed once from this code and kept: a seed has to give the same order in every later version, on every machine.
KEPT = [18, 97, 77, 45, 5, 58, 32, 1, 83, 89]


@given(length=st.integers(0, 10_000), seed=seeds, epoch=st.integers(0, 1000))
def test_order_is_a_permutation(length: int, seed: int, epoch: int) -> None:
    taken = Order(length, seed=seed, epoch=epoch).take(range(length))
    assert sorted(taken) == list(range(length))


@pytest.mark.parametrize("length", [*range(70), 127, 128, 129, 1000, 4095, 4096, 4097])
def test_order_of_any_length_is_a_permutation_in_python(length: int) -> None:
    order = Order(length, seed=1)
    assert sorted(order[position] for position in range(length)) == list(range(length))


def test_first_samples_of_a_billion_are_all_different() -> None:
    taken = Order(10**9, seed=5).take(range(100_000))
    assert len(set(taken)) == 100_000
    assert 0 <= min(taken) < 10**5
    assert 10**9 - 10**5 < max(taken) < 10**9


@given(length=st.integers(10, 2**62), seed=seeds, epoch=st.integers(0, 50), data=st.data())
def test_python_and_numpy_agree(length: int, seed: int, epoch: int, data: st.DataObject) -> None:
    order = Order(length, seed=seed, epoch=epoch)
    positions = data.draw(st.lists(st.integers(0, length - 1), min_size=9, max_size=40))
    assert order.take(positions) == [order[position] for position in positions]
    start = data.draw(st.integers(0, length - 10))
    ahead = range(start, min(length, start + 60), 3)
    assert order.take(ahead) == [order[position] for position in ahead]


def test_order_is_the_same_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    with_numpy = Order(1000, seed=2).take(range(1000))
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert order_module.find_numpy() is None
    assert Order(1000, seed=2).take(range(1000)) == with_numpy


def test_positions_are_uniform() -> None:
    length, epochs = 20, 4000
    table = np.zeros((length, length))
    for epoch in range(epochs):
        table[range(length), Order(length, seed=9, epoch=epoch).take(range(length))] += 1
    expected = epochs / length
    chi_square = float(((table - expected) ** 2 / expected).sum())
    freedom = (length - 1) ** 2
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)  # five standard deviations of the distribution


def test_neighbours_are_uniform() -> None:
    """Which sample follows which, over many epochs; a weak network shows here first."""
    length, epochs = 16, 6000
    follows = np.zeros((length, length))
    for epoch in range(epochs):
        taken = Order(length, seed=3, epoch=epoch).take(range(length))
        follows[taken[:-1], taken[1:]] += 1
    expected = epochs * (length - 1) / (length * (length - 1))
    pairs = follows[~np.eye(length, dtype=bool)]
    chi_square = float(((pairs - expected) ** 2 / expected).sum())
    freedom = len(pairs) - 1
    assert abs(chi_square - freedom) < 6 * math.sqrt(2 * freedom)
    assert np.trace(follows) == 0


@pytest.mark.parametrize("length", [100, 4096, 5000])
def test_epochs_are_independent(length: int) -> None:
    """The number of samples that stay at their place between epochs is about one, as for any two shuffles."""
    orders = [Order(length, seed=1, epoch=epoch).take(range(length)) for epoch in range(60)]
    same = [sum(a == b for a, b in zip(x, y, strict=True)) for x, y in pairwise(orders)]
    assert sum(same) / len(same) < 1 + 5 / math.sqrt(len(same))
    correlations = [abs(np.corrcoef(x, y)[0, 1]) for x, y in pairwise(orders)]
    assert max(correlations) < 5 / math.sqrt(length)


def test_seed_and_epoch_are_two_things() -> None:
    orders = {tuple(Order(50, seed=seed, epoch=epoch).take(range(50))) for seed in range(-5, 6) for epoch in range(10)}
    assert len(orders) == 110


def test_order_is_kept_for_ever() -> None:
    assert Order(100).take(range(10)) == KEPT


def test_order_depends_on_no_random_state_and_no_hash_seed() -> None:
    code = "import random; random.seed(7); from dsx.order import Order; print(Order(100).take(range(10)))"
    for hash_seed in ("0", "1"):
        result = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert json.loads(result.stdout) == KEPT
    random.seed(1)
    state = random.getstate()
    Order(100).take(range(100))
    assert random.getstate() == state


def test_order_survives_pickling() -> None:
    order = Order(1000, seed=4, epoch=2)
    assert pickle.loads(pickle.dumps(order)).take(range(1000)) == order.take(range(1000))


def test_unshuffled_order_is_the_manifest() -> None:
    order = Order(50, seed=4, shuffle=False)
    assert order.take(range(50)) == list(range(50))
    assert order[7] == 7


def test_position_outside_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        Order(10)[10]
    with pytest.raises(IndexError):
        Order(10)[-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": -1},
        {"length": 2**62 + 1},
        {"length": 1.5},
        {"seed": "1"},
        {"seed": None},
        {"epoch": -1},
        {"epoch": True},
    ],
)
def test_wrong_arguments_of_an_order_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        Order(**{"length": 10, **wrong})  # type: ignore[arg-type]


def test_integers_of_numpy_are_integers() -> None:
    order = Order(np.int64(100), seed=np.uint8(0), epoch=np.int32(0))  # type: ignore[arg-type]
    assert order.take(range(10)) == KEPT


def positions_of(share: Share) -> list[int]:
    found = list(chain.from_iterable(share.iter_blocks()))
    assert len(found) == share.count
    assert found == list(share.list_positions(0, share.count + 5))
    return found


def shares(length: int, world_size: int, remainder: Remainder, start: int = 0) -> list[list[int]]:
    return [positions_of(Share(length, rank, world_size, remainder, start)) for rank in range(world_size)]


@given(length=lengths, world_size=world_sizes, data=st.data())
def test_exact_shares_take_every_position_once(length: int, world_size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length))
    ranks = shares(length, world_size, "exact", start)
    assert sorted(chain.from_iterable(ranks)) == list(range(start, length))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


@given(length=lengths, world_size=world_sizes, data=st.data())
def test_drop_leaves_out_less_than_one_for_each_rank(length: int, world_size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length))
    ranks = shares(length, world_size, "drop", start)
    assert len({len(rank) for rank in ranks}) == 1
    taken = sorted(chain.from_iterable(ranks))
    assert taken == list(range(start, start + len(taken)))
    assert length - start - len(taken) < world_size


@given(length=lengths, world_size=world_sizes, data=st.data())
def test_pad_takes_the_first_ones_again(length: int, world_size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length))
    ranks = shares(length, world_size, "pad", start)
    assert len({len(rank) for rank in ranks}) == 1
    counts = Counter(chain.from_iterable(ranks))
    assert set(range(start, length)) <= set(counts)
    assert sum(counts.values()) - (length - start) < world_size
    if world_size <= length:
        assert [p for p, n in sorted(counts.items()) if n > 1 or p < start] == list(
            range(sum(counts.values()) - (length - start))
        )


@pytest.mark.parametrize("remainder", REMAINDERS)
@pytest.mark.parametrize("world_size", range(1, 17))
@pytest.mark.parametrize("length", [0, 1, 3])
def test_fewer_samples_than_ranks(remainder: Remainder, world_size: int, length: int) -> None:
    counts = [len(rank) for rank in shares(length, world_size, remainder)]
    if remainder == "pad":
        assert set(counts) == {-(-length // world_size)}
    elif remainder == "drop":
        assert set(counts) == {length // world_size}
    else:
        assert sum(counts) == length


@given(length=lengths, changes=st.lists(st.tuples(world_sizes, st.integers(0, 40)), max_size=6))
def test_world_sizes_may_change_in_the_middle(length: int, changes: list[tuple[int, int]]) -> None:
    start, taken = 0, []
    for world_size, steps in changes:
        ranks = [Share(length, rank, world_size, "exact", start) for rank in range(world_size)]
        for share in ranks:
            taken += share.list_positions(0, steps)
        reached = {share.find_reached(steps) for share in ranks}
        assert len(reached) == 1
        start = reached.pop()
    taken += Share(length, start=start).list_positions(0, length)
    assert sorted(taken) == list(range(length))


@pytest.mark.parametrize("per_rank", [1, 2, 5])
def test_global_batch_is_the_same_for_every_world_size_that_divides_it(per_rank: int) -> None:
    length, global_batch = 240, per_rank * 12
    order = Order(length, seed=1)
    expected = [set(order.take(range(at, at + global_batch))) for at in range(0, length, global_batch)]
    for world_size in (w for w in range(1, 17) if global_batch % w == 0):
        own = global_batch // world_size
        ranks = [Share(length, rank, world_size) for rank in range(world_size)]
        for number, samples in enumerate(expected):
            parts = [order.take(share.list_positions(number * own, number * own + own)) for share in ranks]
            assert set(chain.from_iterable(parts)) == samples


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 2},
        {"rank": -1},
        {"world_size": 0},
        {"start": 11},
        {"remainder": "all"},
        {"rank": "0"},
        {"world_size": 1.0},
    ],
)
def test_wrong_arguments_of_a_share_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(wrong))):
        Share(**{"length": 10, "world_size": 2, **wrong})  # type: ignore[arg-type]
