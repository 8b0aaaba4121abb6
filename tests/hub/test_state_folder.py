"""A state folder that is full, read-only, on a network disk, or holds a damaged index, at the start and later."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from dsx_server import Settings, SettingsError
from dsx_server.filesystems import find_network_disk
from tests.conftest import LAUNCHER, HubProcess, write_files
from tests.hub.conftest import mounted_disk, wait_until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    with mounted_disk(tmp_path / "small-disk", "1m") as folder:
        yield folder


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def run_hub(served: Path, state: Path) -> subprocess.CompletedProcess[str]:
    """Start a hub that is not expected to run."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
    env |= {"DSX_API_KEY": "k", "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(state), "DSX_PORT": "0"}
    return subprocess.run(
        [sys.executable, str(LAUNCHER)], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_full_disk_at_the_start_is_said_in_one_sentence(served: Path, small_disk: Path) -> None:
    fill(small_disk)
    result = run_hub(served, small_disk / "state")
    assert result.returncode == 2
    assert "DSX_STATE_DIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_disk_that_fills_up_later_does_not_end_the_hub(
    served: Path, small_disk: Path, start_hub: Callable[..., HubProcess]
) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start_hub(DSX_STATE_DIR=str(small_disk / "state"), DSX_RESCAN_S="2")  # a failed scan is made again after 2 s
    assert len(hub.get("/manifest/cats").json()) == 1
    fill(small_disk)
    write_files(served / "cats", {f"{'long' * 50}{number}": b"x" for number in range(5000)})
    answers = [hub.get("/manifest/cats") for _ in range(3)]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert "full" in refused[0].json()["detail"]
    assert hub.get("/file/cats/a").content == b"a"
    (small_disk / "filler").unlink()
    for path in (served / "cats").glob("long*"):
        path.unlink()
    wait_until(lambda: hub.get("/manifest/cats").status_code == 200, "the hub goes on when there is room again")
    assert "Traceback" not in hub.log


def test_read_only_state_folder_is_said_in_one_sentence(served: Path, small_disk: Path) -> None:
    (small_disk / "state").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = run_hub(served, small_disk / "state")
    assert result.returncode == 2
    assert "DSX_STATE_DIR" in result.stderr
    assert "Traceback" not in result.stderr


def mounted(*mounts: tuple[str, str]) -> Callable[..., list[SimpleNamespace]]:
    """Stand in for what the system says is mounted: (folder, type)."""
    return lambda **_: [SimpleNamespace(mountpoint=where, fstype=kind) for where, kind in mounts]


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smbfs", "fuse.sshfs", "9p", "NFS"])
def test_state_folder_on_a_network_disk_is_refused(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", mounted(("/", "ext4"), (str(tmp_path), kind)))
    with pytest.raises(SettingsError, match=r"network disk.*DSX_STATE_DIR"):
        Settings(api_key="k", dataset_path=served, state_dir=tmp_path / "state")


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([("/", "ext4"), ("/data", "nfs4")], None),
        ([("/", "nfs4"), ("/tmp", "tmpfs")], None),
        ([("/", "ext4"), ("/tmp", "nfs4"), ("/tmp/disk", "xfs")], None),
        ([("/", "ext4"), ("/tmp/di", "nfs4")], None),
        ([("/", "ext4"), ("/tmp", "nfs4")], "nfs4"),
        ([("/", "ext4"), ("/tmp/disk", "xfs"), ("/tmp/disk", "cifs")], "cifs"),
        ([("/", "fuseblk")], None),
    ],
)
def test_innermost_mount_decides(
    monkeypatch: pytest.MonkeyPatch, mounts: list[tuple[str, str]], expected: str | None
) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", mounted(*mounts))
    assert find_network_disk("/tmp/disk/state") == expected


def damage(index: Path) -> None:
    """Overwrite all but the head of an index file, and what is to be written into it."""
    with index.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (index.stat().st_size - 100))
    wal = index.with_name("index.sqlite-wal")
    if wal.exists():
        with wal.open("r+b") as file:
            file.write(b"\xff" * wal.stat().st_size)


def test_index_damaged_while_the_hub_runs_is_made_anew(served: Path, tmp_path: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {f"{number}": b"%d" % number for number in range(200)})
    before = hub.get("/manifest/cats").json()
    damage(tmp_path / "state" / "index.sqlite")
    write_files(served / "cats", {"new": b"n"})

    def is_right() -> bool:
        answer = hub.get("/manifest/cats")
        assert answer.status_code in (200, 503)
        return answer.status_code == 200 and len(answer.json()) == len(before) + 1

    wait_until(is_right, "the index was made anew")
    assert (tmp_path / "state" / "index.sqlite.damaged").exists()
    assert "Traceback" not in hub.log


def test_state_folder_that_was_removed_is_said_so(served: Path, tmp_path: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"a"})
    assert hub.get("/manifest/cats").status_code == 200
    shutil.rmtree(tmp_path / "state")
    write_files(served / "cats", {"b": b"b"})
    answer = hub.get("/manifest/cats")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "state folder" in answer.json()["detail"]
    assert hub.get("/file/cats/a").content == b"a"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_index_removed_while_the_hub_runs_is_made_anew(
    served: Path, tmp_path: Path, start_hub: Callable[..., HubProcess], workers: str
) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start_hub(DSX_WORKERS=workers)
    wait_until(lambda: hub.get("/manifest/cats").status_code == 200, "the dataset is known")
    for file in (tmp_path / "state").glob("index.sqlite*"):
        file.unlink()

    def is_there_again() -> bool:
        answers = {hub.get(route).status_code for route in ("/manifest/cats", "/datasets", "/file/cats/a")}
        assert answers <= {200, 503}
        return answers == {200}

    wait_until(is_there_again, "the index was made anew")


def test_pinned_revision_is_read_though_the_disk_is_full(
    served: Path, small_disk: Path, start_hub: Callable[..., HubProcess]
) -> None:
    write_files(served / "cats", {"a": b"a"})
    hub = start_hub(DSX_STATE_DIR=str(small_disk / "state"))
    columns = hub.get("/manifest/cats?format=columns").json()
    fill(small_disk)
    assert hub.get(f"/manifest/cats?format=columns&revision={columns['revision']}").json() == columns
    assert hub.get(f"/file/cats/a?revision={columns['revision']}").content == b"a"
