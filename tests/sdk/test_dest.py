"""``download_dataset(dest=...)``, and its other arguments: what is chosen, where it lies, what is believed."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from dsx import (
    CacheError,
    ConflictError,
    DatasetHubClient,
    DownloadError,
    InvalidPathError,
    InvalidRequestError,
)
from tests.conftest import HubProcess, write_files

from .conftest import Dataset, files_below
from .scripted import HonestScript, Script, ScriptedHub, digests_of, paths_of, write_problem

FILES = {
    "a.txt": b"a" * 3000,
    "train/1.png": b"1" * 5000,
    "train/2.png": b"2" * 5000,
    "train/deep/3.png": b"3" * 700,
    "val/4.png": b"4" * 20_000,
    ".hidden": b"",
}

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def script() -> HonestScript:
    """A dataset ``cats`` that may be changed; its hub knows all digests."""
    script = HonestScript(FILES)
    script.changes = {"digests": digests_of(FILES)}
    return script


@pytest.fixture
def hub(start_scripted: Callable[[Script], ScriptedHub], script: HonestScript) -> ScriptedHub:
    """The hub that has it."""
    return start_scripted(script)


@pytest.fixture
def client(connect: Connect, hub: ScriptedHub) -> DatasetHubClient:
    """A client of it that keeps no cache."""
    return connect(hub.url, cache_dir=None)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """A folder of one's own; nothing is there yet."""
    return tmp_path / "own"


def own(folder: Path) -> dict[str, bytes]:
    """Read the files in a folder, but for those that are the SDK's."""
    return {path: data for path, data in files_below(folder).items() if not path.startswith(".dsx/")}


def reads(hub: ScriptedHub) -> int:
    """Count the requests for entries."""
    return len(hub.of("GET", "/file/")) + len(hub.of("HEAD", "/file/")) + len(hub.of("POST", "/batch/"))


def change(script: HonestScript, files: dict[str, bytes]) -> None:
    """Have other files in the dataset."""
    script.files = dict(files)
    script.changes = {"digests": digests_of(files)}


def test_files_lie_directly_in_the_folder(client: DatasetHubClient, dest: Path) -> None:
    assert client.download_dataset("cats", dest=dest) == [dest / path for path in sorted(FILES)]
    assert own(dest) == FILES
    assert (dest / ".dsx" / "ledger.sqlite").is_file()


def test_cache_is_left_alone(connect: Connect, hub: ScriptedHub, dest: Path, cache_dir: Path) -> None:
    connect(hub.url).download_dataset("cats", dest=dest)
    assert not (cache_dir / "cats").exists()


def test_paths_are_as_the_folder_was_named(
    client: DatasetHubClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.download_dataset("cats", ["a.txt"], dest="own") == [Path("own/a.txt")]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert client.download_dataset("cats", ["a.txt"], dest="~/own") == [tmp_path / "own" / "a.txt"]


def test_second_call_asks_for_no_file(connect: Connect, hub: ScriptedHub, dest: Path) -> None:
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest)
        asked = reads(hub)
        client.download_dataset("cats", dest=dest)
    connect(hub.url, cache_dir=None).download_dataset("cats", dest=dest)
    assert reads(hub) == asked


def test_only_what_has_changed_is_fetched(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, dest: Path
) -> None:
    client.download_dataset("cats", dest=dest)
    changed = FILES | {"a.txt": b"A" * 3000, "new": b"new"}
    change(script, changed)
    hub.requests.clear()
    client.download_dataset("cats", dest=dest)
    assert own(dest) == changed
    assert b'["a.txt","new"]' in hub.of("POST")[0].body


