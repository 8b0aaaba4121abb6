"""Folders are listed in the order of their paths, as they are on the disk, whatever happens to them meanwhile."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx.errors import DatasetNotFoundError, UnreadableError
from dsx_server.storage import GONE, Head, Identity, Item, Listing, LocalStorage, walking
from dsx_server.storage.crew import Crew
from dsx_server.storage.walking import Tree
from tests.conftest import ROOT, write_files
from tests.hub.conftest import WAIT_S

T = TypeVar("T")

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, FIFOs and odd names are made as POSIX has them")


class SlowCrew(Crew):
    """A crew that takes every disk for a slow one: all is done in threads, and folders are listed ahead."""

    is_slow = property(lambda _: True, lambda _, __: None)  # type: ignore[assignment]  # -- what is judged has no say


@pytest.fixture(params=["quick", "slow"])
def storage(request: pytest.FixtureRequest, served: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    """The storage on ``served``, with one thread and with many."""
    if request.param == "slow":
        monkeypatch.setattr(walking, "Crew", SlowCrew)
    return LocalStorage(served)


@pytest.fixture
def root(served: Path) -> Path:
    """An empty dataset ``d``."""
    (served / "d").mkdir()
    return served / "d"


def item_of(path: Path) -> Item:
    """Return what a listing shall say of a file."""
    status = path.lstat()
    return path.name, Identity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def walk_independently(root: Path) -> list[tuple[str, list[Item], list[str]]]:
    """Return folder, entries and folders of everything below ``root``, in which there are only files and folders."""
    found = []
    for folder, below, files in os.walk(root):
        relative = os.path.relpath(folder, root)
        name = "" if relative == "." else relative + "/"
        found.append((name, sorted(item_of(Path(folder, each)) for each in files), sorted(below)))
    return sorted(found)


def within(call: Callable[[], T]) -> T:
    """Return what ``call`` returns; fail when it hangs."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 -- raised in the test
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(WAIT_S)


def items(listing: Listing) -> list[Item | str]:
    return list(listing.read_items())


def folders(listing: Listing) -> list[str]:
    return [name for name, _ in listing.folders]


def read_heads(storage: LocalStorage) -> dict[str, Head | str]:
    """Return the heads of all entries of dataset ``d`` by path."""
    return {
        listing.folder + name: head
        for listing in storage.walk("d")
        for name, head in zip(listing.names, listing.read_heads(listing.names), strict=True)
    }


# Characters around "/" in order, in one to four bytes of UTF-8; "é" also as two characters.
segments = st.text(
    st.sampled_from("-./0 aZ~\u00e9\u0301\uffff\U0001f600".replace("/", "")), min_size=1, max_size=4
).filter(lambda name: name not in (".", "..") and not name.startswith("._"))
trees = st.recursive(
    st.binary(max_size=3), lambda below: st.dictionaries(segments, below, max_size=5), max_leaves=25
).filter(lambda tree: isinstance(tree, dict))


def plant(folder: Path, tree: dict[str, object]) -> None:
    """Make the files and folders of a tree."""
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).mkdir()
            plant(folder / name, content)  # type: ignore[arg-type]  # -- a tree below a tree


@given(tree=trees)
def test_folders_are_listed_in_the_order_of_their_paths_on_slow_and_quick_disks(tree: dict[str, object]) -> None:
    with TemporaryDirectory() as served:
        root = Path(served, "d")
        root.mkdir()
        plant(root, tree)
        expected = walk_independently(root)
        for crew in (Crew, SlowCrew):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(walking, "Crew", crew)
                found = [(each, items(each)) for each in LocalStorage(Path(served)).walk("d")]
            assert [(each.folder, entries, sorted(folders(each))) for each, entries in found] == expected
            assert all(each.names == [name for name, _ in entries] for each, entries in found)
            assert all((each.left_out, each.links) == ({}, 0) for each, _ in found)


def test_folder_is_where_its_path_belongs_not_where_its_name_does(storage: LocalStorage, root: Path) -> None:
    write_files(root, {"a/x": b"", "a-/x": b"", "a.b/x": b"", "a0/x": b"", "a/-/x": b"", "a /x": b""})
    assert [each.folder for each in storage.walk("d")] == ["", "a /", "a-/", "a.b/", "a/", "a/-/", "a0/"]


