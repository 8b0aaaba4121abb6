"""Calls for one file each that follow a manifest: served ahead, the right bytes, and little in vain."""

from __future__ import annotations

import json
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsx._readahead
import dsx._walk
from dsx import (
    CacheError,
    ConflictError,
    DatasetHubClient,
    EntryNotFoundError,
    HubUnreachableError,
    InvalidPathError,
)
from tests.conftest import KEY

from .conftest import run_in_thread, run_python, shorten_waits, wait_until
from .scripted import (
    HonestScript,
    Reply,
    Request,
    Script,
    ScriptedHub,
    answer,
    answer_problem,
    digests_of,
    paths_of,
    reads_of,
    write_frame,
    write_problem,
)

Connect = Callable[..., DatasetHubClient]
StartScripted = Callable[[Script], ScriptedHub]
StartHonest = Callable[[Mapping[str, bytes]], tuple[ScriptedHub, HonestScript]]

WHOLE = 2**63


def make_files(count: int, size: int = 1000) -> dict[str, bytes]:
    """Make entries of other bytes each, in folders of 50, every third a text."""
    return {
        f"{number // 50:02}/{number:05}.{'txt' if number % 3 == 2 else 'jpg'}": random.Random(number).randbytes(size)
        for number in range(count)
    }


def read_ahead(hub: ScriptedHub) -> list[str]:
    """Return what was asked for in batches."""
    return [path for request in list(hub.requests) if request.method == "POST" for path in paths_of(request)]


def read_singly(hub: ScriptedHub) -> list[str]:
    """Return what was asked for by itself."""
    return [request.path.removeprefix("/file/cats/") for request in hub.of("GET", "/file")]


def is_quiet() -> bool:
    return not any(thread.name == "dsx-readahead" for thread in threading.enumerate())


class Versioned(HonestScript):
    """Holds batches against the revision that they name, as the hub does.

    Attributes:
        on_batch: Called for each batch before it is answered.
    """

    on_batch: Callable[[Request], object] = id

    def send_batch(self, request: Request) -> Reply:
        """Answer when there is nothing against it."""
        self.on_batch(request)
        self.then = self.states.get(json.loads(request.body).get("revision", ""), self.files)
        return super().send_batch(request)

    def write_frame(self, index: int, path: str, start: int, stop: int) -> bytes:
        """Write the frame of an entry, unless it has changed."""
        if path in self.files and self.files[path] != self.then.get(path):
            return write_problem(index, 2, "conflict", f"{path} is no longer what it was")
        return super().write_frame(index, path, start, stop)


@pytest.fixture
def start(start_scripted: StartScripted) -> Callable[[Mapping[str, bytes]], tuple[ScriptedHub, Versioned]]:
    """Start a scripted hub that does all right."""

    def start(files: Mapping[str, bytes]) -> tuple[ScriptedHub, Versioned]:
        script = Versioned(files)
        script.keep()
        return start_scripted(script), script

    return start


Start = Callable[[Mapping[str, bytes]], tuple[ScriptedHub, Versioned]]


def test_loop_over_a_manifest_takes_few_requests(connect: Connect, start: Start) -> None:
    files = make_files(400)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    manifest = client.get_manifest("cats")
    assert [client.get_file_bytes("cats", item["path"]) for item in manifest] == list(files.values())
    assert len(read_singly(hub)) < 10
    assert len(hub.of("POST")) < 10
    assert len(read_ahead(hub)) + len(read_singly(hub)) == len(files)


@pytest.mark.parametrize(("size", "is_named"), [(1024, False), (1025, True)])
def test_revision_is_named_when_the_bytes_do_not_tell_it(
    connect: Connect, start: Start, size: int, is_named: bool
) -> None:
    """The scripted manifest has no digests: the head hash tells all of 1024 bytes, and not of more."""
    files = make_files(100, size)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    manifest = client.load_manifest("cats")
    assert [client.get_file_bytes("cats", entry.path) for entry in manifest] == list(files.values())
    named = {json.loads(request.body).get("revision") for request in hub.of("POST")}
    assert named == {manifest.revision if is_named else None}


