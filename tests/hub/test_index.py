"""The index: what has not changed is not opened again, what has changed is never missed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsx.errors import DatasetNotFoundError
from dsx_server.index import RevisionInfo
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import WAIT_S, wait_until
from tests.hub.looker import CountingStorage, Looker, compute_revision, md5, read_tree


@pytest.fixture
def storage(served: Path) -> CountingStorage:
    """A storage on ``served``."""
    return CountingStorage(served)


@pytest.fixture
def make_index(tmp_path: Path, storage: CountingStorage) -> Iterator[Callable[[], Looker]]:
    """Open an index on the same state folder as those before it: the hub's restart."""
    lookers: list[Looker] = []

    def make() -> Looker:
        for looker in lookers:
            looker.close()
        lookers.append(Looker(tmp_path / "state", storage))
        return lookers[-1]

    yield make
    for looker in lookers:
        looker.close()


def hashes(looker: Looker) -> dict[str, str]:
    """Return the head hashes of dataset ``cats`` by path."""
    columns = looker.load("cats")
    return dict(zip(columns["paths"], columns["hashes"], strict=True))


def settle(index: Looker, storage: CountingStorage) -> None:
    """Wait until the files are old enough to be trusted, which nothing but their age decides."""

    def is_settled() -> bool:
        storage.opened.clear()
        index.refresh("cats")
        return not storage.opened

    wait_until(is_settled, "the entries were trusted")