def test_walk_may_begin_below(storage: LocalStorage, root: Path) -> None:
    write_files(root, {"a/b/x": b"", "a/c/d/x": b"", "a-/x": b"", "y": b""})
    assert [each.folder for each in storage.walk("d", "a/")] == ["a/", "a/b/", "a/c/", "a/c/d/"]
    assert list(storage.walk("d", "none/")) == []
    assert list(storage.walk("d", "y/")) == []
    assert list(storage.walk("d", "../d/")) == []


def test_folder_is_listed_alone(storage: LocalStorage, root: Path) -> None:
    write_files(root, {"a/x": b"x", "a/b/y": b"", "a/c/z": b""})
    listing = storage.list_folder("d", "a/")
    assert listing is not None
    assert (listing.folder, items(listing), folders(listing)) == ("a/", [item_of(root / "a/x")], ["b", "c"])
    assert storage.list_folder("d", "none/") is None
    assert storage.list_folder("d", "a/x/") is None
    (root / "link").symlink_to("a")
    assert storage.list_folder("d", "link/") is None


def test_dataset_that_is_not_there_is_not_found(storage: LocalStorage, root: Path) -> None:
    with pytest.raises(DatasetNotFoundError):
        list(storage.walk("none"))
    tree = Tree("d", str(root.resolve()))
    root.rmdir()
    with pytest.raises(DatasetNotFoundError):
        list(tree.walk(""))


def test_folder_that_vanishes_during_a_walk_is_passed_over(served: Path, root: Path) -> None:
    write_files(root, {"a/x": b"", "b/x": b"", "b/c/x": b"", "e/x": b""})
    walk = LocalStorage(served).walk("d")
    assert folders(next(walk)) == ["a", "b", "e"]
    shutil.rmtree(root / "b")
    assert [each.folder for each in walk] == ["a/", "e/"]


def test_folder_that_vanishes_after_it_was_listed_ahead_is_no_error(storage: LocalStorage, root: Path) -> None:
    write_files(root, {f"{number:02}/x": b"" for number in range(50)})
    walk = storage.walk("d")
    kept = [next(walk).folder, next(walk).folder]
    for number in range(2, 50, 2):
        shutil.rmtree(root / f"{number:02}")
    found = kept + [each.folder for each in walk]
    assert found == sorted(set(found))
    assert {"", "00/", *(f"{number:02}/" for number in range(1, 50, 2))} <= set(found)
    assert "48/" not in found  # too far ahead to have been listed


def test_walk_that_is_given_up_leaves_no_threads_and_no_descriptors(storage: LocalStorage, root: Path) -> None:
    write_files(root, {f"{number:02}/x": b"" for number in range(50)})
    list(storage.walk("d"))
    before = len(os.listdir("/dev/fd"))
    walk = storage.walk("d")
    next(walk)
    next(walk)
    walk.close()  # type: ignore[attr-defined]  # -- a generator
    assert len(os.listdir("/dev/fd")) == before
    assert not [each for each in threading.enumerate() if each.name.startswith("dsx-list")]


