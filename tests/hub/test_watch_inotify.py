"""Watching on Linux: every change is told, and nothing else. The process is run alone, on real folders."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsx_server.index import watch_inotify, watching
from tests.conftest import write_files
from tests.hub.watched import WAIT_S, Picture, WatchProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere watchfiles watches")

MANY = {"many": True}


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder to be watched."""
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


@pytest.fixture
def start(top: Path, tmp_path: Path) -> Iterator[Callable[..., WatchProcess]]:
    """Watch ``top``, or other folders."""
    with ExitStack() as stack:

        def begin(*tops: Path, launcher: tuple[str, ...] = ()) -> WatchProcess:
            watch = WatchProcess(*(tops or (top,)), fence=tmp_path / "~fence", launcher=launcher)
            return stack.enter_context(watch)

        yield begin


def find_parents(told: list[object]) -> set[str]:
    """Return the folders in which these paths lie."""
    return {str(each).rpartition("/")[0] for each in told}


def run_in_shell(script: str) -> tuple[str, ...]:
    """Return a launcher that runs a script first, and ends with 77 when it fails."""
    return ("sh", "-c", f'({script}) >/dev/null 2>&1 || exit 77; exec "$@"', "sh")


def test_reading_is_no_event(top: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(top, {f"{folder}/{name}": b"x" * 100 for folder in "abcde" for name in range(100)})
    watch = start()
    watch.pause()  # the system's queue would overflow
    for _ in range(100):
        for folder in "abcde":
            for found in os.scandir(top / folder):
                descriptor = os.open(found.path, os.O_RDONLY)
                os.read(descriptor, 1000)
                os.close(descriptor)
    (top / "c" / "7").write_bytes(b"y")
    watch.resume()
    assert watch.take() == [f"{top}/c/7"]


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"y"),
        lambda file: os.utime(file, (1, 1)),
        lambda file: file.chmod(0o600),
        lambda file: file.unlink(),
        lambda file: os.truncate(file, 1),
        lambda file: file.rename(file.with_name("other")),
        lambda file: file.with_name("other").touch(),
        lambda file: file.with_name("link").symlink_to("file"),
        lambda file: file.with_name("hard").hardlink_to(file),
        lambda file: os.mkfifo(file.with_name("fifo")),
        lambda file: file.with_name("new").mkdir(),
        lambda file: file.with_name("below").chmod(0o700),
        lambda file: file.with_name("below").rmdir(),
    ],
)
def test_every_kind_of_change_is_told(
    top: Path, start: Callable[..., WatchProcess], change: Callable[[Path], object]
) -> None:
    write_files(top, {"a/b/file": b"xx"})
    (top / "a" / "b" / "below").mkdir()
    watch = start()
    change(top / "a" / "b" / "file")
    told = watch.take()
    assert told
    assert find_parents(told) <= {f"{top}/a/b", f"{top}/a"}
    assert f"{top}/a/b" in find_parents(told)


def test_write_to_a_file_that_stays_open_is_told(top: Path, start: Callable[..., WatchProcess]) -> None:
    with (top / "log").open("wb", buffering=0) as file:
        watch = start()
        for _ in range(3):
            file.write(b"line")
            assert watch.take() == [f"{top}/log"]


