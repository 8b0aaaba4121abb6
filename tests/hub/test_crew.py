"""Many small things are done at once where each waits for a disk, and only there; the clock is the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest

from dsx_server.storage import crew as crew_module
from dsx_server.storage.crew import BLOCK, GAIN, JUDGED_S, SLOW_S, THREADS, Crew
from tests.hub.conftest import WAIT_S, wait_until

SLOW = 10 * SLOW_S
ENOUGH = BLOCK * 4
"""So many slow things that the pace has been judged before the last of them."""


class Disk:
    """Things that take time on a clock of its own; every thing's result is its double.

    Attributes:
        each_s: How long a thing takes.
        gain: So many times as fast are things in threads.
        meet: Where those in threads wait for one another; None when they do not.
    """

    def __init__(self) -> None:
        self.each_s = 0.0
        self.gain = float(THREADS)
        self.meet: threading.Barrier | None = None
        self.now_s = 0.0
        self.threads: list[str] = []
        self._caller = threading.current_thread()
        self._lock = threading.Lock()

    def perf_counter(self) -> float:
        return self.now_s

    def double(self, things: Sequence[int]) -> list[int]:
        """Do some things."""
        is_in_thread = threading.current_thread() is not self._caller
        if is_in_thread and self.meet is not None:
            self.meet.wait(WAIT_S)
        with self._lock:
            self.threads.append(threading.current_thread().name)
            self.now_s += len(things) * self.each_s / (self.gain if is_in_thread else 1)
        return [2 * thing for thing in things]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk by whose clock the crew judges: how busy this machine is has no say."""
    found = Disk()
    monkeypatch.setattr(crew_module, "time", SimpleNamespace(perf_counter=found.perf_counter))
    return found


@pytest.fixture
def crew() -> Iterator[Crew]:
    """A crew without work."""
    with Crew() as found:
        yield found


def warm_up(crew: Crew, disk: Disk) -> None:
    """Let the crew find out that the disk is slow."""
    disk.each_s = SLOW
    list(crew.map(disk.double, range(int(JUDGED_S / SLOW) + 1)))
    assert crew.is_slow
    disk.threads.clear()


@pytest.mark.parametrize("each_s", [0.0, SLOW], ids=["quick", "slow"])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, ENOUGH + 7])
def test_results_come_in_the_order_of_the_things(crew: Crew, disk: Disk, each_s: float, count: int) -> None:
    disk.each_s = each_s
    for _ in range(2):
        assert list(crew.map(disk.double, range(count))) == list(range(0, 2 * count, 2))


@pytest.mark.parametrize("is_slow", [False, True], ids=["quick", "slow"])
def test_nothing_to_do_gives_nothing(crew: Crew, disk: Disk, is_slow: bool) -> None:
    if is_slow:
        warm_up(crew, disk)
    assert list(crew.map(disk.double, [])) == []
    assert disk.threads == []


def test_order_is_kept_where_the_first_ends_last(crew: Crew, disk: Disk) -> None:
    warm_up(crew, disk)
    last_is_done = threading.Event()

    def work(things: Sequence[int]) -> list[int]:
        if 0 in things:
            assert last_is_done.wait(WAIT_S)
        if BLOCK - 1 in things:
            last_is_done.set()
        return list(things)

    assert list(crew.map(work, range(BLOCK))) == list(range(BLOCK))


def test_slow_things_are_done_several_at_once(crew: Crew, disk: Disk) -> None:
    disk.each_s = SLOW
    disk.meet = threading.Barrier(8)  # opens only to eight that are there at the same time
    assert list(crew.map(disk.double, range(ENOUGH))) == list(range(0, 2 * ENOUGH, 2))
    assert crew.is_slow
    assert len(set(disk.threads)) > 8


def test_a_few_slow_things_are_done_at_once_too(crew: Crew, disk: Disk) -> None:
    warm_up(crew, disk)
    disk.meet = threading.Barrier(8)
    assert list(crew.map(disk.double, range(8))) == list(range(0, 16, 2))


def test_quick_things_are_done_in_the_thread_of_whoever_asks(crew: Crew, disk: Disk) -> None:
    disk.each_s = SLOW_S / 2
    assert sum(1 for _ in crew.map(disk.double, range(ENOUGH))) == ENOUGH
    assert not crew.is_slow
    assert set(disk.threads) == {threading.current_thread().name}


def test_one_interruption_does_not_make_a_disk_slow(crew: Crew, disk: Disk) -> None:
    disk.each_s = SLOW_S / 100
    for _ in crew.map(disk.double, range(BLOCK)):
        pass
    disk.now_s += 1.0  # between two calls: nobody's work
    for thing in crew.map(disk.double, range(BLOCK)):
        disk.now_s += 1.0 if thing == 0 else 0.0  # whoever takes the results may be slow as well
    assert not crew.is_slow


@pytest.mark.parametrize("gain", [1.0, GAIN * 0.9, 0.1])
def test_threads_that_do_not_help_are_given_up_for_good(crew: Crew, disk: Disk, gain: float) -> None:
    warm_up(crew, disk)
    disk.gain = gain
    list(crew.map(disk.double, range(ENOUGH)))
    assert not crew.is_slow
    disk.threads.clear()
    list(crew.map(disk.double, range(ENOUGH)))
    assert set(disk.threads) == {threading.current_thread().name}


def test_threads_that_help_are_kept(crew: Crew, disk: Disk) -> None:
    warm_up(crew, disk)
    disk.gain = GAIN * 1.1
    list(crew.map(disk.double, range(ENOUGH)))
    assert crew.is_slow
    assert threading.current_thread().name not in disk.threads


def test_threads_end_with_the_context(disk: Disk) -> None:
    def count() -> int:
        return sum(thread.name.startswith("dsx-disk") for thread in threading.enumerate())

    def do_some(amount: Callable[[], int]) -> int:
        with Crew() as crew:
            warm_up(crew, disk)
            list(crew.map(disk.double, range(BLOCK)))
            return amount()

    wait_until(lambda: count() == 0, "the threads of other tests have ended")
    assert do_some(count) > 1
    wait_until(lambda: count() == 0, "the threads have ended")
