"""``GET /datasets`` and ``GET /datasets/{dataset}``: which folders are datasets, and what was left out of one."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import HubProcess, write_files


@pytest.fixture
def served(shared_served: Path) -> Path:
    """The shared hub's folder, emptied of what the test before put there."""
    for item in shared_served.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
    return shared_served


@pytest.fixture
def hub(shared_hub: HubProcess) -> HubProcess:
    """One hub for the whole module: nothing here depends on when it was started."""
    return shared_hub


def test_names_of_the_folders_come_as_a_sorted_array(served: Path, hub: HubProcess) -> None:
    for name in ("mnist", "imagenet", "Cifar10", "\u00e9tude"):
        (served / name).mkdir()
    answer = hub.get("/datasets")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ["Cifar10", "imagenet", "mnist", "\u00e9tude"]


def test_empty_served_folder_has_no_datasets(served: Path, hub: HubProcess) -> None:
    assert hub.get("/datasets").json() == []


def test_new_and_removed_datasets_are_seen_at_once(served: Path, hub: HubProcess) -> None:
    (served / "cats").mkdir()
    assert hub.get("/datasets").json() == ["cats"]
    (served / "cats").rename(served / "dogs")
    assert hub.get("/datasets").json() == ["dogs"]


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        ".dsx",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
        "@eaDir",
        "._cats",
        ".DS_Store",
    ],
)
def test_system_folder_is_no_dataset_on_any_route(served: Path, hub: HubProcess, name: str) -> None:
    write_files(served, {f"{name}/x": b"canary", "cats/x": b"x"})
    assert hub.get("/datasets").json() == ["cats"]
    for target in (f"/manifest/{name}", f"/datasets/{name}", f"/file/{name}/x"):
        answer = hub.get(target.replace(" ", "%20"))
        assert answer.status_code in (400, 404)
        assert b"canary" not in answer.content


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", "System Volume Information", ".hidden"])
def test_folder_of_that_name_inside_a_dataset_is_ordinary(served: Path, hub: HubProcess, name: str) -> None:
    write_files(served / "cats", {f"{name}/x": b"x"})
    assert [row["path"] for row in hub.get("/manifest/cats").json()] == [f"{name}/x"]


def test_file_at_the_top_is_no_dataset(served: Path, hub: HubProcess) -> None:
    (served / "readme.txt").write_bytes(b"canary")
    assert hub.get("/datasets").json() == []
    for target in ("/manifest/readme.txt", "/datasets/readme.txt", "/file/readme.txt/x"):
        assert hub.get(target).status_code == 404


@pytest.mark.skipif(os.name != "posix", reason="other systems cannot make such names")
def test_folder_whose_name_json_cannot_carry_is_no_dataset(served: Path, hub: HubProcess) -> None:
    os.mkdir(os.fsencode(served) + b"/caf\xe9")  # noqa: PTH102 -- Path has no bytes
    (served / "back\\slash").mkdir()
    (served / "cats").mkdir()
    assert hub.get("/datasets").json() == ["cats"]


@pytest.mark.parametrize("is_absolute", [True, False])
def test_dataset_may_be_a_link(tmp_path: Path, served: Path, hub: HubProcess, is_absolute: bool) -> None:
    write_files(tmp_path / "elsewhere", {"a/x": b"bytes"})
    (served / "cats").symlink_to(
        tmp_path / "elsewhere" if is_absolute else os.path.relpath(tmp_path / "elsewhere", served)
    )
    assert hub.get("/datasets").json() == ["cats"]
    assert [row["path"] for row in hub.get("/manifest/cats").json()] == ["a/x"]
    assert hub.get("/file/cats/a/x").content == b"bytes"


def test_link_inside_a_linked_dataset_is_judged_by_the_real_folder(
    tmp_path: Path, served: Path, hub: HubProcess
) -> None:
    real = tmp_path / "elsewhere"
    write_files(real, {"x": b"bytes"})
    write_files(tmp_path, {"elsewhere-secret/x": b"canary"})
    (real / "in").symlink_to(real / "x")
    (real / "out").symlink_to(tmp_path / "elsewhere-secret" / "x")
    (served / "cats").symlink_to(real)
    assert [row["path"] for row in hub.get("/manifest/cats").json()] == ["in", "x"]
    assert hub.get("/file/cats/out").status_code == 404


