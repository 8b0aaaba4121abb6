"""Scans bring the index to what the disk holds: after any changes, whole or by folder, and after a kill."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsx.errors import UnreadableError
from dsx_server.index import keeper
from dsx_server.storage import Listing
from tests.conftest import ROOT, write_files
from tests.hub.looker import CountingStorage, Looker, check_index

NAMES = ["a", "b", "b-", "b.c", "0", "ü", "a b"]
FOLDERS = ["", "a/", "b/", "b-/", "b/a/", "b/a/0/", "0/"]


@pytest.fixture
def cats(served: Path) -> Path:
    """A dataset with files in several folders."""
    write_files(
        served / "cats", {f"{folder}{name}": f"{folder}{name}".encode() for folder in FOLDERS for name in "xyz"}
    )
    return served / "cats"


@pytest.fixture
def looker(served: Path, tmp_path: Path) -> Iterator[Looker]:
    """An index on ``served``."""
    looker = Looker(tmp_path / "state", CountingStorage(served))
    yield looker
    looker.close()


def test_first_scan_is_what_the_disk_holds(cats: Path, served: Path, tmp_path: Path, looker: Looker) -> None:
    looker.refresh("cats")
    check_index(tmp_path / "state", served, "cats")


KILLED = """
import os, signal, sys
from pathlib import Path
from dsx_server.index import changes, scan
scan.RACY_NS = int(sys.argv[4])
from tests.hub.looker import CountingStorage, Looker
changes.BATCH_ROWS = 10
storage = CountingStorage(Path(sys.argv[1]))
def kill_at(listing):
    if listing.folder == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