def test_what_is_no_entry_is_counted_by_its_reason(storage: LocalStorage, root: Path) -> None:
    write_files(root, {"a": b"", ".hidden": b"", "Thumbs.db": b"", "._a": b"", ".DS_Store": b"", "@eaDir/x": b""})
    write_files(root, {"back\\slash": b"", "sub/x\\y/z": b"", "sub/keep": b""})
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_bytes(b"")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(root, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket" if sys.platform == "linux" else str(root / "socket"))
        os.close(folder)
    top, sub = list(storage.walk("d"))
    assert top.names == [".hidden", "a"]
    assert (folders(top), top.left_out) == (["sub"], {"system_file": 4, "name": 2, "special_file": 2})
    assert (sub.names, sub.left_out) == (["keep"], {"name": 1})


@pytest.mark.parametrize("length", [254, 255])
def test_very_long_names_are_names(storage: LocalStorage, root: Path, length: int) -> None:
    name = "\u00e9" * 127 + "a" * (length - 254)
    write_files(root, {f"{name}/{name}": b"x"})
    assert list(read_heads(storage)) == [f"{name}/{name}"]


@pytest.fixture
def long_folder(root: Path) -> Iterator[int]:
    """An open folder whose path in the dataset has 4016 bytes: with the root's it is too long for the system."""
    at = os.open(root, os.O_RDONLY)
    for _ in range(16):
        os.mkdir("f" * 250, dir_fd=at)
        above, at = at, os.open("f" * 250, os.O_RDONLY, dir_fd=at)
        os.close(above)
    yield at
    os.close(at)
    shutil.rmtree(root)


def test_path_of_4096_bytes_is_an_entry_and_a_longer_one_is_counted(storage: LocalStorage, long_folder: int) -> None:
    for name in ("x" * 80, "x" * 81, "\u00e9" * 40, "\u00e9" * 41):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=long_folder))
    os.mkdir("g" * 81, dir_fd=long_folder)
    *_, last = storage.walk("d")
    assert (last.names, last.left_out) == (["x" * 80, "\u00e9" * 40], {"name": 3})
    assert [isinstance(head, tuple) for head in read_heads(storage).values()] == [True, True]


def test_deep_tree_is_listed_to_its_end(storage: LocalStorage, root: Path) -> None:
    write_files(root, {"d/" * 200 + "x": b"x"})
    assert [each.folder for each in storage.walk("d")] == ["d/" * depth for depth in range(201)]
    assert [isinstance(each, tuple) and each[1] for each in read_heads(storage).values()] == [b"x"]


def test_wide_folder_is_listed_whole(storage: LocalStorage, root: Path) -> None:
    for number in range(20_000):
        (root / f"{number}").touch()
    heads = read_heads(storage)
    assert list(heads) == sorted(os.listdir(root))
    (found,) = [items(each) for each in storage.walk("d")]
    identities = [head[0] for head in heads.values() if isinstance(head, tuple)]
    assert found == list(zip(heads, identities, strict=True))


def test_links_inside_are_followed_and_the_others_counted(storage: LocalStorage, root: Path, tmp_path: Path) -> None:
    write_files(tmp_path, {"outside/x": b"x"})
    write_files(root, {"real/x": b"inside", "real/below/y": b""})
    (root / "file").symlink_to("real/x")
    (root / "folder").symlink_to(root.resolve() / "real")
    (root / "out-file").symlink_to(tmp_path / "outside" / "x")
    (root / "out-folder").symlink_to(tmp_path / "outside")
    (root / "nowhere").symlink_to("none")
    (root / "self").symlink_to("self")
    (root / "whole").symlink_to(".")
    (root / "real" / "below" / "up").symlink_to("..")
    walked = [(each, items(each)) for each in storage.walk("d")]
    listings, entries = {each.folder: each for each, _ in walked}, {each.folder: found for each, found in walked}
    top = listings[""]
    assert entries[""] == [("file", item_of(root / "real/x")[1])]
    assert (folders(top), top.links) == (["folder", "real"], 7)
    assert top.left_out == {"link_outside": 3, "link_loop": 2}
    assert list(listings) == ["", "folder/", "folder/below/", "real/", "real/below/"]
    for folder in ("folder/", "real/"):
        assert entries[folder] == [item_of(root / "real/x")]
        assert listings[folder + "below/"].left_out == {"link_loop": 1}


def test_links_that_lead_to_one_another_end(storage: LocalStorage, root: Path) -> None:
    for name in "abcdefgh":
        write_files(root, {f"{name}/x": b""})
        for other in "abcdefgh".replace(name, ""):
            (root / name / other).symlink_to(f"../{other}")
    found = [each.folder for each in storage.walk("d")]
    assert found == sorted(set(found))
    assert max(folder.count("/") for folder in found) == 1 + walking.MAX_NESTED_LINKS


