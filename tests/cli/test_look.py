"""``dsx ls``, ``info``, ``cat``: data on stdout, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HubProcess

from .conftest import CATS, DOGS, Run


def test_ls_prints_one_name_a_line(logged_in: Run) -> None:
    done = logged_in("ls", "cats")
    assert (done.returncode, done.stdout.decode().split("\n"), done.stderr) == (0, [*sorted(CATS), ""], b"")


@pytest.mark.parametrize("prefix", ["train", "train/"])
def test_ls_of_a_folder(prefix: str, logged_in: Run) -> None:
    assert logged_in("ls", f"cats/{prefix}").stdout == b"train/1.png\ntrain/2.png\n"


def test_ls_of_a_file(logged_in: Run) -> None:
    assert logged_in("ls", "cats/training").stdout == b"training\n"


def test_ls_of_what_is_not_there(logged_in: Run) -> None:
    done = logged_in("ls", "cats/nothing")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"dsx: dataset 'cats' has no 'nothing'; see: dsx ls cats\n"
    done = logged_in("ls", "birds")
    assert done.returncode == 1
    assert b"cats" in done.stderr


def test_ls_long_and_json(logged_in: Run) -> None:
    lines = [line.split() for line in logged_in("ls", "-l", "cats").stdout.decode().splitlines()]
    assert [(int(size), path) for size, _, path in lines] == [(len(CATS[path]), path) for path in sorted(CATS)]
    rows = json.loads(logged_in("ls", "--json", "cats").stdout)
    assert [(row["path"], row["size"]) for row in rows] == [(path, len(CATS[path])) for path in sorted(CATS)]
    assert [row["mtime"] for row in rows] == [time for _, time, _ in lines]
    assert json.loads(logged_in("ls", "--json").stdout) == ["cats", "dogs"]
    totals = [line.split() for line in logged_in("ls", "-l").stdout.decode().splitlines()]
    assert totals == [
        [str(sum(map(len, files.values()))), str(len(files)), name] for name, files in (("cats", CATS), ("dogs", DOGS))
    ]


def test_info(logged_in: Run) -> None:
    told = json.loads(logged_in("info", "--json", "cats").stdout)
    assert (told["dataset"], told["files"], told["bytes"]) == ("cats", 4, 8001)
    assert told["folders"] == {"": 2, "train": 2}
    text = logged_in("info", "cats").stdout.decode()
    assert "8.0 kB (8,001 bytes)" in text
    assert "train/1.png (4.0 kB)" in text
    assert told["revision"] in text


def test_cat_writes_the_bytes(logged_in: Run) -> None:
    done = logged_in("cat", "cats/train/2.png", "dogs/big", "cats/3.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout == CATS["train/2.png"] + DOGS["big"] + CATS["3.png"]


@pytest.mark.parametrize("target", ["cats/nothing", "cats", "cats/", "cats/../dogs/x"])
def test_cat_of_what_is_no_file(target: str, logged_in: Run) -> None:
    done = logged_in("cat", target)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"dsx: ")
    assert done.stderr.count(b"\n") == 1


def test_reader_that_has_enough_ends_it_without_a_word(logged_in: Run, config_dir: Path, hub: HubProcess) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "from dsx.cli import main; main()", "cat", "dogs/big"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"DSX_CONFIG_DIR": str(config_dir), "PATH": ""},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1  # as click ends a command whose output nobody takes
