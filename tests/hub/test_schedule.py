"""When datasets are scanned and revisions published: the clock is the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx_server.index.schedule import (
    FAILED_AGAIN_S,
    MANY_FOLDERS,
    PUBLISH_EVERY_S,
    QUIET_S,
    RACY_AGAIN_S,
    REST,
    SETTLE_S,
    WATCHED_FACTOR,
    Schedule,
)

NEVER = float("inf")
LONG_S = 100_000.0
MOMENT_S = 1 / 1024
"""Exact in binary, as all times here are: the arithmetic shall not depend on rounding."""


def make_schedule(*, rescan_s: float = LONG_S, is_watched: bool = False, took_s: float = 0.0) -> Schedule:
    """Return the schedule of a dataset whose first scan ended, and was published, at 0."""
    schedule = Schedule(rescan_s)
    schedule.is_watched = is_watched
    assert schedule.take_folders(-took_s) is None
    schedule.note_scanned(racy=[], took_s=took_s, is_whole=True, now=0.0)
    schedule.note_published(0.0)
    return schedule


def scan(schedule: Schedule, now: float, *, took_s: float = 0.0, racy: Sequence[str] = ()) -> list[str] | None:
    """Take what is due, as a scan that ends ``took_s`` later; return what it was."""
    folders = schedule.take_folders(now)
    if folders != []:
        schedule.note_scanned(racy=list(racy), took_s=took_s, is_whole=folders is None, now=now + took_s)
    return folders


def test_new_dataset_is_scanned_whole_and_published_at_once() -> None:
    schedule = Schedule(LONG_S)
    assert schedule.find_next(has_news=False) <= 0
    assert scan(schedule, 0.0) is None
    assert schedule.may_publish(0.0)
    assert schedule.find_next(has_news=True) <= 0


def test_quiet_dataset_has_nothing_due() -> None:
    schedule = make_schedule()
    assert schedule.take_folders(1000.0) == []
    assert schedule.find_next(has_news=False) == LONG_S


def test_first_change_after_quiet_is_scanned_and_published_at_once() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    assert scan(schedule, 100.0) == []
    assert schedule.find_next(has_news=False) == 100.0 + SETTLE_S
    assert scan(schedule, 100.0 + SETTLE_S) == ["a/"]
    assert schedule.may_publish(100.0 + SETTLE_S)


def test_changes_that_come_with_the_first_are_in_the_same_scan() -> None:
    schedule = make_schedule()
    for folder, at in [("a/", 100.0), ("b/", 100.0), ("a/", 100.0 + MOMENT_S)]:
        schedule.note_change(folder, at)
    assert sorted(scan(schedule, 100.0 + MOMENT_S + SETTLE_S) or []) == ["a/", "b/"]
    assert schedule.find_next(has_news=False) == LONG_S


def test_while_changes_keep_coming_nothing_is_published_until_they_stop() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    scan(schedule, 101.0)
    schedule.note_published(101.0)
    for at in (101.5, 102.5, 103.5, 104.5):
        schedule.note_change("a/", at)
        scan(schedule, at)
        assert not schedule.may_publish(at)
    assert not schedule.may_publish(104.5 + QUIET_S - MOMENT_S)
    assert schedule.find_next(has_news=True) <= 104.5 + QUIET_S
    assert schedule.may_publish(104.5 + QUIET_S)


def test_changes_that_never_stop_are_published_every_so_often() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    schedule.note_published(100.5)
    published = []
    for tick in range(1, 200):
        now = 100.5 + tick
        schedule.note_change("a/", now)
        if schedule.may_publish(now):
            schedule.note_published(now)
            published.append(now)
    first = 100.5 + PUBLISH_EVERY_S
    assert published == [first + PUBLISH_EVERY_S * place for place in range(len(published))]
    assert len(published) == int(199 // PUBLISH_EVERY_S)


def test_folder_under_change_is_scanned_though_the_changes_do_not_stop() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    scan(schedule, 100.5)
    schedule.note_published(100.5)
    schedule.note_change("a/", 101.0)
    schedule.note_change("a/", 102.5)
    assert schedule.find_next(has_news=False) == 101.0 + QUIET_S
    assert scan(schedule, 101.0 + QUIET_S) == ["a/"]


def test_news_that_wait_are_published_after_a_quiet_time_without_another_change() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    schedule.note_published(100.5)
    schedule.note_change("a/", 101.0)
    scan(schedule, 103.0)
    assert schedule.find_next(has_news=True) == 101.0 + QUIET_S
    assert schedule.find_next(has_news=False) == LONG_S


def test_folder_of_entries_that_had_just_been_written_is_looked_at_again() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    schedule.note_change("b/", 100.0)
    scan(schedule, 101.0, racy=["b/"])
    assert schedule.find_next(has_news=False) == 101.0 + RACY_AGAIN_S
    assert scan(schedule, 101.0 + RACY_AGAIN_S - MOMENT_S) == []
    assert scan(schedule, 101.0 + RACY_AGAIN_S) == ["b/"]


def test_many_folders_that_want_another_look_are_one_whole_scan() -> None:
    schedule = make_schedule()
    schedule.note_all_changed(100.0)
    scan(schedule, 100.0, racy=[f"{number}/" for number in range(MANY_FOLDERS + 1)])
    assert schedule.find_next(has_news=False) == 100.0 + RACY_AGAIN_S
    assert scan(schedule, 100.0 + RACY_AGAIN_S) is None


def test_many_changed_folders_are_one_whole_scan_and_no_other_after_it() -> None:
    schedule = make_schedule()
    for number in range(MANY_FOLDERS):
        schedule.note_change(f"{number}/", 100.0)
    assert len(scan(schedule, 110.0) or []) == MANY_FOLDERS
    for number in range(MANY_FOLDERS + 1):
        schedule.note_change(f"{number}/", 200.0)
    assert scan(schedule, 210.0) is None
    assert scan(schedule, 220.0) == []


def test_change_during_a_whole_scan_is_looked_at_after_it() -> None:
    schedule = make_schedule()
    schedule.note_all_changed(100.0)
    assert schedule.take_folders(100.0) is None
    schedule.note_change("a/", 105.0)
    schedule.note_scanned(racy=[], took_s=10.0, is_whole=True, now=110.0)
    assert scan(schedule, 110.0) == ["a/"]


def test_after_a_scan_of_some_folders_there_is_a_rest() -> None:
    schedule = make_schedule()
    schedule.note_change("a/", 100.0)
    scan(schedule, 101.0, took_s=4.0)
    schedule.note_change("a/", 106.0)
    assert scan(schedule, 105.0 + REST * 4.0 - MOMENT_S) == []
    assert schedule.find_next(has_news=False) == 105.0 + REST * 4.0
    assert scan(schedule, 105.0 + REST * 4.0) == ["a/"]


def test_copying_into_many_folders_does_not_scan_all_without_a_rest() -> None:
    schedule = make_schedule()
    for number in range(MANY_FOLDERS + 1):
        schedule.note_change(f"{number}/", 100.0)
    assert schedule.take_folders(101.0) is None
    for number in range(MANY_FOLDERS + 1):
        schedule.note_change(f"{number}/", 105.0)
    schedule.note_scanned(racy=[], took_s=10.0, is_whole=True, now=111.0)
    assert scan(schedule, 111.0) == []
    assert scan(schedule, 111.0 + REST * 10.0 - MOMENT_S) == []
    assert schedule.find_next(has_news=False) == 111.0 + REST * 10.0
    assert scan(schedule, 111.0 + REST * 10.0) is None


def test_first_change_after_a_long_whole_scan_does_not_wait_for_a_rest() -> None:
    schedule = make_schedule(took_s=1000.0)
    schedule.note_change("a/", 100.0)
    assert scan(schedule, 100.0 + SETTLE_S) == ["a/"]


@pytest.mark.parametrize(("rescan_s", "took_s"), [(30, 0), (30, 1), (30, 8), (30, 10), (1, 0.25), (3600, 600)])
def test_change_that_nobody_told_of_is_never_unseen_for_longer_than_rescan_s(rescan_s: float, took_s: float) -> None:
    schedule = make_schedule(rescan_s=rescan_s, took_s=took_s)
    began = -took_s
    for _ in range(5):
        begins = schedule.find_next(has_news=False)
        # Unseen for the longest time: what changes just after it was passed by, at the beginning of the scan before.
        assert begins + took_s - began == rescan_s
        assert scan(schedule, begins - MOMENT_S) == []
        assert scan(schedule, begins, took_s=took_s) is None
        began = begins


@pytest.mark.parametrize(("rescan_s", "took_s"), [(30, 11), (30, 30), (30, 1000), (0.5, 60)])
def test_scan_that_takes_long_has_as_long_a_pause_behind_it(rescan_s: float, took_s: float) -> None:
    schedule = make_schedule(rescan_s=rescan_s, took_s=took_s)
    assert schedule.find_next(has_news=False) == took_s
    assert scan(schedule, took_s - MOMENT_S) == []
    assert scan(schedule, took_s) is None


@pytest.mark.parametrize("took_s", [0.0, 10.0])
def test_watched_dataset_is_scanned_whole_more_seldom(took_s: float) -> None:
    schedule = make_schedule(rescan_s=30.0, is_watched=True, took_s=took_s)
    assert scan(schedule, 30.0 * WATCHED_FACTOR - MOMENT_S) == []
    assert schedule.find_next(has_news=False) == 30.0 * WATCHED_FACTOR
    assert scan(schedule, 30.0 * WATCHED_FACTOR) is None


def test_dataset_is_scanned_at_once_when_anything_may_have_changed() -> None:
    schedule = make_schedule(is_watched=True)
    schedule.note_all_changed(100.0)
    assert schedule.find_next(has_news=False) == 100.0
    assert scan(schedule, 100.0) is None
    assert scan(schedule, 101.0) == []


@pytest.mark.parametrize(("rescan_s", "again_s"), [(LONG_S, FAILED_AGAIN_S), (3.0, 3.0)])
@pytest.mark.parametrize("is_watched", [False, True])
def test_scan_that_failed_is_made_again(rescan_s: float, again_s: float, is_watched: bool) -> None:
    schedule = make_schedule(rescan_s=rescan_s, is_watched=is_watched)
    schedule.note_all_changed(1.0)
    assert schedule.take_folders(1.0) is None
    schedule.note_failed(2.0)
    assert schedule.find_next(has_news=False) == 2.0 + again_s
    assert scan(schedule, 2.0 + again_s) is None


def test_scan_of_some_folders_that_failed_is_made_again_of_all() -> None:
    schedule = make_schedule(is_watched=True)
    schedule.note_change("a/", 100.0)
    assert schedule.take_folders(101.0) == ["a/"]
    schedule.note_failed(101.0)
    assert scan(schedule, 101.0 + FAILED_AGAIN_S) is None


def test_failures_that_keep_coming_do_not_put_off_the_scan_of_all() -> None:
    schedule = make_schedule(is_watched=True)
    began = 100.0
    for tick in range(100):
        now = began + tick
        schedule.note_change("broken/", now)
        folders = schedule.take_folders(now)
        if folders is None:
            assert now <= began + 2 * FAILED_AGAIN_S
            return
        if folders:
            schedule.note_failed(now)
    pytest.fail("no whole scan was made")


class Change(NamedTuple):
    """Something is written into a folder so many moments after the change before it."""

    pause: int
    folder: str


class Loop:
    """Whoever follows a schedule to the letter: wakes when it said, and at no other time.

    Args:
        schedule: The schedule.
        took_s: How long every scan takes.
        racy: Folders that want one more look after they were scanned for the first time.
    """

    def __init__(self, schedule: Schedule, *, took_s: float, racy: frozenset[str]) -> None:
        self.schedule = schedule
        self.now = 0.0
        self.wakes = self.scans = self.whole_scans = 0
        self.dirty: dict[str, float] = {}
        self.found: list[float] = []
        self.longest_s = 0.0
        self._took_s = took_s
        self._racy = set(racy)

    def run(self, until: float, coming: list[tuple[float, str]]) -> None:
        """Act at every time that the schedule names; of changes it learns when they come, also during a scan."""
        while True:
            due = self.schedule.find_next(has_news=bool(self.found))
            # What is overdue happens at once, and never twice within 10 ms: so does the keeper.
            wake = max(self.now + 0.01, due)
            if coming and coming[0][0] <= wake:
                self._hear(coming)
                continue
            if wake > until:
                return
            self.now = wake
            self.wakes += 1
            self._act(coming)

    def _hear(self, coming: list[tuple[float, str]]) -> None:
        at, folder = coming.pop(0)
        self.now = max(self.now, at)
        self.dirty.setdefault(folder, at)
        self.schedule.note_change(folder, at)

    def _act(self, coming: list[tuple[float, str]]) -> None:
        folders = self.schedule.take_folders(self.now)
        if folders != []:
            self._scan(folders, coming)
        if self.found and self.schedule.may_publish(self.now):
            self.longest_s = max(self.longest_s, self.now - min(self.found))
            self.found.clear()
            self.schedule.note_published(self.now)

    def _scan(self, folders: list[str] | None, coming: list[tuple[float, str]]) -> None:
        seen = set(self.dirty) if folders is None else set(folders)
        found = [self.dirty.pop(folder) for folder in sorted(seen) if folder in self.dirty]
        ends = self.now + self._took_s
        while coming and coming[0][0] <= ends:
            self._hear(coming)
        self.now = ends
        self.scans += 1
        self.whole_scans += folders is None
        self.found += found
        racy = sorted(self._racy & seen)
        self._racy -= seen
        self.schedule.note_scanned(racy=racy, took_s=self._took_s, is_whole=folders is None, now=ends)


@given(
    changes=st.lists(
        st.builds(Change, st.integers(0, 40 * 1024) | st.integers(0, 512), st.sampled_from(["", "a/", "a/b/", "c/"])),
        max_size=30,
    ),
    rescan_s=st.sampled_from([1.0, 30.0, LONG_S]),
    is_watched=st.booleans(),
    took_s=st.sampled_from([0.0, MOMENT_S, 0.25, 3.0, 20.0]),
    racy=st.frozensets(st.sampled_from(["a/", "c/"])),
)
def test_whoever_wakes_when_told_publishes_every_change_and_does_not_wake_in_vain(
    changes: list[Change], rescan_s: float, is_watched: bool, took_s: float, racy: frozenset[str]
) -> None:
    schedule = make_schedule(rescan_s=rescan_s, is_watched=is_watched, took_s=took_s)
    coming: list[tuple[float, str]] = []
    at = 50.0
    for change in changes:
        at += change.pause * MOMENT_S
        coming.append((at, change.folder))
    loop = Loop(schedule, took_s=took_s, racy=racy)
    # A folder waits for the quiet time, a scan under way, the rest after it, and its own scan; then for its revision.
    within_s = QUIET_S + (REST + 3) * took_s + PUBLISH_EVERY_S + 1
    end = at + within_s
    loop.run(end, coming)
    assert (loop.dirty, loop.found) == ({}, [])
    assert loop.longest_s <= within_s
    pause_s = max(0.25, min(rescan_s, took_s))
    whole_scans = 2 + end / (rescan_s * WATCHED_FACTOR if is_watched else max(rescan_s / 3, pause_s))
    assert loop.whole_scans <= whole_scans
    assert loop.scans - loop.whole_scans <= len(changes) + len(racy)
    # Each time it wakes it scans or publishes, but for once after each revision where the sum of two times is rounded.
    assert loop.wakes <= loop.scans + 2 * (len(changes) + 1)
