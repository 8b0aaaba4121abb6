"""The memory of batches: counted, refused to new ones, waited for in turn by running ones."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from dsx_server.problems import ProblemError
from dsx_server.routes.batch_budget import ByteBudget, Share


def test_new_batches_are_let_in_up_to_three_quarters() -> None:
    budget = ByteBudget(100)
    budget.admit(75)
    with pytest.raises(ProblemError) as caught:
        budget.admit(1)
    assert (caught.value.code, caught.value.headers) == ("busy", {"Retry-After": "1"})
    budget.give_back(1)
    budget.admit(1)
    assert budget.used == 75


def test_reading_ahead_is_for_plenty() -> None:
    budget = ByteBudget(100)
    assert budget.take_ahead(50)
    assert not budget.take_ahead(1)
    assert not budget.is_tight
    budget.admit(1)
    assert budget.is_tight


def test_running_batches_get_bytes_in_turn() -> None:
    async def run() -> list[str]:
        budget, got = ByteBudget(100), list[str]()

        async def take(name: str, size: int) -> None:
            await budget.take(size)
            got.append(name)

        await take("first", 90)
        waiting = [asyncio.create_task(take(name, size)) for name, size in [("large", 60), ("small", 10)]]
        await asyncio.sleep(0)
        assert got == ["first"]  # the small one fits, and would keep the large one waiting for ever
        with pytest.raises(ProblemError):
            budget.admit(1)
        assert not budget.take_ahead(1)
        budget.give_back(90)
        await asyncio.gather(*waiting)
        assert budget.used == 70
        return got

    assert asyncio.run(run()) == ["first", "large", "small"]


@pytest.mark.parametrize("gives_back_first", [False, True])
def test_batch_that_ends_while_it_waits_keeps_nothing(gives_back_first: bool) -> None:
    async def run() -> int:
        budget = ByteBudget(100)
        await budget.take(90)
        waiting = [asyncio.create_task(budget.take(size)) for size in (60, 40)]
        await asyncio.sleep(0)
        if gives_back_first:
            budget.give_back(90)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        if not gives_back_first:
            budget.give_back(90)
        await waiting[1]
        assert waiting[0].cancelled()
        return budget.used

    assert asyncio.run(run()) == 40


def test_share_gives_back_what_it_holds() -> None:
    budget = ByteBudget(100)
    with closing(Share(budget)) as share:
        for size in (10, 70, 30):
            share.resize(size)
            assert budget.used == size
        with pytest.raises(ProblemError):
            share.resize(76)
        assert budget.used == 30
    assert budget.used == 0