def test_what_lies_in_the_folder_is_not_the_less_ours_after_a_kill(
    connect: Connect, hub: ScriptedHub, dest: Path
) -> None:
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest)
    with sqlite3.connect(dest / ".dsx" / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE files SET is_synced = 0")
    asked = reads(hub)
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest)
    assert reads(hub) == asked
    with sqlite3.connect(dest / ".dsx" / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT DISTINCT is_synced, is_ours FROM files").fetchall() == [(1, 1)]


@pytest.mark.parametrize("bytes_there", [b"mine", b"1" * 4999 + b"!", b""], ids=["other", "same size", "empty"])
@pytest.mark.parametrize("knows_digests", [True, False])
def test_file_of_somebody_else_in_the_way_stays_and_is_named(
    client: DatasetHubClient, script: HonestScript, dest: Path, bytes_there: bytes, knows_digests: bool
) -> None:
    script.changes = script.changes if knows_digests else {}
    write_files(dest, {"train/1.png": bytes_there, "notes": b"mine"})
    with pytest.raises(DownloadError, match=r"1\.png is in the way.*another dest") as caught:
        client.download_dataset("cats", dest=dest)
    assert isinstance(caught.value.failures["train/1.png"], CacheError)
    assert own(dest) == FILES | {"train/1.png": bytes_there, "notes": b"mine"}


@pytest.mark.parametrize("is_ours_before", [True, False])
def test_link_in_the_way_stays(client: DatasetHubClient, dest: Path, tmp_path: Path, is_ours_before: bool) -> None:
    write_files(tmp_path, {"elsewhere": b"mine"})
    if is_ours_before:
        client.download_dataset("cats", dest=dest)
        (dest / "a.txt").unlink()
    dest.mkdir(exist_ok=True)
    (dest / "a.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DownloadError, match=r"a\.txt is in the way"):
        client.download_dataset("cats", dest=dest)
    assert (dest / "a.txt").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


@pytest.mark.parametrize("is_edited", [True, False])
def test_where_a_link_leads_only_what_was_put_there_is_replaced(
    client: DatasetHubClient, script: HonestScript, dest: Path, tmp_path: Path, is_edited: bool
) -> None:
    client.download_dataset("cats", dest=dest)
    (dest / "train").rename(tmp_path / "moved")
    (dest / "train").symlink_to(tmp_path / "moved")
    if is_edited:
        write_files(tmp_path / "moved", {"1.png": b"mine"})
    change(script, {**FILES, "train/1.png": b"changed" * 300})
    with pytest.raises(DownloadError, match="a link leads there") if is_edited else nullcontext():
        client.download_dataset("cats", dest=dest)
    assert (tmp_path / "moved" / "1.png").read_bytes() == (b"mine" if is_edited else b"changed" * 300)


@pytest.mark.parametrize("knows_digests", [True, False])
def test_copy_that_somebody_has_made_is_used(
    connect: Connect, hub: ScriptedHub, script: HonestScript, dest: Path, knows_digests: bool
) -> None:
    script.changes = script.changes if knows_digests else {}
    write_files(dest, FILES)
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest)
    assert hub.of("GET", "/file/") + hub.of("POST", "/batch/") == []
    assert (hub.of("HEAD", "/file/") == []) == knows_digests
    asked = reads(hub)
    connect(hub.url, cache_dir=None).download_dataset("cats", dest=dest)
    assert reads(hub) == asked


@pytest.mark.parametrize("path", [".dsx/ledger.sqlite", ".dsx/x", ".DSX/x", ".dsx"])
def test_entry_where_the_ledger_lies_is_refused_and_the_others_come(
    client: DatasetHubClient, script: HonestScript, dest: Path, path: str
) -> None:
    change(script, FILES | {path: b"evil", ".dsxy": b"fine", "d/.dsx/x": b"fine"})
    with pytest.raises(DownloadError) as caught:
        client.download_dataset("cats", dest=dest)
    assert caught.value.failures.keys() == {path}
    assert isinstance(caught.value.failures[path], InvalidPathError)
    assert "exclude" in str(caught.value)
    assert own(dest) == FILES | {".dsxy": b"fine", "d/.dsx/x": b"fine"}
    client.download_dataset("cats", dest=dest, exclude=["/.dsx/", "/.dsx", "/.DSX/"])


def test_two_datasets_share_a_folder_but_no_file(
    connect: Connect, dataset: Dataset, common_hub: HubProcess, dest: Path
) -> None:
    other = Dataset(common_hub)
    client = connect(dataset.url, cache_dir=None)
    dataset.write({"a": b"1" * 2000, "same": b"s" * 2000, "both": b"one"})
    other.write({"b": b"2" * 2000, "same": b"s" * 2000, "both": b"two"})
    client.download_dataset(dataset.name, dest=dest)
    with pytest.raises(DownloadError, match="both is in the way") as caught:
        client.download_dataset(other.name, dest=dest)
    assert caught.value.failures.keys() == {"both"}
    wanted = {"a": b"1" * 2000, "same": b"s" * 2000, "both": b"one", "b": b"2" * 2000}
    assert own(dest) == wanted
    client.download_dataset(dataset.name, dest=dest, delete=True)
    assert own(dest) == wanted


def test_file_that_two_datasets_have_is_deleted_with_the_last(
    connect: Connect, dataset: Dataset, common_hub: HubProcess, dest: Path
) -> None:
    other = Dataset(common_hub)
    client = connect(dataset.url, cache_dir=None)
    for each in (dataset, other):
        each.write({"same": b"s" * 2000, "x": b"x"})
        client.download_dataset(each.name, dest=dest)
    client.download_dataset(dataset.name, dest=dest, include="x", delete=True)
    assert own(dest) == {"same": b"s" * 2000, "x": b"x"}
    client.download_dataset(other.name, dest=dest, include="x", delete=True)
    assert own(dest) == {"x": b"x"}


def test_file_that_was_edited_is_not_handed_over_to_another_dataset_that_has_its_bytes(
    connect: Connect, dataset: Dataset, common_hub: HubProcess, dest: Path
) -> None:
    other = Dataset(common_hub)
    client = connect(dataset.url, cache_dir=None)
    dataset.write({"both": b"1" * 2000, "x": b"x"})
    other.write({"both": b"2" * 2000, "x": b"x"})
    client.download_dataset(dataset.name, dest=dest)
    write_files(dest, {"both": b"2" * 2000})
    client.download_dataset(other.name, dest=dest)
    for each in (dataset, other):
        client.download_dataset(each.name, dest=dest, include="x", delete=True)
    assert own(dest) == {"both": b"2" * 2000, "x": b"x"}


def test_cache_without_manifests_is_no_folder_of_ones_own(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write({"a": b"1" * 2000})
    connect(dataset.url).get_file(dataset.name, "a")
    with pytest.raises(InvalidRequestError, match="is a cache"):
        connect(dataset.url, cache_dir=None).download_dataset(dataset.name, dest=cache_dir)


def test_cache_is_no_folder_of_ones_own(connect: Connect, hub: ScriptedHub, cache_dir: Path) -> None:
    client = connect(hub.url)
    client.download_dataset("cats")
    with pytest.raises(InvalidRequestError, match="is a cache"):
        client.download_dataset("cats", dest=cache_dir)
    with pytest.raises(InvalidRequestError, match="is a cache"):
        connect(hub.url, cache_dir=None).download_dataset("cats", dest=cache_dir)


def test_on_a_network_disk_what_is_ours_is_known_the_next_time(
    connect: Connect, hub: ScriptedHub, script: HonestScript, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsx._ledger.is_network_disk", lambda _: True)
    write_files(dest, {"notes": b"mine"})
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest)
    changed = {path: data[::-1] + b"!" for path, data in FILES.items() if not path.startswith("val/")}
    change(script, changed)
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest)
    assert own(dest) == FILES | changed | {"notes": b"mine"}
    asked = reads(hub)
    with connect(hub.url, cache_dir=None) as client:
        client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == changed | {"notes": b"mine"}
    assert reads(hub) == asked
    assert not (dest / ".dsx" / "ledger.sqlite").exists()


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'["cats", "../x", 1, 2, "", "", 3]', b"\xff", b"[" * 100_000])
def test_damaged_list_of_what_is_ours_is_passed_over(
    client: DatasetHubClient, dest: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    monkeypatch.setattr("dsx._ledger.is_network_disk", lambda _: True)
    write_files(dest, {".dsx/published.json": line})
    client.download_dataset("cats", dest=dest)
    assert own(dest) == FILES


def damage_unseen(file: Path) -> None:
    """Change a byte of a file, and nothing that can be seen from outside."""
    status = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("to_dest", [True, False])
@pytest.mark.parametrize("knows_digests", [True, False])
def test_full_verification_finds_what_cannot_be_seen(
    connect: Connect,
    hub: ScriptedHub,
    script: HonestScript,
    dest: Path,
    cache_dir: Path,
    to_dest: bool,
    knows_digests: bool,
) -> None:
    script.changes = script.changes if knows_digests else {}
    folder = dest if to_dest else cache_dir / "cats"
    client = connect(hub.url)
    client.download_dataset("cats", dest=dest if to_dest else None)
    client.close()  # synced: until then a file may be read again
    damage_unseen(folder / "val" / "4.png")
    client.download_dataset("cats", dest=dest if to_dest else None)
    assert own(folder) != FILES
    hub.requests.clear()
    client.download_dataset("cats", dest=dest if to_dest else None, verify="full")
    assert own(folder) == FILES
    assert [paths_of(request) for request in hub.of("POST")] == [["val/4.png"]]


def test_full_verification_reads_long_files_too(connect: Connect, dataset: Dataset, dest: Path) -> None:
    data = os.urandom(9 * 1024 * 1024)
    dataset.write({"long": data, "short": b"s"})
    client = connect(dataset.url, cache_dir=None)
    client.download_dataset(dataset.name, dest=dest)
    damage_unseen(dest / "long")
    client.download_dataset(dataset.name, dest=dest, verify="full")
    assert hashlib.sha256((dest / "long").read_bytes()).digest() == hashlib.sha256(data).digest()


def test_edited_file_is_set_right(client: DatasetHubClient, dest: Path) -> None:
    client.download_dataset("cats", dest=dest)
    (dest / "a.txt").write_bytes(b"edited")
    (dest / "train" / "1.png").unlink()
    client.download_dataset("cats", dest=dest)
    assert own(dest) == FILES


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"include": "*.png"}, {"train/1.png", "train/2.png", "train/deep/3.png", "val/4.png"}),
        ({"include": ["train/*", "a.txt"]}, {"a.txt", "train/1.png", "train/2.png"}),
        ({"exclude": "train/"}, {".hidden", "a.txt", "val/4.png"}),
        ({"include": "*.png", "exclude": ["val/**", "deep/"]}, {"train/1.png", "train/2.png", "train/deep/3.png"}),
    ],
)
def test_patterns_choose(client: DatasetHubClient, dest: Path, options: dict[str, str], wanted: set[str]) -> None:
    paths = client.download_dataset("cats", dest=dest, **options)  # type: ignore[arg-type]
    assert paths == [dest / path for path in sorted(wanted)]
    assert own(dest).keys() == wanted