def test_first_ten_of_a_manifest(connect: Connect, start: Start) -> None:
    files = make_files(400)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    manifest = client.get_manifest("cats")
    for item in manifest[:10]:
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]


FILTERS = {
    "suffix": lambda path: path.lower().endswith((".jpg", ".png")),
    "folder": lambda path: path.startswith("03/"),
    "suffix and folder": lambda path: path.startswith("03/") and path.endswith(".txt"),
    "every fifth": lambda path: int(path[3:8]) % 5 == 1,
    "from the middle": lambda path: path > "04/00220.jpg",
}


@pytest.mark.parametrize("is_wanted", FILTERS.values(), ids=FILTERS)
def test_loop_over_a_part_takes_few_requests(connect: Connect, start: Start, is_wanted: Callable[[str], bool]) -> None:
    files = make_files(400)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    wanted = [item["path"] for item in client.get_manifest("cats") if is_wanted(item["path"])]
    assert [client.get_file_bytes("cats", path) for path in wanted] == [files[path] for path in wanted]
    assert len(read_singly(hub)) < 12
    assert len(hub.of("POST")) < 10
    assert set(wanted) <= {*read_ahead(hub), *read_singly(hub)}


def test_suffix_that_is_left_out_is_not_read_ahead(connect: Connect, start: Start) -> None:
    hub, _ = start(make_files(400))
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        if item["path"].endswith(".jpg"):
            client.get_file_bytes("cats", item["path"])
    assert [path for path in read_ahead(hub) if path.endswith(".txt")] == []


@pytest.mark.parametrize("order", ["one", "again and again", "random", "backward", "back and forth"])
def test_nothing_is_read_unasked_without_a_pattern(connect: Connect, start: Start, order: str) -> None:
    files = make_files(60)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    calls = {
        "one": paths[5:6],
        "again and again": paths[5:6] * 20,
        "random": random.Random(1).sample(paths, 60),
        "backward": paths[::-1],
        "back and forth": [path for pair in zip(paths[:30], paths[30:], strict=True) for path in pair],
    }[order]
    for path in calls:
        assert client.get_file_bytes("cats", path) == files[path]
    assert read_ahead(hub) == []
    assert read_singly(hub) == calls


def test_nothing_is_read_ahead_without_a_manifest(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    for path in files:
        client.get_file_bytes("cats", path)
    assert hub.of("POST") == []


@pytest.mark.parametrize("is_pickled", [False, True])
def test_client_can_refuse_it(connect: Connect, start: Start, is_pickled: bool) -> None:
    files = make_files(60)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None, readahead=False)
    client = pickle.loads(pickle.dumps(client)) if is_pickled else client
    with client:
        for item in client.get_manifest("cats"):
            assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert hub.of("POST") == []