def test_editor_that_saves_by_renaming_is_seen(top: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(top, {"a/text": b"old"})
    watch = start()
    (top / "a" / "text~").write_bytes(b"new")
    (top / "a" / "text~").replace(top / "a" / "text")
    assert find_parents(watch.take()) == {f"{top}/a"}


def test_of_many_files_in_one_folder_one_is_told(top: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(top, {"a/old": b"", "b/old": b""})
    watch = start()
    watch.pause()
    write_files(top, {f"{folder}/{name}": b"" for folder in "ab" for name in range(500)})
    watch.resume()
    told = watch.take()
    assert len(told) == 2
    assert find_parents(told) == {f"{top}/a", f"{top}/b"}


def test_attributes_of_a_top_are_told_apart_from_its_going(top: Path, start: Callable[..., WatchProcess]) -> None:
    watch = start()
    os.utime(top)
    assert watch.take() == [f"{top}/"]


def test_folders_made_at_once_are_all_told_and_watched(top: Path, start: Callable[..., WatchProcess]) -> None:
    watch = start()
    write_files(top, {"a/b/c/d/file": b""})
    assert {f"{top}/a", f"{top}/a/b", f"{top}/a/b/c", f"{top}/a/b/c/d"} <= set(watch.take())
    write_files(top, {"a/b/c/d/other": b""})
    assert watch.take() == [f"{top}/a/b/c/d/other"]


def test_subtree_that_moves_in_is_told_whole_and_watched(
    top: Path, tmp_path: Path, start: Callable[..., WatchProcess]
) -> None:
    write_files(tmp_path, {"outside/a/b/file": b"", "outside/c/file": b""})
    watch = start()
    (tmp_path / "outside").rename(top / "moved")
    assert watch.take() == [f"{top}/moved", f"{top}/moved/a", f"{top}/moved/a/b", f"{top}/moved/c"]
    write_files(top, {"moved/a/b/new": b""})
    assert watch.take() == [f"{top}/moved/a/b/new"]
    assert watch.count_watches() == 5


def test_subtree_that_moves_away_is_watched_no_more(
    top: Path, tmp_path: Path, start: Callable[..., WatchProcess]
) -> None:
    write_files(top, {"a/b/c/file": b"", "d/file": b""})
    watch = start()
    assert watch.count_watches() == 5
    (top / "a").rename(tmp_path / "outside")
    assert watch.take() == [f"{top}/a"]
    assert watch.count_watches() == 2
    (tmp_path / "outside" / "b" / "c" / "file").write_bytes(b"x")
    assert watch.take() == []


def test_renamed_folder_is_told_under_its_new_path(top: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(top, {"a/b/file": b"", "other/file": b""})
    watch = start()
    (top / "a").rename(top / "other" / "z")
    assert set(watch.take()) == {f"{top}/a", f"{top}/other/z", f"{top}/other/z/b"}
    (top / "other" / "z" / "b" / "file").write_bytes(b"x")
    assert watch.take() == [f"{top}/other/z/b/file"]
    shutil.rmtree(top / "other")
    assert f"{top}/other" in watch.take()
    assert watch.count_watches() == 1


def exchange(one: Path, other: Path) -> None:
    """Let two paths change places in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, "renameat2")
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):  # AT_FDCWD, RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.parametrize("is_late", [False, True])
def test_folders_that_change_places_are_both_watched(
    top: Path, start: Callable[..., WatchProcess], is_late: bool
) -> None:
    write_files(top, {"a/x/file": b"", "b/y/file": b""})
    watch = start()
    if is_late:
        watch.pause()
    exchange(top / "a", top / "b")
    watch.resume()
    assert set(watch.take()) >= {f"{top}/a", f"{top}/a/y", f"{top}/b", f"{top}/b/x"}
    write_files(top, {"a/y/new": b"", "b/x/new": b""})
    assert watch.take() == [f"{top}/a/y/new", f"{top}/b/x/new"]
    assert watch.count_watches() == 5


def test_lost_events_are_told_and_what_they_told_of_is_watched(top: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(top, {"a/file": b""})
    watch = start()
    watch.pause()
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(most):  # two of the same in a row would be one event
        os.utime(top / "a" / "file")
        os.utime(top / "a")
        if number % 1000 == 0 and number > most // 2:
            write_files(top, {f"lost/{number}": b""})
    watch.resume()
    assert MANY in watch.take()
    write_files(top, {"lost/new": b""})
    assert watch.take() == [f"{top}/lost/new"]


def test_more_changed_folders_than_anybody_wants_to_hear_of_are_many(
    top: Path, tmp_path: Path, start: Callable[..., WatchProcess]
) -> None:
    for number in range(4001):
        (tmp_path / "outside" / str(number)).mkdir(parents=True)
    watch = start()
    (tmp_path / "outside").rename(top / "moved")
    assert watch.take() == [MANY]
    (top / "moved" / "4000" / "file").touch()
    assert watch.take() == [f"{top}/moved/4000/file"]


def drop_powers(tmp_path: Path) -> tuple[str, ...]:
    """Return a launcher for a process that file permissions hold for, even where the tests run as root."""
    (tmp_path / "powerless.py").write_text(
        "import ctypes, os, sys\n"
        "for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH\n"
        "    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP\n"
        "        sys.exit(77)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    return (sys.executable, str(tmp_path / "powerless.py"))


@pytest.mark.parametrize("mode", [0, 0o600])
def test_folder_that_may_not_be_read_is_passed_over_until_it_may(
    top: Path, tmp_path: Path, start: Callable[..., WatchProcess], mode: int
) -> None:
    write_files(top, {"closed/below/file": b"", "open/file": b""})
    (top / "closed").chmod(mode)
    watch = start(launcher=drop_powers(tmp_path))
    try:
        write_files(top, {"open/new": b""})
        assert watch.take() == [f"{top}/open/new"]
    finally:
        (top / "closed").chmod(0o700)
    assert f"{top}/closed" in watch.take()
    write_files(top, {"closed/below/new": b""})
    assert watch.take() == [f"{top}/closed/below/new"]


def test_names_that_are_not_utf8_do_no_harm(top: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(top, {"a/file": b"", "new\nline/file": b""})
    (top / "a" / os.fsdecode(b"there\xff")).mkdir()
    watch = start()
    (top / "a" / os.fsdecode(b"f\xff")).touch()
    assert watch.take() == [f"{top}/a/f?"]
    (top / "a" / os.fsdecode(b"d\xff")).mkdir()
    assert watch.take() == [f"{top}/a/d?"]
    (top / "a" / os.fsdecode(b"d\xff") / "sub").mkdir()
    assert watch.take() == []
    (top / "new\nline" / "\N{SNOWMAN}").mkdir()
    assert watch.take() == [f"{top}/new\nline/\N{SNOWMAN}"]


def test_top_whose_own_path_is_not_utf8_is_watched(tmp_path: Path, start: Callable[..., WatchProcess]) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff")
    odd.mkdir()
    watch = start(odd)
    (odd / "file").touch()
    assert watch.take() == [f"{odd}/file"]


def test_links_are_told_and_not_followed(top: Path, tmp_path: Path, start: Callable[..., WatchProcess]) -> None:
    write_files(tmp_path, {"outside/sub/file": b""})
    (top / "before").symlink_to(tmp_path / "outside")
    watch = start()
    (top / "after").symlink_to(tmp_path / "outside")
    assert watch.take() == [f"{top}/after"]
    write_files(tmp_path, {"outside/sub/new": b""})
    assert watch.take() == []
    assert watch.count_watches() == 1


def test_folder_that_was_another_one_while_it_was_listed_is_watched(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(top, {"a/below/file": b""})
    write_files(tmp_path, {"other/x/file": b""})
    really_list = watch_inotify._list_folders

    def list_another(path: str) -> list[str]:
        if path != f"{top}/a":
            return really_list(path)
        monkeypatch.setattr(watch_inotify, "_list_folders", really_list)
        (top / "a").rename(tmp_path / "away")
        (tmp_path / "other").rename(top / "a")
        found = really_list(path)
        (top / "a").rename(tmp_path / "other")
        (tmp_path / "away").rename(top / "a")
        return found

    monkeypatch.setattr(watch_inotify, "_list_folders", list_another)
    end, start_of_input = os.pipe()
    with open(end) as standard_input, open(start_of_input, "w"):
        monkeypatch.setattr(sys, "stdin", standard_input)
        tree = watch_inotify.Tree([os.fspath(top)])
        tree.collect()
        assert f"{top}/a/below" in tree.take_changes()
        write_files(top, {"a/below/new": b""})
        tree.collect()
        assert tree.take_changes() == [f"{top}/a/below/new"]
        tree.close()


@pytest.mark.parametrize("change", ["moved", "removed", "replaced"])
def test_top_that_goes_is_told(top: Path, tmp_path: Path, start: Callable[..., WatchProcess], change: str) -> None:
    write_files(top, {"sub/file": b""})
    watch = start()
    if change == "removed":
        shutil.rmtree(top)
    else:
        top.rename(tmp_path / "elsewhere")
    if change == "replaced":
        top.mkdir()
    assert os.fspath(top) in watch.take()


def test_top_that_is_not_there_is_told_when_the_rest_is_watched(
    top: Path, tmp_path: Path, start: Callable[..., WatchProcess]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("top")
    watch = start(top, tmp_path / "nowhere", tmp_path / "file", tmp_path / "link")
    assert watch.take() == [f"{tmp_path}/file", f"{tmp_path}/link", f"{tmp_path}/nowhere"]
    (top / "new").touch()
    assert watch.take() == [f"{top}/new"]


def test_folder_that_is_mounted_twice_is_told_of_in_both_places(
    top: Path, tmp_path: Path, start: Callable[..., WatchProcess]
) -> None:
    other = tmp_path / "other"
    write_files(top, {"sub/x/file": b""})
    write_files(other, {"mounted/own": b""})
    script = run_in_shell(f"mount --bind {top}/sub {other}/mounted")
    watch = start(other, top, launcher=("unshare", "-m", *script))
    write_files(top, {"sub/x/new": b""})
    assert watch.take() == [f"{other}/mounted/x/new", f"{top}/sub/x/new"]
    (top / "sub" / "x").rename(top / "away")
    assert set(watch.take()) == {f"{other}/mounted/x", f"{top}/sub/x", f"{top}/away"}
    write_files(top, {"sub/new": b""})
    assert watch.take() == [f"{other}/mounted/new", f"{top}/sub/new"]


def test_disk_that_is_unmounted_is_told_and_what_was_under_it_is_watched(
    top: Path, start: Callable[..., WatchProcess]
) -> None:
    write_files(top, {"disk/under/file": b""})
    script = run_in_shell(f"mount -t tmpfs none {top}/disk && mkdir {top}/disk/sub")
    watch = start(launcher=("unshare", "-m", *script))
    assert watch.count_watches() == 3
    subprocess.run(["nsenter", "-t", str(watch.process.pid), "-m", "umount", str(top / "disk")], check=True)
    assert {f"{top}/disk", f"{top}/disk/under"} <= set(watch.take())
    write_files(top, {"disk/under/new": b""})
    assert watch.take() == [f"{top}/disk/under/new"]


def limit(what: str, most: int) -> tuple[str, ...]:
    """Return a launcher for a process that may have so many of one of the system's things."""
    return ("unshare", "-Ur", *run_in_shell(f"echo {most} > /proc/sys/user/{what}"))


def test_too_few_watches_end_it_with_an_error_that_says_what_to_do(
    top: Path, start: Callable[..., WatchProcess]
) -> None:
    write_files(top, {"a/file": b""})
    watch = start(launcher=limit("max_inotify_watches", 5))
    for name in "bcd":
        (top / name).mkdir()
    assert watch.process.wait(WAIT_S) == 1
    watch.wait_for(lambda said: isinstance(said[-1], dict) and "error" in said[-1], "it says why")
    watch.wait_for(lambda said: "fs.inotify.max_user_watches" in str(said[-1]) and "5 folders" in str(said[-1]), "how")


def test_too_few_instances_end_it_with_an_error_that_says_what_to_do(top: Path) -> None:
    command = [*limit("max_inotify_instances", 0), sys.executable, "-P", str(watching.PROGRAM), str(top)]
    done = subprocess.run(
        command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=WAIT_S, check=False
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this machine does not allow what the test needs")
    assert done.returncode == 1
    assert "fs.inotify.max_user_instances" in json.loads(done.stdout)["error"]


def test_it_ends_when_its_standard_input_closes(top: Path, start: Callable[..., WatchProcess]) -> None:
    watch = start()
    assert watch.process.stdin is not None
    watch.process.stdin.close()
    assert watch.process.wait(WAIT_S) == 0


PLACES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
FILES = PLACES.map(lambda place: f"{place}/f")
STEPS = st.one_of(
    st.tuples(st.just("mkdir"), PLACES),
    st.tuples(st.just("write"), FILES),
    st.tuples(st.just("touch"), st.one_of(FILES, PLACES)),
    st.tuples(st.just("rename"), PLACES, PLACES),
    st.tuples(st.just("rename"), FILES, FILES),
    st.tuples(st.just("exchange"), PLACES, PLACES),
    st.tuples(st.just("remove"), PLACES),
    st.tuples(st.just("take away"), PLACES),
    st.tuples(st.just("bring back"), PLACES),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
)


def carry_out(step: tuple[str, ...], top: Path, outside: Path, watch: WatchProcess) -> None:
    """Make one change, if it can be made."""
    kind, *names = step
    places = [top / name for name in names]
    if kind == "mkdir":
        places[0].mkdir(parents=True)
    elif kind == "write":
        places[0].parent.mkdir(parents=True, exist_ok=True)
        with places[0].open("ab") as file:
            file.write(b"x")
    elif kind == "touch":
        os.utime(places[0], (1, 1))
    elif kind == "rename":
        places[0].rename(places[1])
    elif kind == "exchange":
        exchange(*places)
    elif kind == "remove":
        shutil.rmtree(places[0])
    elif kind == "take away":
        places[0].rename(outside / str(len(os.listdir(outside))))
    elif kind == "bring back":
        (outside / str(len(os.listdir(outside)) - 1)).rename(places[0])
    elif kind == "pause":
        watch.pause()
    else:
        watch.resume()


@settings(max_examples=60)
@given(first=st.lists(FILES, max_size=4), steps=st.lists(STEPS, min_size=5, max_size=40))
@example(first=["a/b/c/f"], steps=[("pause",), ("exchange", "a/b", "a"), ("rename", "a", "c"), ("mkdir", "a/b")])
@example(first=["a/f", "b/c/f"], steps=[("pause",), ("exchange", "a", "b"), ("resume",), ("write", "a/c/f")])
def test_whoever_looks_only_where_he_is_told_knows_everything(first: list[str], steps: list[tuple[str, ...]]) -> None:
    with TemporaryDirectory() as folder:
        top, outside = Path(folder, "top"), Path(folder, "outside")
        top.mkdir()
        outside.mkdir()
        write_files(top, dict.fromkeys(first, b""))
        picture = Picture(top)
        with WatchProcess(top, fence=Path(folder, "~fence"), on_line=picture.take) as watch:
            for step in steps:
                with suppress(OSError):
                    carry_out(step, top, outside, watch)
            watch.resume()
            watch.take()
            now = Picture(top)
            assert picture.folders == now.folders
            assert watch.count_watches() == len(now.folders)
