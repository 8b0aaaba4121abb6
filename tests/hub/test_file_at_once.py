"""What is in memory is answered without a thread, and no answer differs from that of the careful way for it."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsx_server.storage import CachedEntry, LocalStorage, OpenEntry, Place
from dsx_server.storage.entries import SETTLE_NS
from dsx_server.storage.openat2 import find_open_cached
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import Answer, InProcessHub, ask, mounted_disk, wait_until

pytestmark = pytest.mark.skipif(find_open_cached() is None, reason="this system cannot open without waiting")

Start = Callable[[LocalStorage], InProcessHub]
CANARY = b"canary-these-bytes-lie-outside"
OLD_NS = 10**18


class Counter:
    """Counts what a hub of this process opens, in either way."""

    def __init__(self) -> None:
        self.careful = 0
        self.at_once = 0
        self.allows_at_once = True
        self.when_open: Callable[[], object] = bool
        """Called when an entry was opened at once, before it is read."""


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the openings of every `LocalStorage` of this process."""
    counter = Counter()
    open_carefully, find_place = LocalStorage.open, LocalStorage.find_place

    def count_open(self: LocalStorage, dataset: str, path: str) -> CachedEntry:
        counter.careful += 1
        return open_carefully(self, dataset, path)

    class CountingPlace:
        def __init__(self, place: Place) -> None:
            self._place = place

        def open_cached(self) -> CachedEntry | None:
            entry = self._place.open_cached() if counter.allows_at_once else None
            if entry is not None:
                counter.at_once += 1
                counter.when_open()
            return entry

    def count_place(self: LocalStorage, dataset: str, path: str) -> CountingPlace | None:
        place = find_place(self, dataset, path)
        return None if place is None else CountingPlace(place)

    monkeypatch.setattr(LocalStorage, "open", count_open)
    monkeypatch.setattr(LocalStorage, "find_place", count_place)
    return counter


def write_old(folder: Path, files: dict[str, bytes]) -> None:
    """Write files that are at rest: a write that has only just happened is waited out in a thread."""
    write_files(folder, files)
    for name in files:
        wait_until(lambda name=name: is_at_rest(folder / name), "the files are at rest")  # type: ignore[misc]  # -- bound


def is_at_rest(path: Path) -> bool:
    """Whether the hub would read it at once; asked of a storage of its own."""
    storage = LocalStorage(path.parent.parent)
    storage.open(path.parent.name, path.name).close()
    place = storage.find_place(path.parent.name, path.name)
    entry = None if place is None else place.open_cached()
    if entry is not None:
        entry.close()
    return entry is not None


@pytest.fixture
def warm(served: Path, tmp_path: Path, start_in_process: Start, counter: Counter) -> InProcessHub:
    """A hub that has just answered ``/file/cats/x`` at once."""
    write_old(served, {"cats/x": b"inside", "cats/y": b"other"})
    hub = start_in_process(LocalStorage(served))
    warm_up(hub, counter)
    return hub


def warm_up(hub: InProcessHub, counter: Counter, target: bytes = b"/file/cats/x") -> None:
    """Ask until an answer comes at once."""
    before = counter.at_once
    wait_until(lambda: ask(hub, target).status == 200 and counter.at_once > before, "an answer came at once")


def get(hub: InProcessHub | HubProcess, path: str = "cats/x") -> Answer:
    return ask(hub, f"/file/{path}".encode())