class Meter(Versioned):
    """Counts what is asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(files)
        self.asked = 0
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        """Count before the answer."""
        if request.method == "POST" or request.path.startswith("/file"):
            paths = paths_of(request) if request.method == "POST" else [request.path.removeprefix("/file/cats/")]
            with self.lock:
                self.asked += sum(len(self.files[path]) for path in paths)
        return super().__call__(request)


Piece = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def metered() -> Iterator[tuple[ScriptedHub, Meter]]:
    script = Meter({})
    hub = ScriptedHub(script)
    yield hub, script
    hub.stop()


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    pieces=st.lists(
        st.tuples(st.integers(0, 200), st.integers(1, 60), st.integers(1, 4), st.integers(0, 2)), max_size=6
    ),
)
def test_what_is_in_vain_is_bounded_after_every_call(
    metered: tuple[ScriptedHub, Meter], sizes: list[int], pieces: list[Piece]
) -> None:
    """Each piece of the calls is a run: first row, how many, their distance, and which suffixes are left out."""
    hub, script = metered
    names = list(make_files(200))
    script.files = {path: bytes(sizes[number % len(sizes)]) for number, path in enumerate(names)}
    script.keep()
    script.asked = got = 0
    free = 8000
    with pytest.MonkeyPatch.context() as patch, DatasetHubClient(hub.url, KEY, cache_dir=None) as client:
        patch.setattr(dsx._readahead, "FREE_BYTES", free)
        client.get_manifest("cats")
        for first, count, distance, left_out in pieces:
            for path in names[first : first + count * distance : distance]:
                if path.endswith(("none", "txt", "jpg")[left_out]):
                    continue
                got += len(client.get_file_bytes("cats", path))
                with script.lock:
                    assert script.asked - got <= got / 10 + free
        wait_until(is_quiet, "nothing is under way")
        assert script.asked - got <= got / 10 + free


def test_window_grows_with_what_was_read(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._readahead, "FREE_BYTES", 20_000)
    files = make_files(3000)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        client.get_file_bytes("cats", item["path"])
    counts = [len(paths_of(request)) for request in hub.of("POST")]
    assert counts[0] < 11
    assert max(counts) > 80


def test_memory_is_bounded(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._readahead, "HELD_BYTES", 30_000)
    files = make_files(600)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    got = 0
    for number, item in enumerate(client.get_manifest("cats")):
        got += len(client.get_file_bytes("cats", item["path"]))
        if number % 50 == 0:
            wait_until(is_quiet, "nothing is under way")
            assert (len(read_ahead(hub)) + len(read_singly(hub))) * 1000 - got <= 30_000
    assert len(read_singly(hub)) < 10


def test_tiny_files_are_not_held_without_end(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._readahead, "FREE_BYTES", 6400)
    hub, _ = start(make_files(2000, size=1))
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats")[:10]:
        client.get_file_bytes("cats", item["path"])
    wait_until(is_quiet, "nothing is under way")
    assert len(read_ahead(hub)) <= 120


def test_long_entries_are_left_to_their_calls(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._walk, "LONGEST_BYTES", 5000)
    files = make_files(60) | {f"00/{number:05}.jpg": bytes([number]) * 9000 for number in (10, 20, 21)}
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert {path for path in read_ahead(hub) if len(files[path]) > 5000} == set()
    assert len(read_singly(hub)) < 14


def test_caller_who_stands_still_has_nothing_read_ahead(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._readahead, "AHEAD_S", 0.0)
    hub, _ = start(make_files(60))
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        client.get_file_bytes("cats", item["path"])
    assert hub.of("POST") == []


def test_no_more_is_read_ahead_than_is_used_up_soon(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._readahead, "AHEAD_S", 0.1)
    hub, _ = start(make_files(60))
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        client.get_file_bytes("cats", item["path"])
        time.sleep(0.01)  # so that at most 100 files a second are used, and 133 in the first three pauses
    assert 0 < max(len(paths_of(request)) for request in hub.of("POST")) <= 13


def test_what_was_held_too_long_is_read_again(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._readahead, "MOST_AGE_S", -1.0)
    files = make_files(60)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    monkeypatch.setattr(dsx._readahead, "FREE_BYTES", 20_000)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert len(read_singly(hub)) == 60
    assert 0 < len(read_ahead(hub)) <= 26  # in vain: 20,000 bytes and a tenth of what was read


def read_some(client: DatasetHubClient, count: int = 6) -> list[str]:
    """Begin a loop, wait until what is read ahead has come, and return the paths that are left."""
    paths = [item["path"] for item in client.get_manifest("cats")]
    for path in paths[:count]:
        client.get_file_bytes("cats", path)
    wait_until(is_quiet, "nothing is under way")
    return paths[count:]


def test_entry_that_changed_before_it_was_read_ahead_is_the_new_one(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, script = start(files)
    client = connect(hub.url, cache_dir=None)
    client.get_manifest("cats")
    changed, removed = list(files)[20], list(files)[30]
    script.files |= {changed: b"new"}
    del script.files[removed]
    for path in files:
        if path == removed:
            with pytest.raises(EntryNotFoundError, match="00030"):
                client.get_file_bytes("cats", path)
        else:
            assert client.get_file_bytes("cats", path) == script.files[path]
    assert len(read_singly(hub)) < 10


def test_entry_that_cannot_be_read_is_the_calls_own_error(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, script = start(files)
    client = connect(hub.url, cache_dir=None)
    bad = list(files)[20]
    honest = script.write_frame
    script.write_frame = lambda index, path, *span: (  # type: ignore[method-assign]
        write_problem(index, 3, "unreadable", "no") if path == bad else honest(index, path, *span)
    )
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert bad in read_singly(hub)


def test_new_manifest_makes_what_is_held_old(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, script = start(files)
    client = connect(hub.url, cache_dir=None)
    left = read_some(client)
    assert set(left) & set(read_ahead(hub))
    script.files = {path: data[::-1] for path, data in files.items()}
    script.keep()
    client.get_manifest("cats")
    for path in left:
        assert client.get_file_bytes("cats", path) == script.files[path]


def test_clear_cache_throws_away_what_is_held(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, script = start(files)
    client = connect(hub.url, cache_dir=None)
    left = read_some(client)
    script.files = {path: data[::-1] for path, data in files.items()}
    client.clear_cache("cats")
    for path in left:
        assert client.get_file_bytes("cats", path) == script.files[path]


def test_closed_client_goes_on_from_nothing(connect: Connect, start: Start) -> None:
    files = make_files(200)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    left = read_some(client)
    client.close()
    assert is_quiet()
    for path in left:
        assert client.get_file_bytes("cats", path) == files[path]


@pytest.mark.parametrize("place", ["payload", "frame", "head"])
def test_damaged_batch_gives_no_wrong_bytes(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(dsx._readahead, "FIRST_REST_S", 0.0)
    files = make_files(200)
    hub, script = start(files)
    honest = script.send_batch

    def damage(request: Request) -> Reply:
        data = bytes(honest(request).data)  # type: ignore[arg-type]
        at = data.index(b"DSXB") + {"head": 2, "frame": 12, "payload": 100}[place]
        return Reply(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    script.send_batch = damage  # type: ignore[method-assign]
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert hub.of("POST")


@pytest.mark.parametrize("has_digests", [True, False])
def test_wrong_bytes_with_a_right_checksum_are_not_believed(connect: Connect, start: Start, has_digests: bool) -> None:
    files = make_files(200, size=3000)
    hub, script = start(files)
    if has_digests:
        script.changes = {"digests": digests_of(files)}
    at = 2000 if has_digests else 100

    def write_wrong(index: int, path: str, start: int, stop: int) -> bytes:
        data = files[path]
        return write_frame(index, 0, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

    script.write_frame = write_wrong  # type: ignore[method-assign]
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert hub.of("POST")


def test_entry_longer_than_the_manifest_says_is_not_held(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, script = start(files)
    script.write_frame = lambda index, *read: write_frame(index, 0, bytes(1_500_000))  # type: ignore[method-assign]
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert hub.of("POST")


@pytest.mark.parametrize(
    ("reply", "rest_s"),
    [
        (answer_problem(429, "busy", "later", Retry_After="50"), 0.0),
        (answer_problem(404, "route_not_found", "no such route"), 0.0),
        (answer_problem(404, "revision_not_found", "no such revision"), 0.0),
        (answer_problem(403, "access_denied", "no"), 0.0),
        (answer(200, b"hello"), 0.0),
        (Reply(b"", "reset"), 50.0),
    ],
    ids=["429", "no batches", "no revision", "denied", "no frames", "reset"],
)
def test_hub_that_refuses_is_left_alone(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch, reply: Reply, rest_s: float
) -> None:
    monkeypatch.setattr(dsx._readahead, "FIRST_REST_S", rest_s)
    files = make_files(60)
    hub, script = start(files)
    script.send_batch = lambda request: reply  # type: ignore[method-assign]
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert 1 <= len(hub.of("POST")) <= 2
    assert len(read_singly(hub)) == 60


def test_it_goes_on_when_the_hub_does(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._readahead, "FIRST_REST_S", 0.01)
    files = make_files(300)
    hub, script = start(files)
    honest = script.send_batch
    refusals = iter([answer_problem(503, "unavailable", "later")] * 2)
    script.send_batch = lambda request: next(refusals, None) or honest(request)  # type: ignore[method-assign]
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        time.sleep(0.001)  # a caller with something to do
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert len(read_ahead(hub)) > 200
    assert len(read_singly(hub)) < 200


def test_too_large_a_batch_is_halved(connect: Connect, start: Start) -> None:
    files = make_files(300)
    hub, script = start(files)
    honest = script.send_batch

    def refuse_large(request: Request) -> Reply:
        if len(reads_of(request)) > 100:
            return answer_problem(413, "too_large", "at most 100")
        return honest(request)

    script.send_batch = refuse_large  # type: ignore[method-assign]
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert len([request for request in hub.of("POST") if len(reads_of(request)) <= 100]) > 0


def test_error_of_the_call_is_what_it_was(connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_waits(monkeypatch)
    files = make_files(60)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    left = read_some(client)
    hub.stop()
    came = []
    with pytest.raises(HubUnreachableError):
        came.extend(client.get_file_bytes("cats", path) for path in left * 2)
    assert came == [] or came[0] == files[left[0]]
    for path in ("../x", "", None, []):
        with pytest.raises(InvalidPathError):
            client.get_file_bytes("cats", path)  # type: ignore[arg-type]
    for dataset in ("a/b", "", None, []):
        with pytest.raises(InvalidPathError):
            client.get_file_bytes(dataset, left[0])  # type: ignore[arg-type]


def test_threads_that_go_through_a_manifest_together_are_served_ahead(connect: Connect, start: Start) -> None:
    files = make_files(800)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda path: client.get_file_bytes("cats", path), paths)) == list(files.values())
    assert len(read_singly(hub)) < 200


def test_calls_that_want_what_is_on_its_way_wait_for_it(connect: Connect, start: Start) -> None:
    files = make_files(60)
    hub, script = start(files)
    asked, may_go_on = threading.Event(), threading.Event()

    def hold(request: Request) -> None:
        asked.set()
        may_go_on.wait(20)

    script.on_batch = hold
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    for path in paths[:4]:
        client.get_file_bytes("cats", path)
    assert asked.wait(20)
    wanted = read_ahead(hub)[3]

    def read() -> bytes:
        return client.get_file_bytes("cats", wanted)

    with run_in_thread(read) as first, run_in_thread(read) as second:
        time.sleep(0.05)  # for them to begin to wait; when they have not, less is shown
        may_go_on.set()
        assert first() == second() == files[wanted]
    assert wanted not in read_singly(hub)


def test_threads_that_jump_about_on_a_hub_that_breaks_get_the_right_bytes(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._readahead, "FREE_BYTES", 30_000)
    monkeypatch.setattr(dsx._readahead, "FIRST_REST_S", 0.0)
    files = make_files(400)
    hub, script = start(files)
    honest, chance = script.send_batch, random.Random(5)

    def send(request: Request) -> Reply:
        data = honest(request).data
        assert isinstance(data, bytes)
        broken = (answer_problem(503, "unavailable", "later"), Reply(b"", "reset"), Reply(data[: len(data) * 2 // 3]))
        return chance.choice([*broken, *[Reply(data)] * 7])

    script.send_batch = send  # type: ignore[method-assign]
    client = connect(hub.url)
    paths = [item["path"] for item in client.get_manifest("cats")]

    def work(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(4):
            first, count, distance = numbers.randrange(350), numbers.randrange(120), numbers.choice([1, 1, 2, 3])
            for path in paths[first : first + count : distance]:
                assert client.get_file_bytes("cats", path) == files[path]
                assert numbers.random() > 0.1 or client.get_file("cats", path).read_bytes() == files[path]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert len(read_ahead(hub)) > 100


def test_caller_who_jumps_ends_what_is_under_way(connect: Connect, start: Start) -> None:
    files = make_files(200)
    hub, script = start(files)
    may_go_on = threading.Event()
    script.on_batch = lambda request: may_go_on.wait(20)
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    with run_in_thread(lambda: [client.get_file_bytes("cats", path) for path in paths[:20]]) as get_result:
        wait_until(lambda: bool(hub.of("POST")), "something is read ahead")
        assert client.get_file_bytes("cats", paths[0]) == files[paths[0]]
        may_go_on.set()
        assert get_result() == [files[path] for path in paths[:20]]


def test_files_are_put_into_the_cache(connect: Connect, start: Start, cache_dir: Path) -> None:
    files = make_files(200)
    hub, _ = start(files)
    client = connect(hub.url)
    paths = [item["path"] for item in client.get_manifest("cats")]
    for path in paths:
        assert client.get_file("cats", path) == cache_dir / "cats" / path
        assert (cache_dir / "cats" / path).read_bytes() == files[path]
    assert len(read_singly(hub)) < 10
    asked = len(hub.requests)
    with connect(hub.url) as again:
        for path in paths:
            again.get_file("cats", path)
    assert len(hub.requests) == asked
    assert client.clear_cache("cats") > 200_000
    assert not (cache_dir / "cats").exists()


def test_what_the_cache_has_is_not_read_ahead(connect: Connect, start: Start) -> None:
    files = make_files(200)
    hub, _ = start(files)
    client = connect(hub.url)
    paths = [item["path"] for item in client.get_manifest("cats")]
    cached = paths[40:160:2]
    client.download_dataset("cats", cached)
    asked = len(hub.requests)
    for path in paths:
        assert client.get_file("cats", path).read_bytes() == files[path]
    later = hub.requests[asked:]
    again = [path for request in later if request.method == "POST" for path in paths_of(request)]
    assert set(again).isdisjoint(cached)
    assert len([request for request in later if request.method == "GET"]) < 20


def test_file_of_somebody_elses_is_not_overwritten(connect: Connect, start: Start, cache_dir: Path) -> None:
    files = make_files(60)
    hub, _ = start(files)
    client = connect(hub.url)
    paths = [item["path"] for item in client.get_manifest("cats")]
    (cache_dir / "cats" / "00").mkdir(parents=True)
    same, other = paths[20], paths[30]
    (cache_dir / "cats" / same).write_bytes(files[same])
    (cache_dir / "cats" / other).write_bytes(b"mine")
    for path in paths:
        if path == other:
            with pytest.raises(CacheError, match="in the way"):
                client.get_file("cats", path)
        else:
            assert client.get_file("cats", path).read_bytes() == files[path]
    assert (cache_dir / "cats" / other).read_bytes() == b"mine"


def test_pinned_reads_are_of_their_revision(connect: Connect, start: Start) -> None:
    files = make_files(200)
    hub, script = start(files)
    client = connect(hub.url)
    revision = client.get_revision("cats")
    changed = list(files)[50]
    script.files[changed] = b"new"
    for path in files:
        if path == changed:
            with pytest.raises(ConflictError, match="00050"):
                client.get_file_bytes("cats", path, revision=revision)
        else:
            assert client.get_file_bytes("cats", path, revision=revision) == files[path]
    assert len(read_singly(hub)) < 12


FORK = """
    import os, signal, sys
    from dsx import DatasetHubClient
    hub = DatasetHubClient(sys.argv[1], sys.argv[2], cache_dir=None)
    paths = [item["path"] for item in hub.get_manifest("cats")]
    def read(paths):
        return all(hub.get_file_bytes("cats", path) == path.encode() * 100 for path in paths)
    assert read(paths[:100])
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # the end of a child that hangs
        os._exit(0 if read(paths[100:]) and read(paths) else 1)
    assert read(paths[100:])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    hub.close()
    print("both")