storage.on_listing = kill_at
Looker(Path(sys.argv[2]), storage).refresh("cats")
"""


def scan_and_be_killed(served: Path, state: Path, folder: str, *, racy_ns: int = 2 * 10**9) -> None:
    """Scan in another process that is killed when it comes to ``folder``."""
    command = [sys.executable, "-c", KILLED, str(served), str(state), folder, str(racy_ns)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == -9, result.stderr


def test_first_scan_that_is_killed_goes_on_where_it_was(cats: Path, served: Path, tmp_path: Path) -> None:
    write_files(cats, {f"big{n}/{m}": b"x" for n in range(9) for m in range(20)})
    # What was written a moment ago would be read again, which is not the question here.
    scan_and_be_killed(served, tmp_path / "state", "big7/", racy_ns=0)
    storage = CountingStorage(served)
    looker = Looker(tmp_path / "state", storage)
    assert looker.index.find_newest("cats") is None
    looker.refresh("cats")
    looker.close()
    check_index(tmp_path / "state", served, "cats")
    assert not {path for path in storage.opened if path.startswith(("big0/", "big1/", "big5/"))}
    assert {path for path in storage.opened if path.startswith("big8/")}


def test_scan_of_changes_that_is_killed_leaves_the_newest_revision_alone(
    cats: Path, served: Path, tmp_path: Path
) -> None:
    first = Looker(tmp_path / "state", CountingStorage(served))
    before = first.load("cats")
    first.close()
    for path in sorted(cats.rglob("*")):
        if path.is_file():
            path.write_bytes(b"changed " + path.read_bytes())
    shutil.rmtree(cats / "0")
    write_files(cats, {"new/1": b"1"})
    scan_and_be_killed(served, tmp_path / "state", "b/a/0/")
    again = Looker(tmp_path / "state", CountingStorage(served))
    newest = again.index.find_newest("cats")
    assert newest is not None
    assert newest.id == before["revision"]
    with again.index.open_manifest("cats", newest.id, "columns").file as file:
        assert json.loads(gzip.decompress(file.read())) == before
    again.refresh("cats")
    again.close()
    check_index(tmp_path / "state", served, "cats")


def test_entry_that_vanishes_between_listing_and_reading_is_left_out(
    cats: Path, served: Path, tmp_path: Path, looker: Looker
) -> None:
    def remove(listing: Listing) -> None:
        if listing.folder == "b/":
            (cats / "b" / "x").unlink()

    assert isinstance(looker.storage, CountingStorage)
    looker.storage.on_listing = remove
    looker.refresh("cats")
    check_index(tmp_path / "state", served, "cats")


def test_scan_that_fails_half_way_publishes_nothing(cats: Path, looker: Looker) -> None:
    before = looker.refresh("cats")
    write_files(cats, {"a/new": b"n"})

    def fail(listing: Listing) -> None:
        if listing.folder == "b/":
            raise UnreadableError("the disk failed")

    assert isinstance(looker.storage, CountingStorage)
    looker.storage.on_listing = fail
    with pytest.raises(UnreadableError):
        looker.refresh("cats")
    newest = looker.index.find_newest("cats")
    assert newest is not None
    assert newest.id == before.id
    looker.storage.on_listing = lambda _: None
    assert looker.refresh("cats").entries == before.entries + 1


def test_progress_of_a_long_scan_is_in_the_log(
    served: Path, looker: Looker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PROGRESS_LOGGED_S", 0.0)
    write_files(served / "cats", {f"{n:04}": b"" for n in range(3000)})
    with caplog.at_level("INFO", "dsx.index"):
        looker.refresh("cats")
    assert any("3000 entries so far" in record.getMessage() for record in caplog.records)


def test_wide_folder_is_read_in_batches(served: Path, tmp_path: Path, looker: Looker) -> None:
    write_files(served / "cats", {f"{n:05}": b"%d" % n for n in range(12_000)})
    looker.refresh("cats")
    check_index(tmp_path / "state", served, "cats")


def test_many_folders_come_and_go(served: Path, tmp_path: Path, looker: Looker) -> None:
    write_files(served / "cats", {f"{n:04}/x": b"%d" % n for n in range(0, 2500, 2)})
    looker.refresh("cats")
    write_files(served / "cats", {f"{n:04}/x": b"%d" % n for n in range(1, 2500, 2)})
    for n in range(0, 2500, 4):
        shutil.rmtree(served / "cats" / f"{n:04}")
    looker.refresh("cats")
    check_index(tmp_path / "state", served, "cats")


def test_folder_that_becomes_a_file_and_a_file_that_becomes_a_folder(
    cats: Path, served: Path, tmp_path: Path, looker: Looker
) -> None:
    looker.refresh("cats")
    shutil.rmtree(cats / "b")
    (cats / "b").write_bytes(b"now a file")
    (cats / "x").unlink()
    write_files(cats, {"x/y/z": b"now a folder"})
    looker.scan_folders("cats", [""])
    check_index(tmp_path / "state", served, "cats")


operations = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "append", "remove", "remove folder", "rename folder", "touch", "scan"]),
        st.sampled_from(FOLDERS),
        st.sampled_from(NAMES),
        st.sampled_from(FOLDERS[1:]),
    ),
    max_size=25,
)


def apply(cats: Path, what: str, folder: str, name: str, other: str) -> set[str]:
    """Change something, and return the folders that a watch would tell of."""
    path = cats / folder / name
    try:
        if what == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{folder}{name}{other}".encode())
        elif what == "append" and path.is_file():
            with path.open("ab") as file:
                file.write(b"more")
        elif what == "touch" and path.is_file():
            os.utime(path)
        elif what == "remove" and path.is_file():
            path.unlink()
        elif what == "remove folder" and folder:
            shutil.rmtree(cats / folder, ignore_errors=True)
        elif what == "rename folder" and folder and (cats / folder).is_dir():
            (cats / folder).rename(cats / other)
    except OSError:
        pass  # a file where a folder is wanted, a folder into itself
    seen = {folder, other, ""}
    for each in list(seen):
        parts = each.split("/")[:-1]
        seen |= {"".join(f"{part}/" for part in parts[:n]) for n in range(len(parts))}
    return seen


@settings(max_examples=60)
@given(operations)
def test_any_changes_end_in_what_the_disk_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, str]]
) -> None:
    base = tmp_path_factory.mktemp("any")
    served, cats = base / "served", base / "served" / "cats"
    write_files(cats, {"a/a": b"1", "b/a/b": b"2", "keep": b"k"})
    looker = Looker(base / "state", CountingStorage(served))
    try:
        looker.refresh("cats")
        hints: set[str] = set()
        for what, folder, name, other in steps:
            if what == "scan":
                looker.refresh("cats")
                check_index(base / "state", served, "cats")
                hints.clear()
            else:
                hints |= apply(cats, what, folder, name, other)
        looker.scan_folders("cats", sorted(hints))
        check_index(base / "state", served, "cats")
    finally:
        looker.close()
        shutil.rmtree(base)