def test_patterns_that_match_nothing_are_said_in_the_log(
    client: DatasetHubClient, dest: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dsx"):
        assert client.download_dataset("cats", include="trian/**", dest=dest) == []
    assert "trian" in caplog.text
    assert "6 files" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"file_list": ["a.txt"], "include": "*"}, "file_list"),
        ({"file_list": ["a.txt"], "exclude": "*"}, "file_list"),
        ({"delete": True}, "dest"),
        ({"delete": True, "file_list": ["a.txt"], "dest": "own"}, "file_list"),
        ({"verify": "no"}, "verify"),
        ({"include": 5}, "pattern"),
        ({"dest": ""}, "dest"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_before_anything_is_asked(
    connect: Connect, hub: ScriptedHub, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        connect(hub.url).download_dataset("cats", **options)  # type: ignore[arg-type]
    assert hub.requests == []


def test_pinned_files_come_from_the_revision_or_are_a_conflict(
    client: DatasetHubClient, script: HonestScript, dest: Path
) -> None:
    revision = script.keep()
    client.download_dataset("cats", ["a.txt"], revision=revision, dest=dest)
    script.files["val/4.png"] = b"new"
    refused = script.write_frame

    def hold_against_revision(index: int, path: str, start: int, stop: int) -> bytes:
        is_changed = path == "val/4.png"
        return write_problem(index, 2, "conflict", "changed") if is_changed else refused(index, path, start, stop)

    script.write_frame = hold_against_revision  # type: ignore[method-assign]
    with pytest.raises(DownloadError) as caught:
        client.download_dataset("cats", revision=revision, dest=dest)
    assert {path: type(error) for path, error in caught.value.failures.items()} == {"val/4.png": ConflictError}
    assert own(dest) == {path: data for path, data in FILES.items() if path != "val/4.png"}
    client.download_dataset("cats", dest=dest)
    assert own(dest)["val/4.png"] == b"new"


def test_folder_of_ones_own_is_no_cache(connect: Connect, hub: ScriptedHub, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    connect(hub.url, cache_dir=None).download_dataset("cats", dest=folder)
    mine = folder / "cats" / "train" / "1.png"  # where a cache would have an entry
    write_files(folder, {"cats/train/1.png": b"mine"})
    client = connect(hub.url, cache_dir=folder)
    for call in (client.get_cache_size, client.clear_cache, lambda: client.get_file("cats", "a.txt")):
        with pytest.raises(CacheError, match="another cache_dir"):
            call()
    assert mine.read_bytes() == b"mine"
    connect(hub.url, cache_dir=None).download_dataset("cats", dest=folder)