def test_heads_are_the_first_kilobyte_and_the_state_that_it_is_of(storage: LocalStorage, root: Path) -> None:
    data = os.urandom(5000)
    write_files(root, {f"a/{size}": data[:size] for size in (0, 1, 1023, 1024, 1025, 5000)})
    (root / "a" / "link").symlink_to("5000")
    heads = read_heads(storage)
    assert len(heads) == 7
    for path, head in heads.items():
        real = (root / path).resolve()
        assert head == (walking.identity_of(real.stat()), data[: min(1024, int(real.name))])


def swap_for_link_inside(path: Path) -> None:
    path.unlink()
    path.symlink_to("other")


def swap_for_link_outside(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def swap_for_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def swap_for_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change", [Path.unlink, swap_for_link_inside, swap_for_link_outside, swap_for_fifo, swap_for_folder]
)
def test_head_of_a_file_that_is_none_any_more_is_gone(
    storage: LocalStorage, root: Path, change: Callable[[Path], None]
) -> None:
    write_files(root, {"a/other": b"o", "a/x": b"x"})
    listing = storage.list_folder("d", "a/")
    assert listing is not None
    change(root / "a" / "x")
    other, gone = within(lambda: list(listing.read_heads(["other", "x"])))
    assert isinstance(other, tuple)
    assert (other[1], gone) == (b"o", GONE)


@pytest.mark.parametrize("change", [Path.unlink, swap_for_link_outside, swap_for_fifo, swap_for_folder])
def test_head_behind_a_link_that_leads_to_no_file_any_more_is_gone(
    storage: LocalStorage, root: Path, change: Callable[[Path], None]
) -> None:
    write_files(root, {"real": b"x"})
    (root / "link").symlink_to("real")
    listing = storage.list_folder("d", "")
    assert listing is not None
    assert listing.names == ["link", "real"]
    change(root / "real")
    assert within(lambda: list(listing.read_heads(["link", "real"]))) == [GONE, GONE]


@pytest.mark.parametrize("change", ["removed", "link", "fifo"])
def test_heads_in_a_folder_that_is_none_any_more_are_gone(
    storage: LocalStorage, root: Path, tmp_path: Path, change: str
) -> None:
    write_files(root, {"a/x": b"x", "a/y": b"y"})
    listing = storage.list_folder("d", "a/")
    assert listing is not None
    (root / "a").rename(tmp_path / "a")
    if change == "link":
        (root / "a").symlink_to(tmp_path / "a")
    elif change == "fifo":
        os.mkfifo(root / "a")
    assert within(lambda: list(listing.read_heads(["x", "y"]))) == [GONE, GONE]


_POWERLESS = """
import ctypes, json, os, sys
if os.geteuid() == 0 and len(sys.argv) == 3:
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            sys.exit(77)
    os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
from dsx_server.storage import LocalStorage
print(json.dumps([
    (each.folder, each.names, each.left_out, [name for name, _ in each.folders],
     [head if isinstance(head, str) else "read" for head in each.read_heads(each.names)])
    for each in LocalStorage(Path(sys.argv[2])).walk("d")
]))
"""


def test_what_may_not_be_read_is_counted_and_the_rest_is_listed(served: Path, root: Path, tmp_path: Path) -> None:
    write_files(root, {"closed/x": b"", "open/secret": b"", "open/y": b""})
    (root / "open" / "secret").chmod(0)
    (root / "closed").chmod(0)
    (tmp_path / "walk.py").write_text(_POWERLESS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "walk.py"), str(ROOT / "src"), str(served)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    (root / "closed").chmod(0o700)
    if done.returncode == 77:
        pytest.skip("root cannot give up its power over permissions here")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["", [], {}, ["closed", "open"], []],
        ["closed/", [], {"unreadable": 1}, [], []],
        ["open/", ["secret", "y"], {}, [], ["unreadable", "read"]],
    ]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_disk_that_fails_is_an_error_and_no_short_list(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write_files(root, {"a": b"a", "b": b"b"})
    real = os.stat

    def fail(path: object, **options: object) -> os.stat_result:
        if path == "b":
            raise OSError(code, os.strerror(code))
        return real(path, **options)  # type: ignore[arg-type]  # -- passed on as it came

    monkeypatch.setattr(os, "stat", fail)
    (listing,) = (each for each in [storage.list_folder("d", "")] if each)
    with pytest.raises(UnreadableError):
        list(listing.read_items())