def test_unchanged_entry_is_not_opened_again_not_even_after_a_restart(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    write_files(served, {"cats/a": b"1", "cats/b/c": b"2" * 5000})
    index = make_index()
    settle(index, storage)
    expected = {"a": md5(b"1"), "b/c": md5(b"2" * 5000)}
    assert hashes(index) == expected
    assert storage.opened == {}
    assert hashes(make_index()) == expected
    assert storage.opened == {}


def test_only_what_changed_is_opened(served: Path, storage: CountingStorage, make_index: Callable[[], Looker]) -> None:
    write_files(served, {"cats/a": b"1", "cats/b": b"2", "cats/c": b"3"})
    settle(make_index(), storage)
    (served / "cats" / "b").write_bytes(b"4")
    (served / "cats" / "d").write_bytes(b"5")
    assert hashes(make_index()) == {"a": md5(b"1"), "b": md5(b"4"), "c": md5(b"3"), "d": md5(b"5")}
    assert storage.opened == {"b": 1, "d": 1}


def test_entry_that_has_just_changed_is_looked_at_again(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    write_files(served, {"cats/a": b"1"})
    index = make_index()
    index.refresh("cats")
    index.refresh("cats")
    assert storage.opened == {"a": 2}


def test_change_in_place_at_equal_size_and_mtime_is_seen_after_a_restart(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    path = served / "cats" / "a"
    write_files(served, {"cats/a": b"old"})
    os.utime(path, ns=(10**18, 10**18))
    settle(make_index(), storage)
    path.write_bytes(b"new")
    os.utime(path, ns=(10**18, 10**18))
    assert hashes(make_index()) == {"a": md5(b"new")}


def test_swap_for_a_file_of_equal_size_and_mtime_is_seen(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    write_files(served, {"cats/a": b"old", "cats/b": b"new"})
    for name in ("a", "b"):
        os.utime(served / "cats" / name, ns=(10**18, 10**18))
    index = make_index()
    settle(index, storage)
    (served / "cats" / "b").replace(served / "cats" / "a")
    assert hashes(index) == {"a": md5(b"new")}


def test_every_one_of_many_quick_writes_is_seen(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    index = make_index()
    for number in range(30):
        write_files(served, {"cats/a": b"%02d" % number})
        assert hashes(index) == {"a": md5(b"%02d" % number)}


@pytest.mark.parametrize("mtime_s", [-(2**31), 0, 2**33])
def test_odd_mtime_is_kept_to_the_nanosecond(served: Path, make_index: Callable[[], Looker], mtime_s: int) -> None:
    write_files(served, {"cats/a": b"1"})
    os.utime(served / "cats" / "a", ns=(mtime_s * 10**9 + 7, mtime_s * 10**9 + 7))
    found = make_index().load("cats")["mtimes_ns"][0]
    assert found == (served / "cats" / "a").stat().st_mtime_ns


@pytest.mark.parametrize("mtime_s", [15_000_000_000, 2**33 + 2**32])
def test_mtime_that_64_bits_of_nanoseconds_cannot_hold_is_no_obstacle(
    served: Path, make_index: Callable[[], Looker], mtime_s: int
) -> None:
    write_files(served, {"cats/a": b"1", "cats/b": b"2"})
    os.utime(served / "cats" / "a", (mtime_s, mtime_s))
    index = make_index()
    assert hashes(index) == {"a": md5(b"1"), "b": md5(b"2")}
    assert index.load("cats")["mtimes_ns"][0] <= 2**63 - 1


def test_inode_of_64_bits_is_no_obstacle(served: Path, make_index: Callable[[], Looker]) -> None:
    write_files(served, {"cats/a": b"1"})
    real_stat, real_fstat = os.stat, os.fstat

    def enlarged(status: os.stat_result) -> os.stat_result:
        values = list(status)
        values[1] += 2**63
        extra = {name: getattr(status, name) for name in ("st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blocks")}
        return os.stat_result(values, extra)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", lambda *args, **options: enlarged(real_stat(*args, **options)))
        patch.setattr(os, "fstat", lambda descriptor: enlarged(real_fstat(descriptor)))
        index = make_index()
        assert hashes(index) == {"a": md5(b"1")}
        assert hashes(index) == {"a": md5(b"1")}


def test_removed_entry_is_gone_and_may_come_back(served: Path, make_index: Callable[[], Looker]) -> None:
    index = make_index()
    write_files(served, {"cats/a": b"1", "cats/b": b"2"})
    index.refresh("cats")
    (served / "cats" / "a").unlink()
    assert hashes(index) == {"b": md5(b"2")}
    write_files(served, {"cats/a": b"3"})
    assert hashes(index) == {"a": md5(b"3"), "b": md5(b"2")}


def test_revision_is_that_of_the_files_after_every_change(served: Path, make_index: Callable[[], Looker]) -> None:
    index = make_index()
    cats = served / "cats"
    cats.mkdir()
    assert index.refresh("cats").id == compute_revision(read_tree(cats))
    write_files(cats, {"b": b"2", "a/c": b"1" * 2000, "\U0001f431": b"", "\uffee": b""})
    assert index.refresh("cats").id == compute_revision(read_tree(cats))
    (cats / "b").write_bytes(b"3")
    assert index.refresh("cats").id == compute_revision(read_tree(cats))
    (cats / "b").unlink()
    assert index.refresh("cats").id == compute_revision(read_tree(cats))
    assert make_index().refresh("cats").id == compute_revision(read_tree(cats))


def test_state_that_comes_back_has_its_old_revision(served: Path, make_index: Callable[[], Looker]) -> None:
    index = make_index()
    write_files(served, {"cats/a": b"1"})
    mtime_ns = (served / "cats" / "a").stat().st_mtime_ns
    before = index.refresh("cats").id
    (served / "cats" / "a").write_bytes(b"2")
    assert index.refresh("cats").id != before
    (served / "cats" / "a").write_bytes(b"1")
    os.utime(served / "cats" / "a", ns=(mtime_ns, mtime_ns))
    assert index.refresh("cats").id == before


def test_revision_does_not_depend_on_the_order_of_the_disk(served: Path, make_index: Callable[[], Looker]) -> None:
    names = [f"{number:03}" for number in range(50)]
    for dataset, order in (("cats", names), ("dogs", names[::-1])):
        write_files(served / dataset, dict.fromkeys(order, b""))
        for name in names:
            os.utime(served / dataset / name, ns=(10**18, 10**18))
    index = make_index()
    assert index.refresh("cats").id == index.refresh("dogs").id


def test_datasets_do_not_share_rows(served: Path, make_index: Callable[[], Looker]) -> None:
    write_files(served, {"cats/a": b"1", "dogs/a": b"2"})
    index = make_index()
    assert hashes(index) == {"a": md5(b"1")}
    assert index.load("dogs")["hashes"] == [md5(b"2")]


def test_sums_are_those_of_the_files(served: Path, make_index: Callable[[], Looker]) -> None:
    write_files(served, {"cats/a": b"12", "cats/b": b"345", "cats/.DS_Store": b""})
    info = make_index().refresh("cats")
    assert (info.entries, info.bytes, sum(info.left_out.values())) == (2, 5, 1)


def test_requests_that_wait_share_one_scan(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    write_files(served, {"cats/a": b"1"})
    index = make_index()
    first_is_walking, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        first_is_walking.set()
        assert go_on.wait(WAIT_S)

    storage.on_walk = hold_up
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(index.refresh, "cats")
        assert first_is_walking.wait(WAIT_S)
        asked = threading.Barrier(20)

        def ask_for_it() -> RevisionInfo:
            asked.wait(WAIT_S)
            return index.refresh("cats")

        others = [pool.submit(ask_for_it) for _ in range(19)]
        asked.wait(WAIT_S)
        wait_until(lambda: pool._work_queue.empty(), "all threads are at work")
        threading.Event().wait(0.1)  # the last step into the queue shows itself to nobody
        go_on.set()
        assert {future.result(WAIT_S).id for future in others} == {first.result(WAIT_S).id}
    assert storage.walks < 20


def test_request_sees_what_was_written_before_it_was_made(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    write_files(served, {"cats/0": b""})
    index = make_index()

    def write_and_ask(number: int) -> bool:
        write_files(served, {f"cats/{number}": b""})
        return str(number) in hashes(index)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(write_and_ask, range(1, 60)))


def test_every_request_for_a_dataset_that_is_gone_is_told_so(
    served: Path, storage: CountingStorage, make_index: Callable[[], Looker]
) -> None:
    write_files(served, {"cats/a": b"1"})
    index = make_index()
    index.refresh("cats")
    (served / "cats" / "a").unlink()
    (served / "cats").rmdir()
    asked = threading.Barrier(20)

    def ask_for_it(name: str) -> str:
        asked.wait(WAIT_S)
        try:
            return f"{index.refresh(name).entries} rows"
        except Exception as error:  # noqa: BLE001 -- which one is the question
            return type(error).__name__

    for name in ("cats", "never-there"):
        for _ in range(5):
            with ThreadPoolExecutor(20) as pool:
                assert set(pool.map(ask_for_it, [name] * 20)) == {DatasetNotFoundError.__name__}


def test_hub_that_was_killed_starts_again_with_its_index(served: Path, start_hub: Callable[..., HubProcess]) -> None:
    write_files(served, {"cats/a": b"1", "cats/b": b"2"})
    hub = start_hub()
    before = hub.get("/manifest/cats")
    hub.kill()
    hub.start()
    after = hub.get("/manifest/cats", headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 304


def test_manifest_stays_right_while_files_come_and_go(served: Path, start_hub: Callable[..., HubProcess]) -> None:
    write_files(served, {f"cats/stays{number}": b"%d" % number for number in range(50)})
    hub = start_hub()
    stop = threading.Event()

    def come_and_go() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_files(served, {f"cats/goes{number}": b"x"})
            (served / "cats" / f"goes{number}").unlink()

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        answers = [hub.get("/manifest/cats") for _ in range(20)]
    finally:
        stop.set()
        worker.join()
    expected = {f"stays{number}": md5(b"%d" % number) for number in range(50)}
    for answer in answers:
        assert answer.status_code == 200
        rows = json.loads(answer.content)
        assert {row["path"]: row["hash"] for row in rows if row["path"].startswith("stays")} == expected