def test_what_is_in_memory_is_opened_without_a_thread(warm: InProcessHub, counter: Counter) -> None:
    careful, at_once = counter.careful, counter.at_once
    answers = [get(warm, name) for name in ("cats/x", "cats/y") * 5]
    assert [answer.body for answer in answers] == [b"inside", b"other"] * 5
    # What kind of disk it is on is asked in a thread again now and then: at most once in these moments.
    assert counter.at_once - at_once >= 8
    assert counter.careful - careful <= 2


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b"Range: bytes=1-2"],
        [b"Range: bytes=-0"],
        [b"Range: bytes=99-"],
        [b"Range: bytes=0-1,3-4"],
        [b"Range: bytes=0-1", b"Range: bytes=3-4"],
        [b'If-None-Match: "x"'],
        [b"If-None-Match: *"],
        [b'If-Match: "x"'],
        [b"If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT"],
        [b"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"],
        [b"Want-Repr-Digest: sha-256=10"],
        [b"Want-Repr-Digest: sha-256=0"],
        [b"Range: bytes=0-0", b"Want-Repr-Digest: sha-256=10"],
    ],
    ids=lambda headers: b" ".join(headers).decode() or "none",
)
def test_answer_is_that_of_the_careful_way(
    warm: InProcessHub, served: Path, counter: Counter, headers: list[bytes]
) -> None:
    for name in ("x.png", "y.tar.gz", ".hidden", "z.TGZ", "no-ending", "a b%25.jpg", "empty.svgz"):
        write_old(served, {f"cats/{name}": b"" if name.startswith("empty") else bytes(range(200)) * 10})
        os.utime(served / "cats" / name, ns=(OLD_NS, OLD_NS))
        target = f"/file/cats/{name}".replace("%", "%25").replace(" ", "%20").encode()
        warm_up(warm, counter, target)
        before = counter.at_once
        found = ask(warm, target, headers=headers)
        assert counter.at_once > before
        counter.allows_at_once = False
        expected = ask(warm, target, headers=headers)
        counter.allows_at_once = True
        for answer in (expected, found):
            del answer.headers["x-request-id"], answer.headers["date"]
        if expected.status >= 400:  # the request's id is in the body
            assert (found.status, found.headers.keys()) == (expected.status, expected.headers.keys())
        else:
            assert found == expected


def assert_is(answer: Answer, data: bytes) -> None:
    """Body and headers are those of an entry with this content."""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["x-dsx-hash"] == hashlib.md5(data[:1024]).hexdigest()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"


def test_changed_entry_is_the_new_one(warm: InProcessHub, served: Path, counter: Counter) -> None:
    etags = set()
    for number in range(20):
        data = b"%06d" % number
        (served / "cats" / "x").write_bytes(data)
        os.utime(served / "cats" / "x", ns=(OLD_NS, OLD_NS))
        before = counter.at_once
        while counter.at_once == before:  # first in the careful way, since it was just written
            answer = get(warm)
            assert_is(answer, data)
            etags.add(answer.headers["etag"])
    assert len(etags) == 20


@pytest.mark.parametrize("headers", [[], [b"Range: bytes=0-1999"]])
def test_entry_rewritten_between_its_opening_and_its_reading_is_the_new_one(
    warm: InProcessHub, served: Path, counter: Counter, headers: list[bytes]
) -> None:
    for number in range(10):
        data = b"%04d" % number * 500
        counter.when_open = lambda data=data: (served / "cats" / "x").write_bytes(data)  # type: ignore[misc]  # -- bound
        before = counter.at_once
        while counter.at_once == before:
            answer = ask(warm, b"/file/cats/x", headers=[b"Want-Repr-Digest: sha-256=10", *headers])
        counter.when_open = bool
        assert answer.body == data
        etag = answer.headers["etag"].encode()
        again = ask(warm, b"/file/cats/x", headers=[b"If-Match: " + etag])
        assert_is(again, data)


def test_removed_entry_is_404(warm: InProcessHub, served: Path) -> None:
    (served / "cats" / "x").unlink()
    assert get(warm).status == 404


def test_entry_that_became_a_link_outside_is_404(warm: InProcessHub, served: Path, tmp_path: Path) -> None:
    write_files(tmp_path, {"secret/x": CANARY})
    (served / "cats" / "x").unlink()
    (served / "cats" / "x").symlink_to(tmp_path / "secret" / "x")
    assert get(warm).status == 404


