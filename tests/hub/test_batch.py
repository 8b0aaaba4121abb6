"""``POST /batch`` as a client sees it: over a real socket, every frame checked."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsx.protocol.frames import Status
from dsx_server.storage import Content, LocalStorage
from dsx_server.storage.entries import LocalEntry
from dsx_server.storage.reading import LocalReader
from tests.conftest import HubProcess, write_files
from tests.hub.batches import BatchConnection, Got, read_batch, refuse_batch, statuses
from tests.hub.conftest import InProcessHub, ask

MIB = 1024 * 1024
BIG = bytes(range(251)) * 16_000  # four blocks, the last one short
CANARY = b"canary-these-bytes-lie-outside"

posix_only = pytest.mark.skipif(os.name != "posix", reason="links and FIFOs are made as POSIX has them")


@pytest.fixture
def folder(request: pytest.FixtureRequest, shared_served: Path) -> Path:
    """A dataset of the test's own on the shared hub."""
    path = shared_served / f"d{abs(hash(request.node.nodeid))}"
    path.mkdir()
    return path


@pytest.fixture
def batch(shared_hub: HubProcess, folder: Path) -> Callable[..., list[Got]]:
    """Ask for a batch of `folder`."""

    def send(**body: object) -> list[Got]:
        return read_batch(shared_hub, folder.name, **body)

    return send


Batch = Callable[..., list[Got]]


@pytest.mark.parametrize("size", [0, 1, 65_536, MIB - 1, MIB, MIB + 1, 2 * MIB, len(BIG)])
def test_payload_is_the_file(batch: Batch, folder: Path, size: int) -> None:
    (folder / "x").write_bytes(BIG[:size])
    assert batch(paths=["x"]) == [(Status.OK, BIG[:size])]


def test_frames_come_in_the_order_of_the_request(batch: Batch, folder: Path) -> None:
    names = [f"{number % 7}/{number % 3}/{number}" for number in range(3000)]
    write_files(folder, {name: name.encode() * (number % 50) for number, name in enumerate(names)})
    random.Random(1).shuffle(names)
    assert [got.payload for got in batch(paths=names)] == [(folder / name).read_bytes() for name in names]


def test_short_long_and_missing_entries_mix(batch: Batch, folder: Path) -> None:
    write_files(folder, {"big": BIG, "small": b"s", "middle": BIG[: 900 * 1024], "empty": b""})
    names = ["small", "big", "missing", "middle", "empty", "big", "middle", "middle", "small", "missing", "big"]
    found = batch(paths=names * 3)
    for name, got in zip(names * 3, found, strict=True):
        assert got.status == (Status.NOT_FOUND if name == "missing" else Status.OK), name
        assert name == "missing" or got.payload == (folder / name).read_bytes()


def test_duplicates_are_served(batch: Batch, folder: Path) -> None:
    (folder / "x").write_bytes(b"twice")
    assert [got.payload for got in batch(paths=["x"] * 1000)] == [b"twice"] * 1000


@pytest.mark.parametrize("request_body", [{"paths": []}, {"reads": []}, {"paths": [], "reads": None}])
def test_empty_batch_is_answered_with_an_end(batch: Batch, request_body: dict[str, list[str]]) -> None:
    assert batch(**request_body) == []


