"""``dsx verify``, in a process of its own against a real hub."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import HubProcess, write_files

from .pulling import Dataset, Shell, flip_byte, take_snapshot

FILES = {"a": b"a" * 3000, "d/b c": b"b" * 2000, "d/e/ç": b"", "f/g": b"g" * 500}

DROP_POWERS = (
    "import ctypes\n"
    "for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH\n"
    "    if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP\n"
    "        sys.exit('the capability could not be dropped')\n"
    "os.execv(sys.executable, [sys.executable, '-c', 'from dsx.cli import main; main()', *sys.argv[1:]])\n"
)


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
    """A dataset of four entries whose digests the hub knows."""
    cats = Dataset(shared_hub, FILES)
    cats.wait_for_digests()
    return cats


@pytest.fixture
def copy(shell: Shell, cats: Dataset) -> Path:
    """A copy of it that came by other means: there is no ledger."""
    return shutil.copytree(cats.folder, shell.cwd / "copy")


def test_copy_that_is_right_is_status_0_and_no_line(shell: Shell, cats: Dataset, copy: Path) -> None:
    result = shell.run("verify", cats.name, "copy")
    assert (result.returncode, result.stdout) == (0, "")
    assert "4 of 4 entries are right, 5.5 kB" in result.stderr
    assert "\r" not in result.stderr


def test_cache_is_meant_without_a_folder(shell: Shell, cats: Dataset) -> None:
    shell.run("pull", cats.name)
    assert shell.run("verify", cats.name).returncode == 0
    (shell.cwd / "cache" / cats.name / "a").unlink()
    result = shell.run("verify", cats.name)
    assert (result.returncode, result.stdout) == (1, "missing a\n")


@pytest.mark.parametrize("words", [(), ("own",)], ids=["cache", "dest"])
def test_flipped_byte_behind_its_time_is_found_again_and_again(
    shell: Shell, cats: Dataset, words: tuple[str, ...]
) -> None:
    shell.run("pull", cats.name, *words)
    folder = shell.cwd / words[0] if words else shell.cwd / "cache" / cats.name
    flip_byte(folder / "d" / "b c", 1500)
    for _ in range(2):
        result = shell.run("verify", cats.name, *words)
        assert (result.returncode, result.stdout) == (1, "differs d/b c\n")
    shell.run("pull", cats.name, *words, "--verify", "full")
    assert shell.run("verify", cats.name, *words).returncode == 0


def test_nothing_is_changed(shell: Shell, cats: Dataset, copy: Path) -> None:
    flip_byte(copy / "a", 1500)
    shell.run("pull", cats.name)
    cats.write({"new": b"new"})
    before = take_snapshot(shell.cwd)
    assert shell.run("verify", cats.name, "copy").returncode == 1
    assert shell.run("verify", cats.name).stdout == "missing new\n"
    assert take_snapshot(shell.cwd) == before


def test_all_that_is_wrong_is_listed_by_path(shell: Shell, cats: Dataset, copy: Path) -> None:
    (copy / "a").write_bytes(b"a" * 2999)
    (copy / "d" / "e" / "ç").unlink()
    write_files(copy, {"c": b"", "d/z/1": b""})
    result = shell.run("verify", cats.name, "copy")
    assert (result.returncode, result.stdout) == (1, "differs a\nextra c\nmissing d/e/ç\nextra d/z/1\n")
    assert "2 of 4 entries are right, 2.5 kB, 1 missing, 1 different, 2 extra" in result.stderr


def test_json_has_the_same(shell: Shell, cats: Dataset, copy: Path) -> None:
    (copy / "a").write_bytes(b"a" * 2999)
    write_files(copy, {"c": b""})
    result = shell.run("verify", cats.name, "copy", "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 1
    assert (found["missing"], found["differs"], found["extra"], found["unreadable"]) == ([], ["a"], ["c"], {})
    assert found["right"] == {"entries": 3, "bytes": 2500, "by_head_only": 0}
    assert (found["complete"], found["folder"]) == (False, str(copy))


def test_extra_files_fail_only_when_strict(shell: Shell, cats: Dataset, copy: Path) -> None:
    write_files(copy, {"mine": b"", ".dsx/private": b""})
    result = shell.run("verify", cats.name, "copy")
    assert (result.returncode, result.stdout) == (0, "extra mine\n")
    result = shell.run("verify", cats.name, "copy", "--strict")
    assert (result.returncode, result.stdout) == (1, "extra mine\n")


def test_patterns_choose_and_the_others_are_not_extra(shell: Shell, cats: Dataset, copy: Path) -> None:
    (copy / "a").unlink()
    result = shell.run("verify", cats.name, "copy", "--include", "d/**", "--strict")
    assert (result.returncode, result.stdout) == (0, "")
    assert "2 of 2 entries" in result.stderr


def test_patterns_that_match_nothing_verify_nothing(shell: Shell, cats: Dataset, copy: Path) -> None:
    result = shell.run("verify", cats.name, "copy", "--include", "dd/**")
    assert (result.returncode, result.stdout) == (1, "")


def test_revision_is_what_is_compared_with(shell: Shell, cats: Dataset, copy: Path) -> None:
    old = cats.wait_for_revision()
    cats.write({"new": b"new"})
    assert shell.run("verify", cats.name, "copy").stdout == "missing new\n"
    assert shell.run("verify", cats.name, "copy", "--revision", old).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_are_escaped(shell: Shell, shared_hub: HubProcess) -> None:
    cats = Dataset(shared_hub, {"a b\nmissing c\x1b[2J": b"1", "kept": b""})
    shutil.copytree(cats.folder, shell.cwd / "copy")
    (shell.cwd / "copy" / "a b\nmissing c\x1b[2J").unlink()
    (shell.cwd / "copy" / os.fsdecode(b"\xff")).touch()
    result = shell.run("verify", cats.name, "copy")
    assert (result.returncode, result.stdout) == (1, "missing a b\\nmissing c\\x1b[2J\nextra \\udcff\n")
    found = json.loads(shell.run("verify", cats.name, "copy", "--json").stdout)
    assert (found["missing"], found["extra"]) == (["a b\nmissing c\x1b[2J"], ["\\xff"])


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_file_that_cannot_be_read_is_listed(shell: Shell, cats: Dataset, copy: Path) -> None:
    (copy / "a").chmod(0)
    (copy / "closed").mkdir(mode=0)
    prelude = f"import os, sys\nif os.geteuid() == 0:\n    exec({DROP_POWERS!r})"
    result = shell.run("verify", cats.name, "copy", prelude=prelude)
    (copy / "closed").rmdir()
    assert (result.returncode, result.stdout) == (1, "unreadable a\nunreadable closed/\n")
    assert "a: Permission denied" in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
def test_what_is_no_file_differs_and_links_are_followed(shell: Shell, cats: Dataset, copy: Path) -> None:
    (copy / "a").unlink()
    os.mkfifo(copy / "a")
    (copy / "f" / "g").unlink()
    (copy / "f" / "g").mkdir()
    (copy / "d").rename(shell.cwd / "elsewhere")
    (copy / "d").symlink_to(shell.cwd / "elsewhere")
    result = shell.run("verify", cats.name, "copy")
    assert (result.returncode, result.stdout) == (1, "differs a\ndiffers f/g\n")


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_interrupt_is_status_130(shell: Shell, cats: Dataset, copy: Path) -> None:
    prelude = "import os\nfrom dsx._crew import Crew\nCrew.finish = lambda self: os.kill(os.getpid(), signal.SIGINT)"
    result = shell.run("verify", cats.name, "copy", prelude=prelude)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_folder_that_is_not_there_is_one_sentence(shell: Shell, cats: Dataset) -> None:
    for words in ((), ("nowhere",)):
        result = shell.run("verify", cats.name, *words)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("dsx: there is no copy of dataset")
    assert os.listdir(shell.cwd) == []


def test_what_only_its_head_vouches_for_is_counted(
    tmp_path: Path, start_hub: Callable[..., HubProcess], served: Path
) -> None:
    write_files(served / "cats", FILES)
    shell = Shell(tmp_path, start_hub(DSX_DIGESTS="off"))
    shutil.copytree(served / "cats", shell.cwd / "copy")
    result = shell.run("verify", "cats", "copy")
    assert (result.returncode, result.stdout) == (0, "")
    assert "2 entries of those" in result.stderr  # two are longer than their heads
    flip_byte(shell.cwd / "copy" / "a", 1000)
    assert shell.run("verify", "cats", "copy").stdout == "differs a\n"
