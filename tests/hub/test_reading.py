"""Many entries read in one call are what each of them is when it is opened alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx.errors import DsxError, EntryNotFoundError, HubUnavailableError
from dsx_server.storage import Content, LocalStorage, Reader, reading
from dsx_server.storage.beneath import KeptFolders
from dsx_server.storage.reading import LocalReader
from tests.conftest import write_files

WHOLE = 2**63
CANARY = b"canary-these-bytes-lie-outside"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and FIFOs are made as POSIX has them")

SEGMENTS = ["a", "b", "link", "out", "fifo", "x", "._x", "..", ".", "", "missing", "\x00", "\\", "a\nb"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A served folder with one of each."""
    served = tmp_path_factory.mktemp("reading") / "served"
    write_files(served / "cats", {"x": b"x", "a/x": b"ax", "a/b/x": b"abx", "b/a\nb": b"newline", "a/._x": b"junk"})
    write_files(served.parent, {"secret/x": CANARY})
    (served / "cats" / "link").symlink_to("a")
    (served / "cats" / "b" / "link").symlink_to("../x")
    (served / "cats" / "out").symlink_to(served.parent / "secret")
    (served / "cats" / "b" / "out").symlink_to(served.parent / "secret" / "x")
    os.mkfifo(served / "cats" / "fifo")
    return served


def open_one(reader: Reader, path: str) -> bytes | type[DsxError]:
    """Read an entry alone."""
    try:
        with reader.open(path) as entry:
            return entry.read(0, entry.identity.size)
    except DsxError as error:
        return type(error)


@pytest.mark.parametrize("opens_cached", [True, False])
@given(paths=st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join), max_size=20))
def test_many_are_read_as_each_is_alone(tree: Path, opens_cached: bool, paths: list[str]) -> None:
    root = str((tree / "cats").resolve())
    reader = LocalStorage(tree).get_reader("cats") if opens_cached else LocalReader("cats", root)
    found = reader.read_many([(path, 0, WHOLE) for path in paths], limit=10**6)
    assert [each.data if isinstance(each, Content) else type(each) for each in found] == [
        open_one(reader, path) for path in paths
    ]
    assert not any(isinstance(each, Content) and each.data == CANARY for each in found)


def test_identity_is_that_of_the_open_entry(tree: Path) -> None:
    reader = LocalStorage(tree).get_reader("cats")
    (content,) = reader.read_many([("a/x", 0, 1)], limit=1)
    with reader.open("a/x") as entry:
        assert isinstance(content, Content)
        assert (content.identity, content.data) == (entry.identity, b"a")


def test_reading_stops_before_the_limit(tmp_path: Path) -> None:
    write_files(tmp_path / "cats", {"a": b"a" * 10, "b": b"b" * 10, "empty": b""})
    reader = LocalStorage(tmp_path).get_reader("cats")
    reads = [("a", 0, WHOLE), ("b", 0, 5), ("empty", 0, WHOLE), ("missing", 0, WHOLE), ("b", 0, WHOLE)]
    sizes = {limit: len(reader.read_many(reads, limit=limit)) for limit in (0, 9, 10, 14, 15, 24, 25)}
    assert sizes == {0: 0, 9: 0, 10: 1, 14: 1, 15: 4, 24: 4, 25: 5}


def test_folder_replaced_by_a_link_while_it_is_kept_leads_nowhere(tree: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "cats", {"a/x": b"inside"})
    with KeptFolders(str(tmp_path / "cats"), 4) as folders:
        kept = folders.find("a")
        (tmp_path / "cats" / "a").rename(tmp_path / "cats" / "b")
        (tmp_path / "cats" / "a").symlink_to(tree.parent / "secret")
        assert folders.find("a") == kept
        assert os.listdir(f"/proc/self/fd/{kept}" if Path("/proc").is_dir() else tmp_path / "cats" / "b") == ["x"]
    with KeptFolders(str(tmp_path / "cats"), 4) as folders, pytest.raises(OSError, match="a"):
        folders.find("a")


def test_folders_are_closed(tmp_path: Path) -> None:
    write_files(tmp_path / "cats", {f"{n}/{m}/x": b"x" for n in range(20) for m in range(20)})
    before = len(os.listdir("/dev/fd"))
    reader = LocalStorage(tmp_path).get_reader("cats")
    reads = [(f"{n}/{m}/x", 0, WHOLE) for m in range(20) for n in range(20)] + [("no/such/x", 0, WHOLE)] * 20
    found = reader.read_many(reads, limit=10**6)
    assert [type(each) for each in found] == [Content] * 400 + [EntryNotFoundError] * 20
    assert len(os.listdir("/dev/fd")) == before


def test_folders_that_are_kept_are_few(tmp_path: Path) -> None:
    write_files(tmp_path / "cats", {f"{n}/{m}/x": b"x" for n in range(10) for m in range(10)})
    before = len(os.listdir("/dev/fd"))
    with KeptFolders(str(tmp_path / "cats"), 8) as folders:
        for n in range(10):
            for m in range(10):
                folders.find(f"{n}/{m}")
                assert len(os.listdir("/dev/fd")) - before <= 8 + 3
        folders.find("/".join(["0"] * 2))


@contextmanager
def no_more_open_files() -> Iterator[None]:
    """Let this process open no file in the body."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_is_no_answer_to_one_entry(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tree)
    reader = storage.get_reader("cats")
    with no_more_open_files(), pytest.raises(HubUnavailableError):
        reader.read_many([("x", 0, 1)], limit=1)


@pytest.mark.parametrize(
    "ask",
    [lambda storage: storage.get_reader("cats"), lambda storage: storage.open("cats", "x"), LocalStorage.list_datasets],
)
def test_too_many_open_files_is_no_failure_of_the_disk(tree: Path, ask: Callable[[LocalStorage], object]) -> None:
    storage = LocalStorage(tree)
    with no_more_open_files(), pytest.raises(HubUnavailableError) as caught:
        ask(storage)
    assert caught.value.retry_after_s == 1


def test_entries_are_read_where_there_is_no_openat(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HAS_OPENAT", False)
    reader = LocalStorage(tree).get_reader("cats")
    found = reader.read_many([("a/x", 0, WHOLE), ("link/x", 1, 2), ("out/x", 0, 1)], limit=100)
    assert [each.data if isinstance(each, Content) else type(each) for each in found] == [
        b"ax",
        b"x",
        EntryNotFoundError,
    ]
