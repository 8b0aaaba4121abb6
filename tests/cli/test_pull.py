"""``dsx pull``, in a process of its own against a real hub."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsx.cli.amounts import format_bytes
from tests.conftest import HubProcess, write_files

from .pulling import Dataset, Shell, flip_byte, read_files, take_snapshot

FILES = {"a": b"a" * 3000, "d/b c": b"b" * 2000, "d/e/ç": b"", "f/g": b"g" * 500}
BYTES = 5500

LONG_BYTES = 24 * 1024**2

AFTER_FIRST_GROUP = """
import os, signal
from dsx._publishing import Publisher
real = Publisher.publish
def publish(self, arrivals):
    published = real(self, arrivals)
    os.kill(os.getpid(), signal.{name})
    return published
Publisher.publish = publish
"""
AMID_A_LONG_ONE = """
import os, signal
from dsx._partials import Partial
real = Partial.write
def write(self, block):
    real(self, block)
    if self.offset > 9 * 1024**2:
        os.kill(os.getpid(), signal.SIGKILL)
Partial.write = write
"""

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals and terminals as POSIX has them")


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for the tests that need no settings of their own."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "served").mkdir()
    hub = HubProcess(folder / "served", folder / "state")
    yield hub
    hub.kill()


@pytest.fixture
def shell(tmp_path: Path, shared_hub: HubProcess) -> Shell:
    """A user of it."""
    return Shell(tmp_path, shared_hub)


@pytest.fixture
def cats(shared_hub: HubProcess) -> Dataset:
    """A dataset of four entries."""
    return Dataset(shared_hub, FILES)


def without(*paths: str) -> dict[str, bytes]:
    """Return `FILES` but for some."""
    return {path: data for path, data in FILES.items() if path not in paths}


def test_entries_go_into_the_cache_and_its_folder_is_all_of_stdout(shell: Shell, cats: Dataset) -> None:
    result = shell.run("pull", cats.name)
    assert (result.returncode, result.stdout) == (0, f"{shell.cwd / 'cache' / cats.name}\n")
    assert read_files(shell.cwd / "cache" / cats.name) == FILES
    assert "4 entries, 5.5 kB" in result.stderr
    assert "fetched 4 entries, 5.5 kB" in result.stderr


def test_folder_of_ones_own_needs_no_cache(shell: Shell, cats: Dataset) -> None:
    result = shell.run("pull", cats.name, "my own")
    assert (result.returncode, result.stdout) == (0, f"{shell.cwd / 'my own'}\n")
    assert read_files(shell.cwd / "my own") == FILES
    assert os.listdir(shell.cwd) == ["my own"]


def test_cache_dir_is_where_the_cache_is(shell: Shell, cats: Dataset) -> None:
    assert shell.run("pull", cats.name, "--cache-dir", "other").returncode == 0
    assert read_files(shell.cwd / "other" / cats.name) == FILES
    assert shell.run("pull", cats.name, "own", "--cache-dir", "other").returncode == 2


def test_only_what_is_missing_or_changed_is_fetched(shell: Shell, cats: Dataset) -> None:
    first = shell.ask("pull", cats.name)
    assert first["fetched"] == {"entries": 4, "bytes": BYTES}
    assert first["there"]["entries"] == 0
    cats.write({"a": b"A" * 70})
    second = shell.ask("pull", cats.name)
    assert second["fetched"] == {"entries": 1, "bytes": 70}
    assert second["there"]["entries"] == 3
    assert second["folder"] == str(shell.cwd / "cache" / cats.name)


def test_patterns_choose(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name, "own", "--include", "d/**", "--include", "a", "--exclude", "b c")
    assert read_files(shell.cwd / "own") == without("d/b c", "f/g")


def test_revision_is_what_is_pulled(shell: Shell, cats: Dataset) -> None:
    old = cats.wait_for_revision()
    cats.write({"new": b"new"})
    cats.wait_for_revision(other_than=old)
    shell.run("pull", cats.name, "own", "--revision", old)
    assert read_files(shell.cwd / "own") == FILES


def test_full_reads_what_auto_believes(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name, "own")
    flip_byte(shell.cwd / "own" / "a", 2500)
    assert shell.ask("pull", cats.name, "own")["fetched"]["entries"] == 0
    assert shell.ask("pull", cats.name, "own", "--verify", "full")["fetched"]["entries"] == 1
    assert read_files(shell.cwd / "own") == FILES


@pytest.mark.parametrize("words", [(), ("own",)], ids=["cache", "dest"])
def test_dry_run_in_an_empty_folder_leaves_it_empty(shell: Shell, cats: Dataset, words: tuple[str, ...]) -> None:
    result = shell.run("pull", cats.name, *words, "--dry-run")
    assert (result.returncode, result.stderr) == (0, "")
    assert "to be fetched    4 entries, 5.5 kB" in result.stdout
    assert os.listdir(shell.cwd) == []


def test_dry_run_says_what_would_be_done_and_changes_nothing(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name, "own")
    cats.write({"a": b"A" * 70, "new": b"new"})
    (cats.folder / "f" / "g").unlink()
    (shell.cwd / "own" / "d" / "b c").unlink()
    before = take_snapshot(shell.cwd)
    plan = shell.ask("pull", cats.name, "own", "--delete", "--dry-run")
    assert take_snapshot(shell.cwd) == before
    assert plan["selected"] == {"entries": 4, "bytes": 70 + 3 + 2000}
    assert plan["there"] == {"entries": 1, "bytes": 0}
    assert plan["fetch"] == {"entries": 3, "bytes": 2073, "paths": ["a", "d/b c", "new"]}
    assert plan["check"] == {"entries": 0, "bytes": 0, "paths": []}
    assert plan["delete"] == {"files": 1, "paths": ["f/g"]}


def test_dry_run_finds_a_copy_that_has_no_ledger(shell: Shell, cats: Dataset) -> None:
    cats.wait_for_digests()
    shutil.copytree(cats.folder, shell.cwd / "copy")
    before = take_snapshot(shell.cwd)
    plan = shell.ask("pull", cats.name, "copy", "--dry-run")
    assert take_snapshot(shell.cwd) == before
    assert plan["there"] == {"entries": 4, "bytes": BYTES}


def test_dry_run_keeps_the_cached_manifest_as_it_is(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name)
    cats.write({"new": b"new"})
    before = take_snapshot(shell.cwd)
    assert shell.ask("pull", cats.name, "--dry-run")["fetch"]["paths"] == ["new"]
    assert take_snapshot(shell.cwd) == before


@needs_posix
def test_killed_pull_is_gone_on_with(shell: Shell, shared_hub: HubProcess) -> None:
    many = {f"{number:04}": b"%d" % number * 300 for number in range(1200)}
    cats = Dataset(shared_hub, many)
    killed = shell.run("pull", cats.name, "own", prelude=AFTER_FIRST_GROUP.format(name="SIGKILL"))
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    there = len(read_files(shell.cwd / "own"))
    assert 0 < there < 1200
    result = shell.ask("pull", cats.name, "own")
    assert result["fetched"]["entries"] == 1200 - there
    assert read_files(shell.cwd / "own") == many


@needs_posix
def test_killed_pull_of_a_long_entry_goes_on_amid_it(shell: Shell, shared_hub: HubProcess) -> None:
    data = random.Random(0).randbytes(LONG_BYTES)
    cats = Dataset(shared_hub, {"long": data})
    shell.run("pull", cats.name, "own", prelude=AMID_A_LONG_ONE)
    before = take_snapshot(shell.cwd / "own" / ".dsx" / "tmp")
    plan = shell.ask("pull", cats.name, "own", "--dry-run")
    assert take_snapshot(shell.cwd / "own" / ".dsx" / "tmp") == before
    assert plan["begun_bytes"] > 8 * 1024**2
    assert plan["needed_bytes"] == LONG_BYTES - plan["begun_bytes"]
    assert 0 < shell.ask("pull", cats.name, "own")["fetched"]["bytes"] <= LONG_BYTES - 8 * 1024**2
    assert read_files(shell.cwd / "own") == {"long": data}


@needs_posix
def test_interrupt_says_in_one_line_how_to_go_on(shell: Shell, shared_hub: HubProcess) -> None:
    cats = Dataset(shared_hub, {f"{number:04}": b"%d" % number * 300 for number in range(1200)})
    result = shell.run("pull", cats.name, "own", prelude=AFTER_FIRST_GROUP.format(name="SIGINT"))
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.splitlines()[-1] == "dsx: interrupted; the same command goes on where it stopped"
    assert shell.ask("pull", cats.name, "own")["fetched"]["entries"] < 1200


def test_delete_without_a_terminal_does_nothing(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name, "own")
    (cats.folder / "a").unlink()
    cats.write({"new": b"new"})
    result = shell.run("pull", cats.name, "own", "--delete")
    assert (result.returncode, result.stdout) == (1, "")
    assert "--yes" in result.stderr
    assert read_files(shell.cwd / "own") == FILES


def test_delete_with_yes_makes_a_mirror_and_leaves_other_files(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name, "own")
    write_files(shell.cwd / "own", {"d/mine": b"mine"})
    (cats.folder / "a").unlink()
    result = shell.run("pull", cats.name, "own", "--delete", "--yes")
    assert (result.returncode, result.stdout) == (0, f"{shell.cwd / 'own'}\n")
    assert "1 file deleted" in result.stderr
    assert read_files(shell.cwd / "own") == without("a") | {"d/mine": b"mine"}


def test_delete_needs_a_folder_of_ones_own(shell: Shell, cats: Dataset) -> None:
    result = shell.run("pull", cats.name, "--delete", "--yes")
    assert (result.returncode, result.stdout) == (2, "")
    assert "DEST" in result.stderr


@needs_posix
@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1), ("", 1)])
def test_delete_asks_on_a_terminal(shell: Shell, shared_hub: HubProcess, answer: str, status: int) -> None:
    files = {f"old\n{number}": b"old" for number in range(7)} | {"kept": b"kept"}
    cats = Dataset(shared_hub, files)
    shell.run("pull", cats.name, "own")
    shutil.rmtree(cats.folder)
    cats.folder.mkdir()
    cats.write({"kept": b"kept", "new": b"new"})
    ours, theirs = os.openpty()
    os.write(ours, answer.encode() + b"\n")
    result = shell.run("pull", cats.name, "own", "--delete", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert result.returncode == status
    assert "7 files will be deleted" in result.stderr
    assert "  old\\n0\n" in result.stderr
    assert "and 2 more" in result.stderr
    assert read_files(shell.cwd / "own") == ({"kept": b"kept", "new": b"new"} if status == 0 else files)
    assert bool(result.stdout) == (status == 0)


def test_entries_that_fail_are_named_up_to_five(shell: Shell, shared_hub: HubProcess) -> None:
    cats = Dataset(shared_hub, {f"{number}\x1b": b"theirs" for number in range(7)} | {"good": b"good"})
    write_files(shell.cwd / "own", {f"{number}\x1b": b"mine" for number in range(7)})
    result = shell.run("pull", cats.name, "own")
    assert (result.returncode, result.stdout) == (1, "")
    assert "7 of 8 files" in result.stderr
    assert "  4\\x1b: " in result.stderr
    assert "5\\x1b" not in result.stderr
    assert "and 2 more" in result.stderr
    assert "\x1b" not in result.stderr
    assert read_files(shell.cwd / "own")["good"] == b"good"


@pytest.fixture
def idle_shell(tmp_path: Path, start_hub: Callable[..., HubProcess], served: Path) -> Shell:
    """A user of a hub that computes no digests, with an entry that no disk has room for."""
    (served / "huge").mkdir()
    with open(served / "huge" / "sparse", "wb") as opened:
        opened.truncate(shutil.disk_usage(tmp_path).free + 2**40)
    return Shell(tmp_path, start_hub(DSX_DIGESTS="off"))


def test_too_little_room_is_said_before_it_begins(idle_shell: Shell) -> None:
    result = idle_shell.run("pull", "huge", "own")
    assert (result.returncode, result.stdout) == (1, "")
    assert "too little room" in result.stderr
    assert read_files(idle_shell.cwd / "own") == {}


def test_too_little_room_is_a_warning_of_a_dry_run(idle_shell: Shell) -> None:
    result = idle_shell.run("pull", "huge", "own", "--dry-run", "--json")
    assert result.returncode == 0
    assert "too little room" in result.stderr
    plan = json.loads(result.stdout)
    assert plan["needed_bytes"] > plan["free_bytes"]


def test_folder_that_is_a_cache_is_refused(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name)
    result = shell.run("pull", cats.name, "cache")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("dsx: ")


def test_dataset_that_is_not_there_is_one_sentence(shell: Shell) -> None:
    result = shell.run("pull", "dogs")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("dsx: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [("own",), ("own", "--dry-run")])
def test_progress_is_for_terminals_only(shell: Shell, cats: Dataset, words: tuple[str, ...]) -> None:
    result = shell.run("pull", cats.name, *words)
    assert "\r" not in result.stderr
    assert "%" not in result.stderr


@needs_posix
@pytest.mark.parametrize("verb", ["pull", "verify"])
def test_progress_is_drawn_on_a_terminal(shell: Shell, cats: Dataset, verb: str) -> None:
    shutil.copytree(cats.folder, shell.cwd / "own")
    (shell.cwd / "own" / "a").unlink()
    ours, theirs = os.openpty()
    import fcntl
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    result = shell.run(verb, cats.name, "own", stderr=theirs)
    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\r" not in result.stdout
    assert f"ing {cats.name}:" in drawn
    assert "B/s]" in drawn


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB")]
    + [(1_500_000_000, "1.5 GB"), (5_000 * 10**18, "5000.0 EB")],
)
def test_bytes_are_written_with_decimal_units(count: int, text: str) -> None:
    assert format_bytes(count) == text