def test_folder_that_became_a_link_outside_leads_nowhere(
    served: Path, tmp_path: Path, start_in_process: Start, counter: Counter
) -> None:
    write_files(tmp_path, {"secret/x": CANARY})
    write_files(served, {"cats/a/x": b"inside"})
    hub = start_in_process(LocalStorage(served))
    warm_up(hub, counter, b"/file/cats/a/x")
    (served / "cats" / "a").rename(served / "cats" / "b")
    (served / "cats" / "a").symlink_to(tmp_path / "secret")
    assert get(hub, "cats/a/x").status == 404
    (served / "cats" / "a").unlink()
    (served / "cats" / "a").symlink_to("b")
    assert get(hub, "cats/a/x").body == b"inside"


def test_entry_that_became_a_fifo_is_404_and_keeps_nobody_waiting(warm: InProcessHub, served: Path) -> None:
    (served / "cats" / "x").unlink()
    os.mkfifo(served / "cats" / "x")
    assert get(warm).status == 404
    assert get(warm, "cats/y").status == 200


def test_dataset_that_was_renamed_is_404_at_once(warm: InProcessHub, served: Path) -> None:
    (served / "cats").rename(served / "dogs")
    assert get(warm).status == 404
    assert get(warm, "dogs/x").body == b"inside"


def test_dataset_replaced_by_another_folder_is_the_other(warm: InProcessHub, served: Path) -> None:
    (served / "cats").rename(served / "dogs")
    write_files(served, {"cats/x": b"another"})
    assert get(warm).body == b"another"


def test_dataset_that_is_a_link_is_served_at_once_from_where_it_points_now(
    served: Path, tmp_path: Path, start_in_process: Start, counter: Counter
) -> None:
    write_old(tmp_path / "disks", {"a/x": b"first", "b/x": b"second"})
    (served / "cats").symlink_to(tmp_path / "disks" / "a")
    hub = start_in_process(LocalStorage(served))
    warm_up(hub, counter)
    assert get(hub).body == b"first"
    (served / "cats").unlink()
    (served / "cats").symlink_to(tmp_path / "disks" / "b")
    assert get(hub).body == b"second"
    (served / "cats").unlink()
    assert get(hub).status == 404


def test_no_spelling_opens_what_is_not_served(warm: InProcessHub, served: Path) -> None:
    write_files(served, {"cats/._x": CANARY, "cats/@eaDir/x": CANARY, ".hidden/x": CANARY, "cats/Thumbs.db": CANARY})
    for target in ("cats/._x", "cats/@eaDir/x", "cats/%40eaDir/x", "cats/thumbs.db", "cats/Thumbs.db", ".hidden/x"):
        for _ in range(2):
            answer = get(warm, target)
            assert answer.status in (400, 404)
            assert CANARY not in answer.body
    for target in ("cats/../cats/x", "cats/%2e%2e/cats/x", "cats/./x", "cats//x", "cats/x/", "../served/cats/x"):
        assert get(warm, target).status in (400, 404)


@pytest.mark.skipif(shutil.which("mount") is None, reason="a disk cannot be mounted here")
def test_disk_can_be_unmounted_while_entries_are_served_from_memory(
    served: Path, start_in_process: Start, counter: Counter
) -> None:
    with mounted_disk(served / "cats", "1m") as disk:
        write_old(served, {"cats/x": b"mounted"})
        hub = start_in_process(LocalStorage(served))
        ask(hub, b"/manifest/cats")
        wait_until(lambda: get(hub).status == 200, "it is served")
        subprocess.run(["umount", str(disk)], check=True)  # which fails while anything on it is open
        assert get(hub).status == 503


def test_whole_answer_is_never_a_mixture(served: Path, start_in_process: Start, counter: Counter) -> None:
    contents = [bytes([letter]) * 200_000 for letter in b"AB"]
    write_old(served, {"cats/x": contents[0]})
    hub = start_in_process(LocalStorage(served))
    warm_up(hub, counter)
    done = threading.Event()

    def rewrite() -> None:
        with (served / "cats" / "x").open("r+b", buffering=0) as file:
            while not done.is_set():
                for content in contents:
                    os.pwrite(file.fileno(), content, 0)
                done.wait(0.03)  # long enough to be at rest now and then

    with ThreadPoolExecutor(1) as pool:
        rewriting = pool.submit(rewrite)
        try:
            before = counter.at_once
            statuses = set()
            for _ in range(300):
                answer = ask(hub, b"/file/cats/x", headers=[b"Want-Repr-Digest: sha-256=10"])
                statuses.add(answer.status)
                assert answer.status != 200 or answer.body in contents
        finally:
            done.set()
        rewriting.result()
    assert 200 in statuses
    assert counter.at_once > before


