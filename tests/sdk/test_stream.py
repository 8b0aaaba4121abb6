"""Streams of samples over a real hub: every sample once, in an order that seed and epoch fix, resumable anywhere."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import pickle
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest

import dsx._kept
from dsx import (
    AccessDeniedError,
    CacheDisabledError,
    ConflictError,
    DatasetHubClient,
    DatasetNotFoundError,
    InvalidRequestError,
    RevisionNotFoundError,
    Sample,
    SampleStream,
)
from dsx.order import Order
from tests.conftest import HubProcess, write_files
from tests.sdk.conftest import Dataset, files_below, run_python, wait_until
from tests.sdk.proxy import Proxy

Connect = Callable[..., DatasetHubClient]
Stream = Callable[..., SampleStream]

COUNT = 101
PATHS = [f"{number % 7}/{number:03}.bin" for number in range(COUNT)]


def content(path: str) -> bytes:
    return random.Random(path).randbytes(200 + 30 * (sum(path.encode()) % 50))


FILES = {path: content(path) for path in sorted(PATHS)}
ROWS = list(FILES)


def rows(samples: Iterator[Sample] | SampleStream, count: int | None = None) -> list[int]:
    """Take samples, check that each is what its row says, and return the rows."""
    taken = list(islice(samples, count))
    assert all((sample.path, sample.data) == (ROWS[sample.index], FILES[sample.path]) for sample in taken)
    return [sample.index for sample in taken]


def carry(state: dict[str, Any]) -> dict[str, Any]:
    """Send a state through JSON."""
    carried: dict[str, Any] = json.loads(json.dumps(state))
    return carried


def count_threads() -> int:
    return sum(thread.name == "dsx-batch" for thread in threading.enumerate())


@pytest.fixture
def cats(dataset: Dataset) -> Dataset:
    """A dataset of ``FILES``."""
    dataset.write(FILES)
    return dataset


@pytest.fixture
def stream(cats: Dataset, connect: Connect) -> Stream:
    """Open streams of it with one client."""
    client = connect(cats.url)

    def make(**options: object) -> SampleStream:
        return client.stream(cats.name, **options)  # type: ignore[arg-type]

    return make


# 1. Passes, epochs and states


@pytest.mark.parametrize("shuffle", [False, True])
def test_pass_gives_every_sample_once_in_its_order(stream: Stream, shuffle: bool) -> None:
    made = stream(shuffle=shuffle, seed=3)
    assert len(made) == COUNT
    assert rows(made) == Order(COUNT, seed=3, shuffle=shuffle).take(range(COUNT))
    assert rows(made) == Order(COUNT, seed=3, epoch=1, shuffle=shuffle).take(range(COUNT))


def test_broken_pass_begins_again_and_a_completed_one_is_followed_by_the_next(stream: Stream) -> None:
    made = stream(shuffle=True)
    first = rows(made, 10)
    assert made.epoch == 0
    assert rows(made)[:10] == first
    assert made.epoch == 1
    second = rows(made, 10)
    assert second != first
    made.set_epoch(0)
    assert rows(made)[:10] == first
    made.set_epoch(7)
    assert rows(made) == Order(COUNT, epoch=7).take(range(COUNT))
    assert made.epoch == 8


def test_loop_that_takes_all_and_does_not_ask_for_more_has_had_the_epoch(stream: Stream) -> None:
    made = stream(shuffle=True)
    samples = iter(made)
    rows(samples, COUNT)
    assert (made.state_dict()["epoch"], made.state_dict()["position"]) == (0, COUNT)
    assert rows(made, COUNT) == Order(COUNT, epoch=1).take(range(COUNT))
    made.set_epoch(1)
    assert rows(made) == Order(COUNT, epoch=1).take(range(COUNT))
    batches = made.batches(50)
    assert sum(len(next(batches)) for _ in range(3)) == COUNT
    assert rows(made) == Order(COUNT, epoch=3).take(range(COUNT))


@pytest.mark.parametrize("world_size", [1, 3])
def test_state_after_every_sample_leaves_exactly_the_tail(stream: Stream, world_size: int) -> None:
    made = stream(shuffle=True, seed=5, rank=world_size - 1, world_size=world_size)
    whole = rows(made)
    made.set_epoch(0)
    samples = iter(made)
    other = stream(shuffle=True, rank=world_size - 1, world_size=world_size)
    for taken in range(len(whole) + 1):
        state = carry(made.state_dict())
        assert state == made.state_dict()
        for _ in range(2):  # it may be restored twice
            other.load_state_dict(state)
            assert rows(other) == whole[taken:]
            assert other.epoch == 1
        assert rows(samples, 1) == whole[taken : taken + 1]


def test_state_on_the_last_sample_gives_nothing_and_after_the_loop_the_next_epoch(stream: Stream) -> None:
    made = stream(shuffle=True, seed=5)
    samples = iter(made)
    rows(samples, COUNT)
    on_the_last = carry(made.state_dict())
    assert list(samples) == []
    after = carry(made.state_dict())
    assert (on_the_last["epoch"], after["epoch"], after["position"]) == (0, 1, 0)
    other = stream(shuffle=True)
    other.load_state_dict(on_the_last)
    assert rows(other) == []
    assert rows(other) == Order(COUNT, seed=5, epoch=1).take(range(COUNT))
    other.load_state_dict(after)
    assert rows(other) == Order(COUNT, seed=5, epoch=1).take(range(COUNT))


def test_two_epochs_a_state_and_two_epochs_are_four(stream: Stream) -> None:
    straight = stream(shuffle=True, seed=1)
    expected = [rows(straight) for _ in range(4)]
    first = stream(shuffle=True, seed=1)
    halves = [rows(first) for _ in range(2)]
    second = stream(shuffle=True)
    second.load_state_dict(carry(first.state_dict()))
    assert halves + [rows(second) for _ in range(2)] == expected


def test_state_of_a_broken_pass_is_where_it_was_broken_off(stream: Stream) -> None:
    made = stream(shuffle=True)
    whole = rows(made)
    made.set_epoch(0)
    for number, _ in enumerate(made):
        if number == 40:
            break
    other = stream(shuffle=True)
    other.load_state_dict(made.state_dict())
    other.set_epoch(0)  # as a loop does that sets every epoch
    assert rows(other) == whole[41:]


def test_batches_are_lists_and_their_states_are_of_whole_ones(stream: Stream) -> None:
    made = stream(shuffle=True)
    whole = rows(made)
    made.set_epoch(0)
    lists = made.batches(10)
    got = [[sample.index for sample in next(lists)] for _ in range(3)]
    assert got == [whole[:10], whole[10:20], whole[20:30]]
    other = stream(shuffle=True)
    other.load_state_dict(carry(made.state_dict()))
    rest = list(other.batches(10))
    assert [len(batch) for batch in rest] == [10] * 7 + [1]
    assert [sample.index for batch in rest for sample in batch] == whole[30:]
    assert other.epoch == 1
    with pytest.raises(InvalidRequestError, match="n is at least 1"):
        made.batches(0)


def test_pass_that_is_no_longer_the_newest_changes_nothing(stream: Stream) -> None:
    made = stream()
    old = iter(made)
    next(old)
    newer = iter(made)
    rows(newer, 5)
    rows(old)
    assert made.state_dict()["position"] == 5
    assert made.epoch == 0
    rows(newer)
    assert made.epoch == 1


# 2. to 4. Ranks


@pytest.mark.parametrize("sizes", [(8, 2, 8), (2, 3, 1), (1, 5, 16), (3, 8, 2)])
def test_world_size_may_change_in_the_middle_of_an_epoch(stream: Stream, sizes: tuple[int, ...]) -> None:
    state, taken = None, []
    for number, world_size in enumerate(sizes):
        steps = None if number == len(sizes) - 1 else 4
        states = []
        for rank in range(world_size):
            made = stream(shuffle=True, seed=2, rank=rank, world_size=world_size)
            if state is not None:
                made.load_state_dict(carry(state))
            samples = iter(made)
            taken += rows(samples, steps)
            states.append(made.state_dict())
        assert all(each == states[0] for each in states)
        state = states[0]
    assert sorted(taken) == list(range(COUNT))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_last_step_of_uneven_ranks_loses_nothing(stream: Stream, rank: int) -> None:
    """With 101 samples and 3 ranks the third takes 33, the others 34; the state of any after 33 steps serves all."""
    ranks = [stream(rank=number, world_size=3) for number in range(3)]
    taken = [row for made in ranks for row in rows(iter(made), 33)]
    made = stream(rank=rank, world_size=3)
    pass_ = iter(made)
    rows(pass_, 33)
    state = made.state_dict()
    for number in range(3):
        other = stream(rank=number, world_size=3)
        other.load_state_dict(state)
        taken += rows(other)
    assert sorted(taken) == list(range(COUNT))


@pytest.mark.parametrize("world_size", [2, 3, 16, 200])
def test_remainder_by_name(stream: Stream, world_size: int) -> None:
    def lengths(remainder: str) -> list[int]:
        made = [
            stream(shuffle=True, rank=rank, world_size=world_size, remainder=remainder) for rank in range(world_size)
        ]
        assert [len(each) for each in made] == [len(rows(each)) for each in made]
        return [len(each) for each in made]

    assert sum(lengths("exact")) == COUNT
    assert set(lengths("drop")) == {COUNT // world_size}
    assert set(lengths("pad")) == {-(-COUNT // world_size)}


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_global_batch_holds_the_same_samples_for_every_world_size(stream: Stream, world_size: int) -> None:
    whole = rows(stream(shuffle=True))
    passes = [
        stream(shuffle=True, rank=rank, world_size=world_size).batches(12 // world_size) for rank in range(world_size)
    ]
    for number in range(COUNT // 12):
        batch = {sample.index for each in passes for sample in next(each)}
        assert batch == set(whole[12 * number : 12 * number + 12])
    for each in passes:
        each.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_and_none(dataset: Dataset, connect: Connect, count: int) -> None:
    dataset.write({"x": b"x"})
    client = connect(dataset.url)
    made = client.stream(dataset.name, shuffle=True, exclude=None if count else "*")
    for epoch in range(3):
        assert made.epoch == epoch
        assert [sample.data for sample in made] == [b"x"] * count
        assert list(made.batches(4)) == ([[Sample(0, "x", b"x")]] if count else [])
        made.set_epoch(epoch + 1)


# 5. What the order depends on


def test_order_is_that_of_another_process(stream: Stream, cats: Dataset) -> None:
    code = """
        import random, sys
        from dsx import DatasetHubClient
        random.seed(99)
        with DatasetHubClient(sys.argv[1], sys.argv[3], cache_dir=None) as hub:
            print([sample.index for sample in hub.stream(sys.argv[2], shuffle=True, seed=8)])
    """
    made = stream(shuffle=True, seed=8)
    assert json.loads(run_python(code, cats.url, cats.name, "test-key-0123456789")) == rows(made)


# Selections and revisions


def test_index_of_a_selection_is_the_row_in_the_whole_manifest(stream: Stream) -> None:
    made = stream(include=["1/*", "2/*"], exclude="*5.bin", shuffle=True)
    expected = [row for row, path in enumerate(ROWS) if path[0] in "12" and not path.endswith("5.bin")]
    assert len(made) == len(expected)
    assert sorted(rows(made)) == expected


def test_selection_of_nothing_is_said(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    assert len(stream(include="*.jpg")) == 0
    assert "none of the 101 files" in caplog.text
    assert "*.jpg" in caplog.text


def test_run_goes_on_in_its_revision_when_the_dataset_has_grown(
    stream: Stream, cats: Dataset, connect: Connect
) -> None:
    made = stream(shuffle=True, seed=4)
    whole = rows(made)
    made.set_epoch(0)
    rows(iter(made), 30)
    state = carry(made.state_dict())
    cats.write({"0/new.bin": b"new"})
    client = connect(cats.url)
    wait_until(lambda: client.get_revision(cats.name) != state["revision"], "the new file is seen")
    newest = client.stream(cats.name, shuffle=True)
    assert len(newest) == COUNT + 1
    newest.load_state_dict(state)
    assert newest.revision == state["revision"]
    assert len(newest) == COUNT
    assert rows(newest) == whole[30:]


@pytest.mark.parametrize("size", [500, 3000])
def test_sample_that_has_changed_since_is_a_conflict(dataset: Dataset, connect: Connect, size: int) -> None:
    dataset.write({"a": bytes(size), "b": bytes(size)})
    client = connect(dataset.url)
    made = client.stream(dataset.name)
    assert len(list(made)) == 2
    dataset.write({"b": b"x" * size})
    with pytest.raises(ConflictError, match="b"):
        list(made)
    (dataset.folder / "b").unlink()
    with pytest.raises((ConflictError, FileNotFoundError), match="b"):
        list(made)
    assert made.state_dict()["position"] == 1


def test_state_of_another_run_is_refused_with_the_difference(stream: Stream, cats: Dataset, connect: Connect) -> None:
    state = stream(shuffle=True, include="1/*").state_dict()
    for options, difference in [
        ({"shuffle": True}, "include is .'1/\\*'. there and None here"),
        ({"shuffle": True, "include": "2/*"}, "include is .'1/\\*'. there and .'2/\\*'. here"),
        ({"shuffle": True, "include": "1/*", "exclude": "x"}, "exclude is None there and .'x'. here"),
        ({"include": "1/*"}, "shuffle is True there and False here"),
    ]:
        with pytest.raises(ValueError, match=difference):
            stream(**options).load_state_dict(state)
    made = stream(shuffle=True, include=["1/*"])
    for change, words in [
        ({"dataset": "dogs"}, f"dataset is 'dogs' there and '{cats.name}' here"),
        ({"revision": "0" * 32}, "revision '0+' of dataset .* has no longer"),
        ({"revision": "nonsense"}, "nonsense"),
        ({"position": 10_000}, "position of the state is from 0 to"),
        ({"position": "1"}, "look at position"),
        ({"seed": None}, "look at seed"),
        ({"version": 2}, "look at version"),
        ({"more": 1}, "look at more"),
    ]:
        before = made.state_dict()
        with pytest.raises(ValueError, match=words):
            made.load_state_dict(state | change)
        assert made.state_dict() == before
    with pytest.raises(ValueError, match="no state"):
        made.load_state_dict(None)  # type: ignore[arg-type]


def test_state_of_another_pinned_revision_is_refused(stream: Stream, cats: Dataset, connect: Connect) -> None:
    old = stream().revision
    state = stream().state_dict()
    cats.write({"new": b""})
    client = connect(cats.url)
    wait_until(lambda: client.get_revision(cats.name) != old, "the new file is seen")
    pinned = client.stream(cats.name, revision=client.get_revision(cats.name))
    with pytest.raises(ValueError, match=f"revision is '{old}' there and '{pinned.revision}' here"):
        pinned.load_state_dict(state)
    assert rows(client.stream(cats.name, revision=old)) == list(range(COUNT))
    with pytest.raises(RevisionNotFoundError):
        client.stream(cats.name, revision="0" * 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 1},
        {"world_size": 0},
        {"remainder": "all"},
        {"seed": 1.5},
        {"epoch": -1},
        {"prefetch_bytes": 0},
        {"on_error": "ignore"},
        {"include": 3},
    ],
)
def test_wrong_arguments_are_refused(stream: Stream, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        stream(**wrong)


def test_unknown_dataset_is_told_at_once(connect: Connect, cats: Dataset) -> None:
    with pytest.raises(DatasetNotFoundError):
        connect(cats.url).stream("dogs")


# 7. Errors


def test_failure_is_raised_and_the_rest_comes_later(stream: Stream, cats: Dataset) -> None:
    made = stream(shuffle=True)
    whole = rows(made)
    made.set_epoch(0)
    gone = ROWS[whole[60]]
    (cats.folder / gone).unlink()
    taken: list[int] = []
    with pytest.raises((ConflictError, FileNotFoundError), match=gone):
        taken.extend(sample.index for sample in made)
    state = made.state_dict()
    assert state["position"] == 60
    write_files(cats.folder, {gone: FILES[gone]})
    other = stream(shuffle=True, on_error="skip")
    other.load_state_dict(state)
    tail = [sample.index for sample in other]
    assert set(whole[61:]) <= set(tail) <= set(whole[60:])


def test_skipped_samples_are_said_and_counted_as_done(
    stream: Stream, cats: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    made = stream(on_error="skip")
    (cats.folder / ROWS[3]).unlink()
    (cats.folder / ROWS[100]).unlink()
    samples = iter(made)
    assert rows(samples, 3) == [0, 1, 2]
    assert rows(samples, 1) == [4]
    assert made.state_dict()["position"] == 5
    assert rows(samples) == list(range(5, 100))
    assert made.epoch == 1
    assert ROWS[3] in caplog.text
    made.set_epoch(0)
    assert sum(map(len, made.batches(7))) == COUNT - 2
    assert made.epoch == 1


def test_restarted_hub_is_not_noticed(
    start_hub: Callable[..., HubProcess], served: Any, connect: Connect, start_proxy: Callable[[int], Proxy]
) -> None:
    write_files(served / "cats", FILES)
    hub = start_hub()
    client = connect(hub.url, cache_dir=None)
    made = client.stream("cats", shuffle=True, prefetch_bytes=20_000)
    samples = iter(made)
    taken = rows(samples, 20)
    hub.kill()
    restart = threading.Timer(0.5, hub.start)
    restart.start()
    taken += rows(samples)
    restart.join()
    assert sorted(taken) == list(range(COUNT))
    assert made.stats().retries > 0


def test_key_that_is_refused_in_the_middle_ends_the_pass(
    start_hub: Callable[..., HubProcess], served: Any, connect: Connect
) -> None:
    write_files(served / "cats", FILES)
    hub = start_hub()
    client = connect(hub.url, cache_dir=None)
    samples = iter(client.stream("cats", prefetch_bytes=1))
    next(samples)
    hub.kill()
    hub.env["DSX_API_KEY"] = "another-key-0123456789"
    hub.start()
    with pytest.raises(AccessDeniedError):
        list(samples)


# What is left behind


@pytest.mark.parametrize("prefetch_bytes", [1, 5_000, 1 << 26])
def test_budget_changes_nothing_but_the_number_of_requests(stream: Stream, prefetch_bytes: int) -> None:
    made = stream(shuffle=True, prefetch_bytes=prefetch_bytes)
    assert rows(made) == Order(COUNT).take(range(COUNT))


@pytest.mark.parametrize("how", ["break", "close", "with", "error"])
def test_pass_that_is_broken_off_leaves_no_thread(
    cats: Dataset, connect: Connect, start_proxy: Callable[[int], Proxy], how: str
) -> None:
    proxy = start_proxy(cats.port)
    made = connect(proxy.url, cache_dir=None).stream(cats.name)
    proxy.hold_after(30_000)
    samples = iter(made)
    next(samples)
    assert count_threads() > 0
    if how == "break":
        del samples
        gc.collect()
    elif how == "close":
        made.close()
        made.close()
    elif how == "with":
        with made:
            pass
    else:
        del samples
        proxy.release()
        proxy.hold_after(30_000)
        with contextlib.suppress(ZeroDivisionError):
            for _ in made:
                raise ZeroDivisionError
    wait_until(lambda: count_threads() == 0, "the threads have ended")
    proxy.release()
    assert rows(made) == list(range(COUNT))


@pytest.mark.parametrize("end", ["end", "error", "interrupt", "exit"])
def test_process_that_took_one_sample_ends_within_seconds(cats: Dataset, end: str) -> None:
    code = """
        import os, signal, sys, time
        from dsx import DatasetHubClient
        hub = DatasetHubClient(sys.argv[1], sys.argv[3], cache_dir=None)
        samples = iter(hub.stream(sys.argv[2], shuffle=True, prefetch_bytes=2000))
        first = next(samples)
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
        print(len(first.data))
    """
    began = time.monotonic()
    run_python(code, cats.url, cats.name, "test-key-0123456789", end)
    assert time.monotonic() - began < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_child_of_a_fork_may_begin_anew_and_the_parent_goes_on(stream: Stream) -> None:
    made = stream(shuffle=True, prefetch_bytes=2_000)
    samples = iter(made)
    taken = rows(samples, 10)
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(30)
            is_refused = False
            try:
                list(samples)
            except InvalidRequestError:
                is_refused = True
            status = 0 if is_refused and rows(made) == Order(COUNT).take(range(COUNT)) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert taken + rows(samples) == Order(COUNT).take(range(COUNT))


# Statistics


def test_stats_tell_of_the_pass(stream: Stream, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dsx")
    made = stream(shuffle=True)
    assert made.stats().samples == 0
    assert made.stats().samples_per_s == made.stats().waited_share == made.stats().requests_per_1000 == 0
    samples = iter(made)
    rows(samples, 50)
    assert made.stats().samples == 50
    rows(samples)
    stats = made.stats()
    assert stats == made.stats()
    assert (stats.samples, stats.bytes) == (COUNT, sum(map(len, FILES.values())))
    assert 1 <= stats.requests <= 5
    assert 0 < stats.request_p50_s <= stats.request_p99_s < stats.seconds
    assert 0 < stats.waited_share <= 1
    assert stats.samples_per_s == pytest.approx(COUNT / stats.seconds)
    assert stats.mb_per_s == pytest.approx(stats.bytes / stats.seconds / 1e6)
    assert stats.requests_per_1000 == pytest.approx(1000 * stats.requests / COUNT)
    lines = [record.message for record in caplog.records if record.message.startswith("epoch 0 of dataset")]
    assert len(lines) == 1
    assert "101 samples" in lines[0]
    assert "requests per 1,000 samples" in lines[0]


# cache=True


def test_kept_samples_are_in_the_layout_of_the_cache_and_come_from_there(
    cats: Dataset, connect: Connect, start_proxy: Callable[[int], Proxy], cache_dir: Any
) -> None:
    proxy = start_proxy(cats.port)
    made = connect(proxy.url).stream(cats.name, shuffle=True, cache=True)
    assert rows(made) == Order(COUNT).take(range(COUNT))
    assert files_below(cache_dir / cats.name) == FILES
    asked = len(proxy.requests)
    assert rows(made) == Order(COUNT, epoch=1).take(range(COUNT))
    assert len(proxy.requests) == asked
    assert made.stats().requests == 0
    again = connect(proxy.url).stream(cats.name, shuffle=True, cache=True)
    assert rows(again) == Order(COUNT).take(range(COUNT))
    assert len(proxy.requests) == asked + 1  # whether the manifest is still right


def test_part_that_is_in_the_cache_is_not_fetched(
    cats: Dataset, connect: Connect, start_proxy: Callable[[int], Proxy], cache_dir: Any
) -> None:
    client = connect(cats.url)
    client.download_dataset(cats.name, include=["1/*", "3/*"])
    (cache_dir / cats.name / ROWS[20]).unlink(missing_ok=True)
    (cache_dir / cats.name / ROWS[21]).write_bytes(b"touched")
    made = client.stream(cats.name, shuffle=True, cache=True, prefetch_bytes=10_000)
    assert Counter(rows(made)) == Counter(range(COUNT))
    sizes = made.stats()
    assert sizes.requests > 0


def test_file_that_vanishes_while_it_is_read_comes_from_the_hub(
    cats: Dataset, connect: Connect, cache_dir: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(cats.url)
    client.download_dataset(cats.name)
    (cache_dir / cats.name / ROWS[3]).unlink()  # with all of them there, nobody asks which are
    checked = dsx._kept.Inventory.check

    def check(self: Any, entries: Any) -> Any:
        found = checked(self, entries)
        (cache_dir / cats.name / ROWS[7]).unlink(missing_ok=True)
        (cache_dir / cats.name / ROWS[8]).write_bytes(b"")
        return found

    monkeypatch.setattr(dsx._kept.Inventory, "check", check)
    assert rows(client.stream(cats.name, cache=True)) == list(range(COUNT))


def test_files_that_change_in_the_middle_of_a_pass_come_from_the_hub(
    cats: Dataset, connect: Connect, cache_dir: Any
) -> None:
    client = connect(cats.url)
    client.download_dataset(cats.name)
    made = client.stream(cats.name, shuffle=True, cache=True)
    assert Counter(rows(made)) == Counter(range(COUNT))
    order = Order(COUNT, epoch=1).take(range(COUNT))
    came = {}
    for number, sample in enumerate(made):
        came[sample.path] = sample.data
        if number == 10:
            assert made.stats().requests == 0
            folder = cache_dir / cats.name
            (folder / ROWS[order[20]]).unlink()
            (folder / ROWS[order[30]]).write_bytes(FILES[ROWS[order[30]]][:-1] + b"x")
            (folder / ROWS[order[40]]).write_bytes(b"")
            target = folder / ROWS[order[50]]
            target.unlink()
            target.symlink_to(folder / ROWS[order[60]])
    assert came == FILES


def test_files_that_were_changed_between_passes_are_seen(cats: Dataset, connect: Connect, cache_dir: Any) -> None:
    made = connect(cats.url).stream(cats.name, cache=True)
    for number in range(3):
        assert {sample.path: sample.data for sample in made} == FILES
        (cache_dir / cats.name / ROWS[number]).write_bytes(b"x" * len(FILES[ROWS[number]]))
    assert {sample.path: sample.data for sample in made} == FILES


def test_cache_that_takes_nothing_is_said_and_no_reason_to_stop(
    cats: Dataset, connect: Connect, cache_dir: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(cats.url)
    made = client.stream(cats.name, cache=True, prefetch_bytes=10_000)
    (cache_dir / cats.name).write_text("a file where the folder has to be")
    assert rows(made) == list(range(COUNT))
    assert (cache_dir / cats.name).read_text() == "a file where the folder has to be"


def test_cache_of_a_client_without_one_is_refused(cats: Dataset, connect: Connect) -> None:
    with pytest.raises(CacheDisabledError, match="leave out cache=True"):
        connect(cats.url, cache_dir=None).stream(cats.name, cache=True)


def test_long_samples_are_streamed_and_kept(dataset: Dataset, connect: Connect, cache_dir: Any) -> None:
    files = {"a": b"a" * 3000, "b": random.Random(1).randbytes(9 << 20), "c": b"c"}
    dataset.write(files)
    client = connect(dataset.url)
    assert [sample.data for sample in client.stream(dataset.name)] == list(files.values())
    assert [sample.data for sample in client.stream(dataset.name, cache=True)] == list(files.values())
    assert files_below(cache_dir / dataset.name) == files


def test_source_of_a_stream_survives_pickling(stream: Stream) -> None:
    source = stream(include="1/*")._source
    again = pickle.loads(pickle.dumps(source))
    assert again.read_all([0, 2, 2]) == source.read_all([0, 2, 2])
    assert [again.read_path(number) for number in range(len(again))] == [path for path in ROWS if path[0] == "1"]