@pytest.mark.parametrize("target", ["loop", "missing", "file.txt", "file.txt/x"])
def test_link_at_the_top_that_leads_to_no_folder_is_no_dataset(served: Path, hub: HubProcess, target: str) -> None:
    (served / "file.txt").write_bytes(b"")
    (served / "loop").symlink_to(target)
    assert hub.get("/datasets").json() == []
    assert [hub.get(route).status_code for route in ("/manifest/loop", "/datasets/loop", "/file/loop/x")] == [404] * 3


def test_dataset_is_found_by_its_exact_name_only(served: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {"x": b"x"})
    assert hub.get("/manifest/CATS").status_code == 404
    assert hub.get("/file/CATS/x").status_code == 404


def test_description_counts_entries_and_bytes(served: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"12", "b/c": b"345", "empty": b""})
    before = datetime.now(UTC)
    info = hub.get("/datasets/cats").json()
    assert (info["name"], info["entries"], info["bytes"], info["left_out"]) == ("cats", 3, 5, {})
    scanned_at = datetime.fromisoformat(info["scanned_at"])
    assert scanned_at.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= scanned_at <= datetime.now(UTC) + timedelta(seconds=1)


def test_description_names_the_revision_of_the_manifest(served: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"12"})
    mtime_ns = (served / "cats" / "a").stat().st_mtime_ns
    row = f"a\x002\x00{hashlib.md5(b'12').hexdigest()}\x00{mtime_ns}"
    text = f"1\0{hashlib.sha256(row.encode()).hexdigest()}"
    assert hub.get("/datasets/cats").json()["revision"] == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert hub.get("/manifest/cats").headers["etag"].startswith(f'W/"{hub.get("/datasets/cats").json()["revision"]}.')


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path, served: Path, hub: HubProcess) -> None:
    cats = served / "cats"
    write_files(cats, {"a": b"1", ".DS_Store": b"", "d/Thumbs.db": b"", "@eaDir/1/2": b""})
    write_files(tmp_path, {"outside/x": b"canary"})
    (cats / "back\\slash").write_bytes(b"")
    (cats / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    (cats / "out").symlink_to(tmp_path / "outside" / "x")
    (cats / "out-folder").symlink_to(tmp_path / "outside")
    (cats / "dangling").symlink_to("nothing")
    (cats / "loop").symlink_to("loop")
    (cats / "d" / "up").symlink_to("..")
    os.mkfifo(cats / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(cats, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")  # a path of more than 107 bytes cannot be bound
        os.close(here)
    info = hub.get("/datasets/cats").json()
    assert info["entries"] == 1
    left_out = info["left_out"]
    assert left_out.pop("system_file") == 3
    assert left_out.pop("name") == 2
    assert left_out.pop("special_file") == 2
    assert left_out.pop("link_outside") + left_out.pop("link_loop") == 5
    assert left_out == {}


def test_dataset_of_links_only_is_not_silently_empty(tmp_path: Path, served: Path, hub: HubProcess) -> None:
    write_files(tmp_path, {"outside/x": b""})
    for number in range(7):
        (served / "cats").mkdir(exist_ok=True)
        (served / "cats" / str(number)).symlink_to(tmp_path / "outside" / "x")
    info = hub.get("/datasets/cats").json()
    assert (info["entries"], info["left_out"]) == (0, {"link_outside": 7})
    assert "7 link_outside" in hub.log


def test_description_of_an_unknown_dataset_is_404(served: Path, hub: HubProcess) -> None:
    (served / "dogs").mkdir()
    answer = hub.get("/datasets/cats")
    assert (answer.status_code, answer.json()["code"]) == (404, "dataset_not_found")
    assert "cats" in answer.json()["detail"]
    assert "dogs" in answer.json()["detail"]


@pytest.mark.parametrize("target", ["/datasets", "/datasets/cats"])
def test_head_has_the_headers_of_get_and_no_body(served: Path, hub: HubProcess, target: str) -> None:
    write_files(served, {"cats/a": b"a"})
    of_get, of_head = hub.get(target), hub.request("HEAD", target)
    assert (of_head.status_code, of_head.content) == (200, b"")
    assert of_head.headers["content-type"] == of_get.headers["content-type"]
    assert of_head.headers["content-length"] == of_get.headers["content-length"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize("target", ["/datasets", "/datasets/cats"])
def test_other_methods_are_405_with_those_allowed(hub: HubProcess, target: str, method: str) -> None:
    answer = hub.request(method, target)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD"}