"""


def test_client_goes_on_in_a_child(start: Start) -> None:
    hub, _ = start({path: path.encode() * 100 for path in make_files(400)})
    assert run_python(FORK, hub.url, KEY) == "both\n"
    assert len(read_singly(hub)) < 40


ENDING = """
    import sys, time
    from dsx import DatasetHubClient
    hub = DatasetHubClient(sys.argv[1], sys.argv[2], cache_dir=None)
    for item in hub.get_manifest("cats")[:4]:
        hub.get_file_bytes("cats", item["path"])
    sys.exit(3) if sys.argv[3] == "exit" else None
"""


@pytest.mark.parametrize("reply", [Reply(b"", "hang"), Reply(b"HTTP/1.1 200 X\r\ncontent-type: x\r\n\r\n", "hang")])
def test_process_ends_while_something_is_under_way(start: Start, reply: Reply) -> None:
    hub, script = start(make_files(60))
    script.send_batch = lambda request: reply  # type: ignore[method-assign]
    began = time.monotonic()
    run_python(ENDING, hub.url, KEY, "fall off")
    assert time.monotonic() - began < 20  # not the 30 s of a request's timeout
    assert hub.of("POST")


INTERRUPTED = """
    import os, signal, sys, threading
    from dsx import DatasetHubClient
    hub = DatasetHubClient(sys.argv[1], sys.argv[2], cache_dir=None)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for item in hub.get_manifest("cats"):
            hub.get_file_bytes("cats", item["path"])
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_interrupt_ends_the_wait_for_what_is_on_its_way(start: Start) -> None:
    hub, script = start(make_files(60))
    script.send_batch = lambda request: Reply(b"", "hang")  # type: ignore[method-assign]
    assert run_python(INTERRUPTED, hub.url, KEY) == "interrupted\n"


