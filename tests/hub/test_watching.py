"""Changes are seen without a look at everything: at once where the system tells of them, else within DSX_RESCAN_S.

A dataset that is quickly scanned is scanned for every question. Here none is: what shows came by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dsx_server import Settings
from dsx_server.index import waiting, watching
from tests.conftest import KEY, write_files
from tests.hub.conftest import Answer, InProcessHub, ask, wait_until
from tests.hub.looker import compute_revision, read_tree


@pytest.fixture
def start(tmp_path: Path, served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., InProcessHub]]:
    """Start hubs for which every dataset is a large one; keyword arguments are more settings."""
    monkeypatch.setattr(waiting, "QUICK_SCAN_S", -1.0)
    hubs: list[InProcessHub] = []

    def begin(**options: object) -> InProcessHub:
        settings = Settings(api_key=KEY, dataset_path=served, state_dir=tmp_path / "state", **options)  # type: ignore[arg-type]
        hubs.append(InProcessHub(settings))
        return hubs[-1]

    yield begin
    for hub in hubs:
        hub.stop()


def get(hub: InProcessHub, path: str) -> Answer:
    return ask(hub, path.encode())


def manifest(hub: InProcessHub, dataset: str = "cats") -> dict[str, tuple[int, str]]:
    """Return size and head hash of every entry by path."""
    rows = json.loads(get(hub, f"/manifest/{dataset}").body)
    return {row["path"]: (row["size"], row["hash"]) for row in rows}


def revision(hub: InProcessHub, dataset: str = "cats") -> str:
    found: str = json.loads(get(hub, f"/datasets/{dataset}").body)["revision"]
    return found


def watchers() -> list[psutil.Process]:
    """Return the processes that watch for this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if str(watching.PROGRAM) in child.cmdline():
                found.append(child)
    return found


def watched(hub: InProcessHub, served: Path) -> None:
    """Wait until changes are told of: one that nothing else would find for ten minutes shows."""
    wait_until(lambda: bool(watchers()), "the process that watches has begun")
    write_files(served / "cats", {"probe": b""})

    def is_seen() -> bool:
        (served / "cats" / "probe").write_bytes(b"x" * (1 + os.stat(served / "cats" / "probe").st_size % 7))
        return "probe" in manifest(hub)

    wait_until(is_seen, "a change was seen")
    (served / "cats" / "probe").unlink()
    wait_until(lambda: "probe" not in manifest(hub), "its removal was seen")


def test_added_changed_renamed_and_removed_entries_show(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"a": b"a", "b/c": b"c" * 5000, "d/e": b"e"})
    hub = start()
    watched(hub, served)
    write_files(served / "cats", {"b/new": b"n"})
    wait_until(lambda: "b/new" in manifest(hub), "an added entry shows")
    (served / "cats" / "b" / "new").rename(served / "cats" / "b" / "old")
    wait_until(lambda: {"b/old"} == {p for p in manifest(hub) if p.startswith("b/") and p != "b/c"}, "a renamed one")
    (served / "cats" / "a").unlink()
    wait_until(lambda: "a" not in manifest(hub), "a removed entry is gone")


def test_change_in_place_past_the_first_kilobyte_makes_a_revision(
    start: Callable[..., InProcessHub], served: Path
) -> None:
    write_files(served / "cats", {"a": b"a" * 5000})
    hub = start()
    watched(hub, served)
    before = revision(hub)
    with (served / "cats" / "a").open("r+b") as file:
        file.seek(4000)
        file.write(b"X")
    wait_until(lambda: revision(hub) != before, "a change in place makes a revision")


def test_folder_that_comes_whole_shows_whole(start: Callable[..., InProcessHub], served: Path, tmp_path: Path) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start()
    watched(hub, served)
    write_files(tmp_path / "elsewhere", {f"x/{n}": b"%d" % n for n in range(20)} | {"y/z/w": b"w"})
    (tmp_path / "elsewhere").rename(served / "cats" / "moved")
    wait_until(lambda: len(manifest(hub)) == 22, "a folder that was moved in shows")
    (served / "cats" / "moved").rename(served / "cats" / "again")
    wait_until(lambda: sum(p.startswith("again/") for p in manifest(hub)) == 21, "a renamed folder shows")
    assert not any(p.startswith("moved/") for p in manifest(hub))
    shutil.rmtree(served / "cats" / "again")
    wait_until(lambda: manifest(hub).keys() == {"a"}, "a removed folder is gone")


def test_change_behind_a_link_shows_in_both_places(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"real/a": b"a"})
    (served / "cats" / "alias").symlink_to("real")
    hub = start()
    watched(hub, served)
    write_files(served / "cats", {"real/new": b"n"})
    wait_until(lambda: {"real/new", "alias/new"} <= manifest(hub).keys(), "the entry shows under both paths")


def test_folder_swapped_for_another_shows(start: Callable[..., InProcessHub], served: Path, tmp_path: Path) -> None:
    write_files(served / "cats", {"swapped/sub/a": b"old"})
    write_files(tmp_path / "other", {"sub/a": b"other"})
    hub = start()
    watched(hub, served)
    (served / "cats" / "swapped").rename(tmp_path / "away")
    (tmp_path / "other").rename(served / "cats" / "swapped")
    wait_until(lambda: manifest(hub)["swapped/sub/a"][0] == 5, "what the other folder holds shows")