def test_as_many_entries_as_a_batch_may_have(batch: Batch, folder: Path) -> None:
    write_files(folder, {"x": b"x", "y": b"yy"})
    found = batch(paths=["x", "y"] * 32_768)
    assert [got.payload for got in found] == [b"x", b"yy"] * 32_768


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reads=st.lists(
        st.tuples(
            st.sampled_from(["big", "small", "empty"]),
            st.integers(0, len(BIG) + 10) | st.just(2**63),
            st.integers(0, len(BIG) + 10) | st.just(2**63),
        ),
        max_size=8,
    )
)
def test_ranges_are_those_of_the_file(
    shared_hub: HubProcess, shared_served: Path, reads: list[tuple[str, int, int]]
) -> None:
    contents = {"big": BIG, "small": b"0123456789", "empty": b""}
    if not (shared_served / "ranges").exists():
        write_files(shared_served / "ranges", contents)
    wanted = [(name, min(a, b), max(a, b)) for name, a, b in reads]
    found = read_batch(shared_hub, "ranges", reads=wanted)
    assert found == [(Status.OK, contents[name][start:stop]) for name, start, stop in wanted]


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a\nb",
        "a\r\nX-Injected: 1",
        "\U0001f431.png",
        "'\"#?%&+",
        "%2e%2e",
        "e\u0301",
        "\u00e9",
        ".zarray",
        "a" * 255,
        "/".join(["deep"] * 40),
        "-rf",
        "c:d",
    ],
)
def test_any_name_is_served(batch: Batch, folder: Path, name: str) -> None:
    write_files(folder, {name: name.encode()})
    assert batch(paths=[name, name]) == [(Status.OK, name.encode())] * 2


@pytest.mark.parametrize(
    "path",
    ["missing", "no/such/folder", "x/y", "sub", ".DS_Store", "sub/._a", "Thumbs.db", "@eaDir/x", "b" * 256, "a\x01b"],
)
def test_what_is_no_entry_is_not_found(batch: Batch, folder: Path, path: str) -> None:
    write_files(folder, {"x": b"x", "sub/a": b"a", ".DS_Store": b"junk", "sub/._a": b"junk", "@eaDir/x": b"junk"})
    write_files(folder, {"Thumbs.db": b"junk"})
    found = batch(paths=["x", path, "x"])
    assert statuses(found) == ["OK", "NOT_FOUND", "OK"]
    assert found[1].code == "entry_not_found"
    assert json.loads(found[1].payload)["status"] == 404


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/", "/x", "x/", "a//b", "./x", "../x", "a/../x", "a\\b", "..\\x", "x\x00", "\x00", "a/" * 3000],
)
def test_what_is_no_path_is_invalid(batch: Batch, folder: Path, path: str) -> None:
    write_files(folder, {"x": b"x"})
    for request in (
        {"paths": ["x", path, "x"]},
        {"reads": [["x", 0, 1], [path, 0, 1], ["x", 0, 1]]},
        {"paths": [path]},
    ):
        found = batch(**request)
        assert "INVALID" in statuses(found)
        assert [got.code for got in found if got.status != Status.OK] == ["invalid_path"]


def test_no_spelling_of_a_climb_reaches_a_file_outside(batch: Batch, folder: Path, shared_served: Path) -> None:
    write_files(folder, {"x": b"inside"})
    write_files(shared_served, {"canary.txt": CANARY, f"{folder.name}-secret/canary.txt": CANARY})
    write_files(shared_served.parent, {"canary.txt": CANARY})
    parts = ["..", ".", "/", "\\", "%2e", "~", folder.name, "\x00", "x", f"{folder.name}-secret", str(shared_served)]
    paths = [
        "".join(each) + end
        for n in (1, 2, 3, 4)
        for each in itertools.product(parts, repeat=n)
        for end in ("/canary.txt",)
    ]
    for got in batch(paths=paths[:65_536]):
        assert CANARY not in got.payload
        assert got.status in (Status.NOT_FOUND, Status.INVALID)


@posix_only
def test_links_are_followed_inside_the_dataset_only(batch: Batch, folder: Path, shared_served: Path) -> None:
    write_files(folder, {"real/x": b"inside"})
    write_files(shared_served.parent, {f"{folder.name}-secret/x": CANARY})
    secret = shared_served.parent / f"{folder.name}-secret"
    (folder / "relative").symlink_to("real/x")
    (folder / "absolute").symlink_to(folder.resolve() / "real" / "x")
    (folder / "folder").symlink_to("real")
    (folder / "out").symlink_to(secret / "x")
    (folder / "out-folder").symlink_to(secret)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")
    os.mkfifo(folder / "fifo")
    inside, outside = (
        ["relative", "absolute", "folder/x", "real/x"],
        ["out", "out-folder/x", "loop", "dangling", "fifo"],
    )
    found = batch(paths=inside + outside + inside)
    assert found[:4] == found[9:] == [(Status.OK, b"inside")] * 4
    assert statuses(found[4:9]) == ["NOT_FOUND"] * 5