def test_second_epoch_is_served_ahead_too(connect: Connect, start: Start) -> None:
    files = make_files(300)
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    for _ in range(3):
        assert [client.get_file_bytes("cats", path) for path in paths] == list(files.values())
    assert len(read_singly(hub)) < 24


def test_caller_who_goes_back_is_served_from_there(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._readahead, "FREE_BYTES", 40_000)
    hub, _ = start(make_files(400))
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    for path in paths[:100] + paths[20:100]:
        client.get_file_bytes("cats", path)
    assert len(read_singly(hub)) < 20


def test_kind_that_is_not_wanted_any_more_is_not_read_any_more(
    connect: Connect, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._readahead, "FREE_BYTES", 40_000)
    hub, _ = start(make_files(600))
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    for path in paths[:100] + [path for path in paths[100:] if path.endswith("jpg")]:
        client.get_file_bytes("cats", path)
    assert len([path for path in read_ahead(hub) if path in paths[100:] and path.endswith("txt")]) < 30
    assert len(read_singly(hub)) < 100


def test_suffixes_that_come_one_after_the_other(connect: Connect, start: Start) -> None:
    files = {f"{suffix}/{number:03}.{suffix}": bytes([number]) * 900 for suffix in "abcd" for number in range(100)}
    hub, _ = start(files)
    client = connect(hub.url, cache_dir=None)
    for item in client.get_manifest("cats"):
        assert client.get_file_bytes("cats", item["path"]) == files[item["path"]]
    assert len(read_singly(hub)) < 12


def test_way_through_what_the_cache_has_is_followed(connect: Connect, start: Start) -> None:
    hub, _ = start(make_files(200))
    client = connect(hub.url)
    paths = [item["path"] for item in client.get_manifest("cats")]
    client.download_dataset("cats", paths[:60])
    before = len(read_singly(hub))
    for path in paths:
        client.get_file("cats", path)
    assert read_singly(hub)[before:] == [paths[60]]


def test_loops_over_two_datasets_do_not_disturb_each_other(connect: Connect, start: Start) -> None:
    files = make_files(300)
    hub, script = start(files)
    honest = script.__call__

    def as_dogs(request: Request) -> Reply:
        return honest(request._replace(target=request.target.replace("/dogs", "/cats")))

    hub.script = as_dogs
    client = connect(hub.url, cache_dir=None)
    paths = [item["path"] for item in client.get_manifest("cats")]
    client.get_manifest("dogs")
    for before, path in pairwise(paths):
        assert client.get_file_bytes("cats", path) == files[path]
        assert client.get_file_bytes("dogs", before) == files[before]
    assert len(hub.of("GET", "/file")) < 20