def test_link_that_comes_later_shows(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"real/a": b"a", "b/c": b"c"})
    hub = start()
    watched(hub, served)
    (served / "cats" / "b" / "link").symlink_to("../real")
    wait_until(lambda: "b/link/a" in manifest(hub), "what is behind a link shows")
    (served / "cats" / "dangling").symlink_to("later")
    write_files(served / "cats", {"later": b"l"})
    wait_until(lambda: "dangling" in manifest(hub), "what a link leads to later shows")


def test_dataset_swapped_for_another_is_watched(
    start: Callable[..., InProcessHub], served: Path, tmp_path: Path
) -> None:
    write_files(served / "cats", {"a": b"a"})
    write_files(tmp_path / "other", {"b": b"b"})
    hub = start()
    watched(hub, served)
    (served / "cats").rename(tmp_path / "old")
    (tmp_path / "other").rename(served / "cats")
    wait_until(lambda: manifest(hub).keys() == {"b"}, "the other's entries show")
    write_files(served / "cats", {"c": b"c"})
    wait_until(lambda: manifest(hub).keys() == {"b", "c"}, "its changes show")


def test_dataset_made_anew_is_watched(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start()
    watched(hub, served)
    shutil.rmtree(served / "cats")
    write_files(served / "cats", {"b": b"b"})  # often under the inode that the first folder had
    wait_until(lambda: manifest(hub).keys() == {"b"}, "the new folder's entries show")
    for name in ("c", "d"):
        write_files(served / "cats", {name: b"x"})
        wait_until(lambda name=name: name in manifest(hub), "its changes show")


def test_removing_a_folder_leaves_all_sums_right(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {f"{folder}/{name}": b"x" for folder in "abc" for name in range(50)})
    hub = start()
    watched(hub, served)
    shutil.rmtree(served / "cats" / "a")
    wait_until(lambda: len(manifest(hub)) == 100, "the folder is gone")
    info = json.loads(get(hub, "/datasets/cats").body)
    assert (info["entries"], info["bytes"]) == (100, 100)
    assert info["revision"] == compute_revision(read_tree(served / "cats"))


def test_dataset_that_is_a_link_is_watched(start: Callable[..., InProcessHub], served: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "disk", {"a": b"a"})
    write_files(served / "cats", {"b": b"b"})
    (served / "linked").symlink_to(tmp_path / "disk")
    hub = start()
    watched(hub, served)
    write_files(tmp_path / "disk", {"new": b"n"})
    wait_until(lambda: "new" in manifest(hub, "linked"), "the entry shows")


def test_dataset_that_comes_later_is_there_at_once_and_is_watched(
    start: Callable[..., InProcessHub], served: Path
) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start()
    watched(hub, served)
    write_files(served / "dogs", {"a": b"a"})
    assert get(hub, "/datasets").body == b'["cats","dogs"]'
    assert manifest(hub, "dogs").keys() == {"a"}
    write_files(served / "dogs", {"b": b"b"})
    wait_until(lambda: manifest(hub, "dogs").keys() == {"a", "b"}, "its changes show")
    shutil.rmtree(served / "dogs")
    assert get(hub, "/datasets").body == b'["cats"]'
    assert get(hub, "/manifest/dogs").status == 404


def test_files_that_are_being_copied_in_make_few_revisions(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start()
    watched(hub, served)
    listed = len(json.loads(get(hub, "/datasets/cats/revisions").body))
    until = time.monotonic() + 4
    count = 0
    while time.monotonic() < until:  # the copy itself takes its time
        write_files(served / "cats", {f"copied/{count}": b"x"})
        count += 1
    wait_until(lambda: len(manifest(hub)) == count + 1, "all that was copied shows")
    assert len(json.loads(get(hub, "/datasets/cats/revisions").body)) - listed <= 3


def test_without_watching_a_change_shows_by_the_next_scan(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start(watch=False, rescan_s=0.5)
    assert manifest(hub).keys() == {"a"}
    write_files(served / "cats", {"b": b"b"})
    wait_until(lambda: "b" in manifest(hub), "the change shows")
    assert watchers() == []


def test_watching_that_fails_is_no_reason_not_to_scan(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start(rescan_s=0.5)
    watched(hub, served)
    for process in watchers():
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not watchers(), "the process that watched is gone")
    write_files(served / "cats", {"b": b"b"})
    wait_until(lambda: "b" in manifest(hub), "the change shows")


def test_process_that_watches_ends_with_the_hub(start: Callable[..., InProcessHub], served: Path) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start()
    wait_until(lambda: bool(watchers()), "the process that watches has begun")
    hub.stop()
    wait_until(lambda: not watchers(), "it has ended")


ELSEWHERE = Path(watching.__file__).with_name("watch_process.py")


@pytest.fixture
def watch_elsewhere(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Run the process that watches where there is no inotify; arguments are options of Python."""

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, *options, "-P", str(ELSEWHERE), str(tmp_path)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


def test_process_that_watches_elsewhere_says_why_it_cannot(
    watch_elsewhere: Callable[..., subprocess.Popen[str]],
) -> None:
    process = watch_elsewhere("-S")  # no package is installed
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "watchfiles" in json.loads(output)["error"]
    assert "Traceback" not in errors


def test_process_that_watches_elsewhere_tells_of_a_change(
    watch_elsewhere: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    pytest.importorskip("watchfiles")
    with watch_elsewhere() as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert json.loads(process.stdout.readline()) is None
        write_files(tmp_path, {"new": b"n"})
        assert json.loads(process.stdout.readline()) == str(tmp_path / "new")
        process.stdin.close()
        assert process.wait(30) == 0