@posix_only
def test_dataset_that_is_a_link_is_served(shared_hub: HubProcess, shared_served: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", {"a/x": b"x"})
    (shared_served / "linked").symlink_to(tmp_path / "elsewhere")
    assert read_batch(shared_hub, "linked", paths=["a/x"]) == [(Status.OK, b"x")]


@posix_only
def test_entry_that_may_not_be_read_is_unreadable(served: Path, powerless_hub: HubProcess) -> None:
    write_files(served / "cats", {"x": b"x", "secret": b"s", "locked/y": b"y", "big": BIG})
    for name in ("secret", "locked", "big"):
        (served / "cats" / name).chmod(0)
    try:
        found = read_batch(powerless_hub, "cats", paths=["x", "secret", "locked/y", "big", "x"])
    finally:
        (served / "cats" / "locked").chmod(0o700)
    assert statuses(found) == ["OK", "UNREADABLE", "UNREADABLE", "UNREADABLE", "OK"]
    assert [found[number].code for number in (1, 2, 3)] == ["unreadable"] * 3
    assert "secret" in found[1].detail


class RestlessReader(LocalReader):
    """Somebody writes to the file that is being read."""

    def __init__(self, dataset: str, root: str, contents: list[bytes]) -> None:
        super().__init__(dataset, root)
        self._file = Path(root) / "x"
        self._contents = contents

    def _rewrite(self) -> None:
        if self._contents:
            self._file.write_bytes(self._contents.pop(0))

    def open(self, path: str) -> LocalEntry:
        entry = super().open(path)
        read = entry.read

        def read_while_it_is_written(start: int, stop: int) -> bytes:
            middle = (start + stop) // 2
            half = read(start, middle)
            self._rewrite()
            return half + read(middle, stop)

        entry.read = read_while_it_is_written  # type: ignore[method-assign]  # -- a seam of this test's own
        return entry


class RestlessStorage(LocalStorage):
    """Real files, one of which is rewritten with the next of ``contents`` whenever it is read."""

    def __init__(self, served: Path, contents: list[bytes]) -> None:
        super().__init__(served)
        self._contents = contents

    def get_reader(self, dataset: str) -> RestlessReader:
        return RestlessReader(dataset, self._root(dataset), self._contents)


def test_entry_rewritten_while_it_is_read_is_read_again(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    write_files(served, {"cats/x": b"A" * 1000})
    found = read_batch(start_in_process(RestlessStorage(served, [b"B" * 1000])), "cats", paths=["x"])
    assert found in ([(Status.OK, b"B" * 1000)], [(Status.OK, b"A" * 1000)])


@pytest.mark.parametrize("size", [1000, len(BIG)])
def test_entry_rewritten_at_every_read_is_changed(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub], size: int
) -> None:
    write_files(served, {"cats/x": b"A" * size, "cats/y": b"y"})
    (served / "cats" / "link").symlink_to("x")  # what is reached through a link is always read the careful way
    hub = start_in_process(RestlessStorage(served, [b"B" * size, b"A" * size] * 50))
    found = read_batch(hub, "cats", paths=["y", "link", "y"])
    assert statuses(found) == ["OK", "CHANGED", "OK"]
    assert found[1].code == "conflict"


def test_quick_read_never_mixes_two_contents(
    folder: Path, shared_served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "x").write_bytes(b"A" * 1000)
    os.utime(folder / "x", ns=(10**18, 10**18))
    reader = LocalStorage(shared_served).get_reader(folder.name)
    reader.read_many([("x", 0, 1000)], limit=1000)  # it is at rest now
    real = os.pread
    contents = [b"B" * 1000, b"C" * 1000]

    def pread_half_before_a_write(descriptor: int, length: int, offset: int) -> bytes:
        half = real(descriptor, length // 2, offset)
        if contents:
            (folder / "x").write_bytes(contents.pop(0))
        return half + real(descriptor, length - length // 2, offset + length // 2)

    monkeypatch.setattr(os, "pread", pread_half_before_a_write)
    (found,) = reader.read_many([("x", 0, 1000)], limit=1000)
    assert isinstance(found, Content)
    assert found.data in (b"B" * 1000, b"C" * 1000)


def newest(hub: HubProcess, dataset: str = "cats") -> str:
    return str(hub.get(f"/datasets/{dataset}").json()["revision"])


@pytest.fixture
def cats(served: Path) -> Path:
    """A dataset with a few entries."""
    write_files(served / "cats", {"a": b"a" * 2000, "b/c": b"c", "b/d": b"d", "big": BIG, "empty": b""})
    return served / "cats"


def test_pinned_batch_tells_what_is_no_longer_the_same(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    write_files(cats, {"new": b"n", "a": b"A" * 2000, "big": BIG[::-1], "b/d": b"longer"})
    (cats / "b" / "c").unlink()
    names = ["a", "b/c", "b/d", "big", "empty", "new"]
    found = read_batch(hub, "cats", paths=names, revision=revision)
    assert statuses(found) == ["CHANGED", "CHANGED", "CHANGED", "CHANGED", "OK", "NOT_FOUND"]
    assert [got.code for got in found if got.status == Status.CHANGED] == ["conflict"] * 4
    assert revision in found[0].detail
    assert [got.payload for got in read_batch(hub, "cats", paths=["a", "big"])] == [b"A" * 2000, BIG[::-1]]


def test_pinned_batch_gives_what_is_the_same(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    (cats / "b" / "c").chmod(0o600)  # another ctime, and no other content
    write_files(cats, {"new": b"n"})
    assert newest(hub) != revision
    reads = [
        ["a", 5, 10],
        ["b/c", 0, 1],
        ["big", 2_000_000, 4_000_000],
        ["big", 0, 2**63],
        ["empty", 0, 5],
        ["b/d", 7, 9],
    ]
    found = read_batch(hub, "cats", reads=reads, revision=revision)
    expected = [b"aaaaa", b"c", BIG[2_000_000:4_000_000], BIG, b"", b""]
    assert found == [(Status.OK, data) for data in expected]


def test_pinned_batch_knows_what_was_written_at_equal_size_and_mtime(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    for name, data in (("a", b"b" * 2000), ("big", BIG[::-1])):
        times = (cats / name).stat()
        (cats / name).write_bytes(data)
        os.utime(cats / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = read_batch(hub, "cats", reads=[["a", 1500, 1600], ["big", 1_500_000, 1_500_001]], revision=revision)
    assert statuses(found) == ["CHANGED", "CHANGED"]


@pytest.mark.parametrize("revision", ["0" * 32, "", "nonsense", "'; DROP TABLE entries; --", "\x00"])
def test_unknown_revision_is_404_for_the_whole_batch(shared_hub: HubProcess, folder: Path, revision: str) -> None:
    assert refuse_batch(shared_hub, folder.name, {"paths": ["x"], "revision": revision}) == (404, "revision_not_found")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"paths"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"paths": ["\\ud800"]}',
        b'{"reads": [["x", 0, ' + b"9" * 5000 + b"]]}",
        {},
        {"paths": None},
        {"paths": "x"},
        {"paths": [1]},
        {"paths": [None]},
        {"paths": [["x"]]},
        {"paths": {"x": 1}},
        {"paths": ["x"], "reads": []},
        {"reads": ["x"]},
        {"reads": [["x"]]},
        {"reads": [["x", 0]]},
        {"reads": [["x", 0, 1, 2]]},
        {"reads": [["x", "0", 1]]},
        {"reads": [["x", 0.0, 1]]},
        {"reads": [["x", True, 1]]},
        {"reads": [["x", -1, 1]]},
        {"reads": [["x", 0, -1]]},
        {"reads": [["x", 2, 1]]},
        {"reads": [["x", 0, 2**63 + 1]]},
        {"reads": [["x", None, None]]},
        {"paths": ["x"], "revision": 5},
    ],
)
def test_what_is_no_batch_is_422(shared_hub: HubProcess, folder: Path, body: object) -> None:
    (folder / "x").write_bytes(b"x")
    assert refuse_batch(shared_hub, folder.name, body) == (422, "invalid_request")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_other_media_types_are_422(shared_hub: HubProcess, folder: Path, kind: str) -> None:
    assert refuse_batch(shared_hub, folder.name, {"paths": []}, Content_Type=kind) == (422, "invalid_request")


def test_media_type_may_have_parameters(shared_hub: HubProcess, folder: Path) -> None:
    with closing(BatchConnection(shared_hub)) as connection:
        answer = connection.send(folder.name, {"paths": []}, Content_Type="Application/JSON; charset=utf-8")
        assert answer.status == 200


def test_members_that_a_newer_program_adds_are_ignored(batch: Batch, folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    assert batch(paths=["x"], something="new", priority=[1, 2]) == [(Status.OK, b"x")]


@pytest.mark.parametrize("dataset", ["nope", "..", ".", ".git", "%2e%2e", "a%2Fb", "a%00", "lost+found"])
def test_dataset_that_is_none_is_refused_as_for_a_file(
    shared_hub: HubProcess, shared_served: Path, dataset: str
) -> None:
    write_files(shared_served, {"lost+found/x": CANARY})
    of_file = ask(shared_hub, f"/file/{dataset}/x".encode())
    found = refuse_batch(shared_hub, dataset, {"paths": ["x"]})
    assert found == (of_file.status, json.loads(of_file.body)["code"])
    assert found in ((404, "dataset_not_found"), (400, "invalid_path"), (404, "route_not_found"))


@pytest.mark.parametrize("target", ["/batch", "/batch/", "/batch/cats/x", "/batch/cats/", "/batch//"])
def test_other_targets_are_404(shared_hub: HubProcess, target: str) -> None:
    answer = shared_hub.request("POST", target, data=b'{"paths": []}', headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_405(shared_hub: HubProcess, folder: Path, method: str) -> None:
    answer = shared_hub.request(method, f"/batch/{folder.name}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("key", [None, "", "wrong"])
def test_batch_needs_the_key(shared_hub: HubProcess, folder: Path, key: str | None) -> None:
    (folder / "x").write_bytes(CANARY)
    assert refuse_batch(shared_hub, folder.name, {"paths": ["x"]}, key=key) == (401, "unauthorized")
    assert refuse_batch(shared_hub, "nope", {"paths": ["x"]}, key=key) == (401, "unauthorized")


def test_dataset_whose_disk_is_missing_is_503(cats: Path, hub: HubProcess) -> None:
    assert read_batch(hub, "cats", paths=["b/c"]) == [(Status.OK, b"c")]
    newest(hub)
    cats.rename(cats.with_name("cats.disk"))
    cats.mkdir()
    assert refuse_batch(hub, "cats", {"paths": ["b/c"]}) == (503, "unavailable")


def test_connection_serves_one_batch_after_the_other(shared_hub: HubProcess, folder: Path) -> None:
    write_files(folder, {"x": b"x", "big": BIG})
    with closing(BatchConnection(shared_hub)) as connection:
        for _ in range(20):
            assert [got.payload for got in connection.read(folder.name, {"paths": ["x", "big"]})] == [b"x", BIG]
            first = connection.http.sock
            assert connection.send("nope", {"paths": ["x"]}).read()
            assert connection.http.sock is first


def test_dataset_name_is_percent_decoded_once(shared_hub: HubProcess, shared_served: Path) -> None:
    name = "a b%41\U0001f431"
    write_files(shared_served, {f"{name}/x": b"x"})
    assert read_batch(shared_hub, quote(name), paths=["x"]) == [(Status.OK, b"x")]


@pytest.fixture(autouse=True)
def healthy(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test makes the hub stumble."""
    yield
    if "shared_hub" in request.fixturenames:
        assert "Traceback" not in request.getfixturevalue("shared_hub").log
