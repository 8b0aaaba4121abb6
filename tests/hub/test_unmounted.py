"""A folder whose disk is not mounted is an error, never an empty dataset; its place shows another, empty folder."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsx.errors import HubUnavailableError
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import mounted_disk
from tests.hub.looker import CountingStorage, Looker

ROUTES = ["/datasets/cats", "/manifest/cats", "/manifest/cats?format=columns", "/datasets/cats/revisions"]


@pytest.fixture
def cats(served: Path, hub: HubProcess) -> Path:
    """A dataset that the hub has seen with an entry in it."""
    write_files(served / "cats", {"a": b"a"})
    assert len(hub.get("/manifest/cats").json()) == 1
    assert hub.get("/datasets").json() == ["cats"]
    return served / "cats"


def unmount(folder: Path) -> None:
    """Put what a missing mount shows in the place of a folder: another one, empty."""
    folder.rename(folder.with_name(folder.name + ".disk"))
    folder.mkdir()


def mount(folder: Path) -> None:
    """Bring back what `unmount` took away."""
    folder.rmdir()
    folder.with_name(folder.name + ".disk").rename(folder)


@pytest.fixture
def unmounted_dataset(cats: Path, tmp_path: Path) -> Path:
    """The dataset's disk is not mounted."""
    disk = tmp_path / "disk"
    cats.rename(disk)
    cats.mkdir()
    return disk


@pytest.mark.parametrize("route", ROUTES)
def test_unmounted_dataset_is_unavailable(unmounted_dataset: Path, hub: HubProcess, route: str) -> None:
    answer = hub.get(route)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "mounted" in answer.json()["detail"]
    assert "retry-after" not in answer.headers  # waiting does not mount it


def test_dataset_is_there_again_with_its_disk(unmounted_dataset: Path, cats: Path, hub: HubProcess) -> None:
    before = hub.get("/manifest/cats").status_code
    cats.rmdir()
    unmounted_dataset.rename(cats)
    assert (before, len(hub.get("/manifest/cats").json())) == (503, 1)


def test_unmounted_dataset_is_known_after_a_restart(unmounted_dataset: Path, hub: HubProcess) -> None:
    hub.stop()
    hub.start()
    assert hub.get("/manifest/cats").status_code == 503


def test_other_datasets_are_served_meanwhile(unmounted_dataset: Path, served: Path, hub: HubProcess) -> None:
    write_files(served / "dogs", {"x": b"x"})
    assert len(hub.get("/manifest/dogs").json()) == 1


def test_dataset_that_was_emptied_in_place_is_empty(cats: Path, hub: HubProcess) -> None:
    (cats / "a").unlink()
    assert hub.get("/manifest/cats").json() == []


def test_dataset_that_never_held_anything_is_empty(served: Path, hub: HubProcess) -> None:
    (served / "new").mkdir()
    assert hub.get("/manifest/new").json() == []


def test_dataset_that_was_made_anew_with_files_is_served(cats: Path, hub: HubProcess) -> None:
    shutil.rmtree(cats)
    write_files(cats, {"other": b"o"})
    assert [row["path"] for row in hub.get("/manifest/cats").json()] == ["other"]


@pytest.mark.parametrize("route", ["/datasets", "/file/cats/a", *ROUTES])
def test_unmounted_served_folder_is_unavailable(cats: Path, served: Path, hub: HubProcess, route: str) -> None:
    unmount(served)
    answer = hub.get(route)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def test_served_folder_is_there_again_with_its_disk(cats: Path, served: Path, hub: HubProcess) -> None:
    unmount(served)
    before = hub.get("/datasets").status_code
    mount(served)
    assert (before, hub.get("/datasets").json()) == (503, ["cats"])


def test_served_folder_that_was_emptied_in_place_is_empty(cats: Path, hub: HubProcess) -> None:
    shutil.rmtree(cats)
    assert hub.get("/datasets").json() == []


@pytest.fixture
def usb(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, mounted; a test may unmount it."""
    with mounted_disk(tmp_path / "usb", "4m") as folder:
        yield folder


def test_disk_that_is_unmounted_a_moment_after_a_change_is_unavailable(
    served: Path, tmp_path: Path, usb: Path, hub: HubProcess
) -> None:
    (served / "cats").symlink_to(usb)
    write_files(usb, {f"{folder}/{name}": b"x" for folder in range(20) for name in range(20)})
    assert len(hub.get("/manifest/cats").json()) == 400
    write_files(usb, {"1/new": b"n"})
    assert len(hub.get("/manifest/cats").json()) == 401
    subprocess.run(["umount", "-l", str(usb)], check=True)
    until = time.monotonic() + 5
    while time.monotonic() < until:  # what had just been written is looked at again meanwhile
        assert hub.get("/manifest/cats").status_code == 503
        assert hub.get("/file/cats/1/new").status_code == 503


def test_dataset_that_is_a_link_to_a_disk_that_is_gone_is_unavailable(
    served: Path, tmp_path: Path, hub: HubProcess
) -> None:
    write_files(tmp_path / "media" / "disk", {"a": b"a"})
    write_files(served / "dogs", {"x": b"x"})
    (served / "cats").symlink_to(tmp_path / "media" / "disk")
    assert len(hub.get("/manifest/cats").json()) == 1
    (tmp_path / "media").rename(tmp_path / "elsewhere")
    for route in (*ROUTES, "/file/cats/a"):
        assert hub.get(route).status_code == 503
    (tmp_path / "media" / "disk").mkdir(parents=True)
    assert hub.get("/manifest/cats").status_code == 503
    shutil.rmtree(tmp_path / "media")
    (tmp_path / "elsewhere").rename(tmp_path / "media")
    assert len(hub.get("/manifest/cats").json()) == 1


def test_dataset_replaced_by_another_folder_is_the_other(cats: Path, tmp_path: Path, hub: HubProcess) -> None:
    write_files(tmp_path / "other", {"b/c": b"c"})
    cats.rename(tmp_path / "old")
    (tmp_path / "other").rename(cats)
    assert [row["path"] for row in hub.get("/manifest/cats").json()] == ["b/c"]


def test_disk_that_goes_between_two_looks_of_a_scan_is_never_taken_for_an_emptied_folder(
    served: Path, tmp_path: Path
) -> None:
    write_files(tmp_path / "disk", {"a": b"a"})
    (tmp_path / "mount point").mkdir()
    (served / "cats").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "mount point")
    storage = CountingStorage(served)
    looker = Looker(tmp_path / "state", storage)
    looker.refresh("cats")
    storage.on_walk = lambda: (tmp_path / "link").exists() and (tmp_path / "link").replace(served / "cats")
    with pytest.raises(HubUnavailableError):
        looker.refresh("cats")
    with pytest.raises(HubUnavailableError, match="mounted"):
        looker.refresh("cats")
    newest = looker.index.find_newest("cats")
    looker.close()
    assert newest is not None
    assert newest.entries == 1