def test_what_is_not_in_memory_is_left_to_a_thread(tmp_path: Path) -> None:
    write_old(tmp_path, {"cats/x": os.urandom(1 << 20)})
    storage = LocalStorage(tmp_path)
    with storage.open("cats", "x") as entry:
        assert entry.read_cached(0, 1 << 20) == (tmp_path / "cats" / "x").read_bytes()
        assert entry.read_cached(1 << 20, 1 << 20) == b""
        assert entry.read_cached(0, (1 << 20) + 1) is None  # there are not so many
        os.fsync(entry._descriptor)
        os.posix_fadvise(entry._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        block = entry.read_cached(0, 1 << 20)
        if block is not None:
            pytest.skip("this file system has it in memory nevertheless")
        assert len(entry.read(0, 1 << 20)) == 1 << 20
        assert entry.read_cached(0, 1 << 20) is not None


def test_entry_that_was_just_written_is_left_to_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(tmp_path, {"cats/x": b"x"})
    storage = LocalStorage(tmp_path)
    storage.open("cats", "x").close()
    place = storage.find_place("cats", "x")
    assert place is not None
    written_ns = (tmp_path / "cats" / "x").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: written_ns + SETTLE_NS - 1)
    assert place.open_cached() is None
    monkeypatch.setattr(time, "time_ns", lambda: written_ns + SETTLE_NS)
    entry = place.open_cached()
    assert entry is not None
    entry.close()


def test_nothing_is_opened_at_once_before_it_is_known_where_it_lies(tmp_path: Path) -> None:
    write_old(tmp_path, {"cats/x": b"x"})
    place = LocalStorage(tmp_path).find_place("cats", "x")
    assert place is not None
    assert place.open_cached() is None


def test_network_disk_is_left_to_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(tmp_path, {"cats/x": b"x"})
    monkeypatch.setattr("dsx_server.storage.cached.find_network_disk", lambda folder: "nfs4")
    storage = LocalStorage(tmp_path)
    storage.open("cats", "x").close()
    place = storage.find_place("cats", "x")
    assert place is not None
    assert place.open_cached() is None


class ShimStorage:
    """Stands before another storage and passes on what it does not do itself; opening waits until it is let go."""

    def __init__(self, inner: LocalStorage) -> None:
        self._inner = inner
        self.go_on = threading.Event()
        self.waiting = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def open(self, dataset: str, path: str) -> OpenEntry:
        self.waiting += 1
        self.go_on.wait(60)
        return self._inner.open(dataset, path)


@pytest.fixture
def shim(served: Path) -> Iterator[ShimStorage]:
    storage = ShimStorage(LocalStorage(served))
    yield storage
    storage.go_on.set()


def test_storage_that_stands_before_another_opens_everything_itself(
    served: Path, shim: ShimStorage, start_in_process: Start
) -> None:
    write_old(served, {"cats/x": b"inside"})
    shim.go_on.set()
    hub = start_in_process(shim)  # type: ignore[arg-type]  # -- it passes on what it has not
    for number in range(1, 6):
        assert get(hub).body == b"inside"
        assert shim.waiting == number


def test_slow_openings_hold_up_nobody_else(served: Path, shim: ShimStorage, start_in_process: Start) -> None:
    write_old(served, {"cats/x": b"inside"})
    hub = start_in_process(shim)  # type: ignore[arg-type]  # -- it passes on what it has not
    with ThreadPoolExecutor(60) as pool:
        slow = [pool.submit(get, hub) for _ in range(60)]
        wait_until(lambda: shim.waiting >= 32, "all threads that read wait for the disk")
        for _ in range(20):
            assert ask(hub, b"/health").status == 200
        assert not any(each.done() for each in slow)
        shim.go_on.set()
        assert {each.result().body for each in slow} == {b"inside"}
