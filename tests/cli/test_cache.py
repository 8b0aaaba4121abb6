"""``dsx cache``: a command that looks at a folder, and asks no hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsx import DatasetHubClient
from tests.conftest import KEY, HubProcess, write_files

FILES = {"train/1.png": b"1" * 4000, "train/2.png": b"2" * 3000, "3.png": b"3" * 1000}
DOGS = {"x": b"4" * 500}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub with two datasets."""
    write_files(tmp_path / "served" / "cats", FILES)
    write_files(tmp_path / "served" / "dogs", DOGS)
    hub = HubProcess(tmp_path / "served", tmp_path / "state")
    yield hub
    hub.kill()


@pytest.fixture
def cache_dir(tmp_path: Path, hub: HubProcess) -> Path:
    """A cache that has both."""
    cache_dir = tmp_path / "cache"
    with DatasetHubClient(hub.url, KEY, cache_dir) as client:
        client.download_dataset("cats")
        client.download_dataset("dogs")
    return cache_dir


def run(*arguments: str, cache_dir: Path, told: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run ``dsx cache`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from dsx.cli import main; main()", "cache", "--cache-dir", str(cache_dir), *arguments],
        input=told,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
    )


def age(cache_dir: Path, hours: int) -> None:
    """Have all that was handed out be so some hours ago."""
    past = time.time_ns() - hours * 3600 * 10**9
    for file in cache_dir.rglob("*"):
        if file.is_file():
            os.utime(file, ns=(past, file.stat().st_mtime_ns if file.parent.name != "held" else past))


def test_ls_prints_names_and_nothing_else(cache_dir: Path) -> None:
    done = run("ls", cache_dir=cache_dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cats\ndogs\n", "")


def test_ls_tells_bytes_and_files(cache_dir: Path) -> None:
    manifests = {name: (cache_dir / f"{name}_manifest.json").stat().st_size for name in ("cats", "dogs")}
    columns = {name: (cache_dir / ".dsx/manifests" / f"{name}.json").stat().st_size for name in ("cats", "dogs")}
    expected = [
        {"name": "cats", "files": 5, "bytes": 8000 + manifests["cats"] + columns["cats"]},
        {"name": "dogs", "files": 3, "bytes": 500 + manifests["dogs"] + columns["dogs"]},
    ]
    assert json.loads(run("ls", "--json", cache_dir=cache_dir).stdout) == expected
    lines = run("ls", "-l", cache_dir=cache_dir).stdout.splitlines()
    assert [line.split() for line in lines] == [[str(row["bytes"]), str(row["files"]), row["name"]] for row in expected]
    said = json.loads(run("size", "--json", cache_dir=cache_dir).stdout)
    assert said == {"bytes": sum(row["bytes"] for row in expected), "files": 8}  # type: ignore[misc]  # -- numbers


def test_size_of_an_unknown_dataset_is_an_error(cache_dir: Path) -> None:
    done = run("size", "birds", cache_dir=cache_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert "'birds' has nothing in the cache" in done.stderr


def test_prune_removes_what_was_not_used_for_longest(cache_dir: Path) -> None:
    age(cache_dir, 2)
    past = time.time_ns() - 5 * 3600 * 10**9
    for name in ("cats/train/2.png", "dogs/x"):
        os.utime(cache_dir / name, ns=(past, (cache_dir / name).stat().st_mtime_ns))
    os.utime(cache_dir / ".dsx/held/cats", ns=(past, past))
    os.utime(cache_dir / ".dsx/held/dogs", ns=(past, past))
    done = run("prune", "--limit", "5kB", cache_dir=cache_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    left = {str(file.relative_to(cache_dir)) for name in ("cats", "dogs") for file in (cache_dir / name).rglob("*.*")}
    assert left == {"cats/train/1.png", "cats/3.png"}


def test_prune_keeps_what_was_just_handed_out(cache_dir: Path) -> None:
    done = run("prune", cache_dir=cache_dir, DSX_CACHE_LIMIT="1kB")
    assert done.returncode == 1
    assert "handed out within the last ten minutes" in done.stderr
    assert (cache_dir / "cats/train/1.png").read_bytes() == FILES["train/1.png"]


def test_prune_asks_for_a_limit(cache_dir: Path) -> None:
    done = run("prune", cache_dir=cache_dir)
    assert done.returncode == 1
    assert "--limit 50GB" in done.stderr


def test_clear_asks_first(cache_dir: Path) -> None:
    done = run("clear", "cats", cache_dir=cache_dir, told="n\n")
    assert done.returncode == 1
    assert "Delete" in done.stderr
    assert (cache_dir / "cats/3.png").exists()
    done = run("clear", "cats", "--yes", cache_dir=cache_dir)
    assert (done.returncode, done.stdout) == (0, "")
    assert not (cache_dir / "cats").exists()
    assert run("ls", cache_dir=cache_dir).stdout == "dogs\n"


def test_verify_finds_a_flipped_byte_and_a_file_that_is_gone(cache_dir: Path) -> None:
    assert run("verify", cache_dir=cache_dir).returncode == 0
    harmed = cache_dir / "cats/train/1.png"
    status = harmed.stat()
    harmed.write_bytes(b"1" * 3999 + b"x")
    os.utime(harmed, ns=(status.st_atime_ns, status.st_mtime_ns))
    (cache_dir / "dogs/x").unlink()
    done = run("verify", cache_dir=cache_dir)
    assert (done.returncode, done.stdout) == (1, "damaged cats/train/1.png\nmissing dogs/x\n")


def test_what_verify_found_is_fetched_anew(cache_dir: Path, hub: HubProcess) -> None:
    harmed = cache_dir / "cats/train/1.png"
    status = harmed.stat()
    harmed.write_bytes(b"1" * 3999 + b"x")
    os.utime(harmed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run("verify", cache_dir=cache_dir).returncode == 1
    with DatasetHubClient(hub.url, KEY, cache_dir) as client:
        assert client.get_file("cats", "train/1.png").read_bytes() == FILES["train/1.png"]


def test_no_folder_is_said(tmp_path: Path) -> None:
    done = run("ls", cache_dir=tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no cache folder" in done.stderr
    assert not (tmp_path / "nowhere").exists()
