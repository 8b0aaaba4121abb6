"""What the hub takes for a slow disk: waiting, and not a process that has much to compute."""

from __future__ import annotations

import threading
import time

from dsx_server.routes.batch_reading import Block, Stopwatch
from dsx_server.routes.batch_sending import AHEAD, AHEAD_WHEN_SLOW, Pace

ENTRIES = 100
LONG_S = 0.3
"""Three ms an entry: a slow disk, if it is one."""


def pace_after(waited_s: float) -> Pace:
    pace = Pace()
    pace.note(ENTRIES, Block(bytes(1000 * ENTRIES), ENTRIES, waited_s))
    return pace


def test_time_in_which_nothing_is_computed_is_waiting() -> None:
    watch = Stopwatch()
    threading.Event().wait(LONG_S)
    pace = pace_after(watch.read_waited_s())
    assert pace.is_slow
    assert pace.ahead == AHEAD_WHEN_SLOW


def test_a_thread_that_others_keep_from_the_lock_does_not_wait_for_a_disk() -> None:
    until = time.process_time() + LONG_S

    def compute() -> None:
        while time.process_time() < until:
            pass

    other = threading.Thread(target=compute)
    watch = Stopwatch()
    began, own = time.perf_counter(), time.thread_time()
    other.start()
    other.join()  # this thread computes nothing all the while
    passed_s, waited_s = time.perf_counter() - began, watch.read_waited_s()
    assert time.thread_time() - own < LONG_S / 2
    assert waited_s <= passed_s - LONG_S * 0.9


def test_quick_entries_are_read_by_one_thread_ahead() -> None:
    assert pace_after(0.0).ahead == AHEAD
