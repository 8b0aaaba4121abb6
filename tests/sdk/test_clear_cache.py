"""``clear_cache`` and ``get_cache_size``: what the SDK deletes, it published."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import CacheError, DatasetHubClient

from .conftest import Dataset, Unprivileged, files_below
from .scripted import HonestScript, ScriptedHub

FILES = {"a": b"1" * 100, "deep/er/b": b"2" * 2000, "deep/c": b"3", "empty": b""}
BYTES = sum(map(len, FILES.values()))

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def full(client: DatasetHubClient, dataset: Dataset) -> DatasetHubClient:
    """A client that has all of `FILES` in its cache."""
    dataset.write(FILES)
    client.download_dataset(dataset.name)
    return client


@pytest.fixture
def manifests_bytes(full: DatasetHubClient, dataset: Dataset, cache_dir: Path) -> int:
    """The size of the manifests that `full` keeps."""
    names = [f"{dataset.name}_manifest.json", f".dsx/manifests/{dataset.name}.json"]
    return sum((cache_dir / name).stat().st_size for name in names)


def harm_ledger(cache_dir: Path, harm: str) -> None:
    """Delete or damage the ledger that no process has open."""
    ledger = cache_dir / ".dsx" / "ledger.sqlite"
    if harm == "deleted":
        ledger.unlink()
    elif harm == "truncated":
        os.truncate(ledger, 1000)
    elif harm == "empty":
        ledger.write_bytes(b"")
    elif harm == "overwritten":
        ledger.write_bytes(b"this is no database " * 1000)
    elif harm == "damaged inside":
        data = ledger.read_bytes()
        ledger.write_bytes(data[:100] + b"\xa5" * (len(data) - 100))
    elif harm == "another table":
        ledger.unlink()
        with sqlite3.connect(ledger) as db:
            db.execute("CREATE TABLE files (x)")
        db.close()
    else:
        ledger.unlink()
        ledger.mkdir()


HARMS = ["deleted", "truncated", "empty", "overwritten", "damaged inside", "another table", "folder"]


def test_size_is_that_of_files_and_manifests(full: DatasetHubClient, manifests_bytes: int) -> None:
    assert full.get_cache_size() == BYTES + manifests_bytes


@pytest.mark.parametrize("is_named", [True, False])
def test_bytes_freed_are_the_size_before(full: DatasetHubClient, dataset: Dataset, is_named: bool) -> None:
    name = dataset.name if is_named else None
    before = full.get_cache_size(name)
    assert before > BYTES
    assert full.clear_cache(name) == before


@pytest.mark.parametrize("is_named", [True, False])
def test_nothing_is_left_but_the_private_folder(
    full: DatasetHubClient, dataset: Dataset, cache_dir: Path, is_named: bool
) -> None:
    full.clear_cache(dataset.name if is_named else None)
    assert os.listdir(cache_dir) == [".dsx"]


def test_cleared_cache_is_empty(full: DatasetHubClient, dataset: Dataset) -> None:
    full.clear_cache()
    assert (full.get_cache_size(), full.get_cache_size(dataset.name), full.clear_cache()) == (0, 0, 0)


def test_cleared_files_are_fetched_again(full: DatasetHubClient, dataset: Dataset) -> None:
    full.clear_cache()
    assert full.get_file(dataset.name, "a").read_bytes() == FILES["a"]


def test_zero_byte_file_is_cleared_too(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"empty": b""})
    local = client.get_file(dataset.name, "empty")
    client.clear_cache()
    assert not local.exists()


def test_other_datasets_stay(
    full: DatasetHubClient, dataset: Dataset, cache_dir: Path, start_honest: Callable[..., object], connect: Connect
) -> None:
    hub, _ = start_honest({"x": b"other"})  # type: ignore[misc]
    connect(hub.url).download_dataset("cats")
    full.clear_cache(dataset.name)
    assert full.get_cache_size() == full.get_cache_size("cats") > 0
    assert (cache_dir / "cats" / "x").read_bytes() == b"other"


def test_name_that_begins_as_another_is_another(connect: Connect, dataset: Dataset) -> None:
    longer = dataset.folder.with_name(dataset.name + "-val")
    longer.mkdir()
    (longer / "x").write_bytes(b"longer")
    dataset.write(FILES)
    client = connect(dataset.url)
    client.download_dataset(dataset.name)
    local = client.get_file(longer.name, "x")
    client.clear_cache(dataset.name)
    assert local.read_bytes() == b"longer"
    shutil.rmtree(longer)


def test_another_client_can_clear(full: DatasetHubClient, connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    size = full.get_cache_size()
    assert connect(dataset.url).clear_cache() == size
    assert os.listdir(cache_dir) == [".dsx"]


def test_dataset_that_is_not_cached_frees_nothing(full: DatasetHubClient) -> None:
    before = full.get_cache_size()
    assert (full.get_cache_size("unknown"), full.clear_cache("unknown")) == (0, 0)
    assert full.get_cache_size() == before


def test_without_a_cache_there_is_nothing(connect: Connect, dataset: Dataset) -> None:
    client = connect(dataset.url, cache_dir=None)
    client.get_manifest(dataset.name)
    assert (client.get_cache_size(), client.clear_cache(), client.clear_cache(dataset.name)) == (0, 0, 0)


@pytest.mark.parametrize("name", [None, "cats"])
def test_measuring_makes_no_folder(client: DatasetHubClient, cache_dir: Path, name: str | None) -> None:
    assert (client.get_cache_size(name), client.clear_cache(name)) == (0, 0)
    assert not cache_dir.exists()


def test_measuring_a_folder_of_somebody_elses_leaves_nothing_in_it(
    connect: Connect, dataset: Dataset, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes_manifest.json").write_bytes(b"mine")
    client = connect(dataset.url, cache_dir=own)
    assert (client.get_cache_size(), client.clear_cache()) == (0, 0)
    assert os.listdir(own) == ["notes_manifest.json"]


@pytest.fixture
def own_folder(tmp_path: Path, dataset: Dataset) -> Path:
    """A folder full of the user's own files, many named like what the SDK puts there."""
    own = tmp_path / "own"
    elsewhere = tmp_path / "elsewhere"
    for folder in (own / dataset.name / "deep", own / "src", elsewhere):
        folder.mkdir(parents=True)
    (own / "train.py").write_text("print()")
    (own / "src" / "a.py").write_text("print()")
    (own / dataset.name / "mine.txt").write_text("mine")
    (own / dataset.name / "deep" / "notes").write_text("mine")
    (own / dataset.name / "empty").write_text("not empty: mine")  # the name of an entry
    (own / dataset.name / "a").write_bytes(FILES["a"])  # name and bytes of an entry
    (own / "dogs_manifest.json").write_text("[]")
    (own / f"{dataset.name}_manifest.json.bak").write_text("mine")
    (elsewhere / "target").write_text("mine")
    (elsewhere / "c").write_text("mine")
    (own / dataset.name / "link").symlink_to(elsewhere / "target")
    (own / dataset.name / "folder").symlink_to(elsewhere)
    (own / dataset.name / "loop").symlink_to(own / dataset.name)
    return own


def contents(folder: Path) -> dict[str, object]:
    """Read files, links and folders below ``folder``, but for the SDK's own folder."""
    found: dict[str, object] = {}
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(where, name)
            shown = str(path.relative_to(folder))
            if not shown.startswith(".dsx"):
                found[shown] = path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
    return found


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("harm", ["none", *HARMS])
def test_own_files_survive_a_cache_in_the_working_folder(
    connect: Connect,
    dataset: Dataset,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_named: bool,
    harm: str,
) -> None:
    dataset.write(FILES)
    monkeypatch.chdir(own_folder)
    before, elsewhere = contents(own_folder), files_below(tmp_path / "elsewhere")
    if harm != "none":  # what a ledger says that is not there cannot be known: only names that no entry has
        for name in ("a", "empty"):
            (own_folder / dataset.name / name).unlink()
            del before[f"{dataset.name}/{name}"]
    client = connect(dataset.url, cache_dir=".")
    if harm == "none":
        with pytest.raises(OSError, match="in the way"):
            client.download_dataset(dataset.name)
    else:
        client.download_dataset(dataset.name)
        client.close()
        harm_ledger(own_folder, harm)
        client = connect(dataset.url, cache_dir=".")
    assert (own_folder / dataset.name / "deep" / "er" / "b").read_bytes() == FILES["deep/er/b"]
    client.clear_cache(dataset.name if is_named else None)
    assert contents(own_folder) == before
    assert files_below(tmp_path / "elsewhere") == elsewhere


def test_own_manifest_of_a_dataset_never_asked_for_is_not_deleted(client: DatasetHubClient, cache_dir: Path) -> None:
    cache_dir.mkdir()
    (cache_dir / "dogs_manifest.json").write_bytes(b'{"name": "my web app"}')
    client.clear_cache("dogs")
    assert (cache_dir / "dogs_manifest.json").read_bytes() == b'{"name": "my web app"}'


@pytest.mark.parametrize("is_named", [True, False])
def test_own_manifest_beside_downloaded_files_is_not_deleted(
    client: DatasetHubClient, dataset: Dataset, cache_dir: Path, is_named: bool
) -> None:
    cache_dir.mkdir()
    own = cache_dir / f"{dataset.name}_manifest.json"
    own.write_bytes(b'{"name": "my web app"}')
    dataset.write(FILES)
    client.get_file(dataset.name, "a")
    client.clear_cache(dataset.name if is_named else None)
    assert own.read_bytes() == b'{"name": "my web app"}'


def test_links_are_not_followed(full: DatasetHubClient, dataset: Dataset, cache_dir: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    (cache_dir / dataset.name / "deep").rename(moved)
    (cache_dir / dataset.name / "deep").symlink_to(moved)
    before = full.get_cache_size()
    assert full.clear_cache() == before
    assert files_below(moved) == {"c": FILES["deep/c"], "er/b": FILES["deep/er/b"]}


def test_link_in_place_of_a_file_stays(
    full: DatasetHubClient, dataset: Dataset, cache_dir: Path, tmp_path: Path
) -> None:
    local = cache_dir / dataset.name / "a"
    (tmp_path / "mine").write_bytes(b"mine")
    local.unlink()
    local.symlink_to(tmp_path / "mine")
    full.clear_cache()
    assert local.is_symlink()
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("call", ["clear", "get first"])
def test_without_a_ledger_what_the_manifest_names_is_cleared(
    full: DatasetHubClient, connect: Connect, dataset: Dataset, cache_dir: Path, harm: str, call: str
) -> None:
    size = full.get_cache_size()
    full.close()
    harm_ledger(cache_dir, harm)
    client = connect(dataset.url)
    if call == "get first":
        assert client.get_file(dataset.name, "deep/er/b").read_bytes() == FILES["deep/er/b"]
    assert client.clear_cache() == size
    assert [name for name in os.listdir(cache_dir) if name != ".dsx"] == []


@pytest.mark.parametrize("harm", HARMS)
def test_without_a_ledger_files_are_verified_not_fetched(
    connect: Connect, start_honest: Callable[..., tuple[ScriptedHub, HonestScript]], cache_dir: Path, harm: str
) -> None:
    hub, _ = start_honest(FILES)
    with connect(hub.url) as client:
        client.download_dataset("cats")
    harm_ledger(cache_dir, harm)
    hub.requests.clear()
    connect(hub.url).download_dataset("cats")
    assert hub.of("GET", "/file/") == []


def test_read_only_cache_is_read_by_verifying(
    full: DatasetHubClient, dataset: Dataset, cache_dir: Path, unprivileged: Unprivileged
) -> None:
    full.close()
    for folder, _, files in os.walk(cache_dir):
        for name in [*files, "."]:
            (Path(folder) / name).chmod(0o555)
    code = """
        import sys
        from dsx import DatasetHubClient
        hub = DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3])
        print(hub.get_file(sys.argv[4], "deep/er/b").read_bytes() == b"2" * 2000, len(hub.get_manifest(sys.argv[4])))
    """
    try:
        output = unprivileged.run(code, dataset.url, "test-key-0123456789", cache_dir, dataset.name)
    finally:
        for folder, _, _ in os.walk(cache_dir):
            Path(folder).chmod(0o755)
    assert output.split() == ["True", str(len(FILES))]


def test_clearing_a_read_only_folder_is_a_cache_error(
    full: DatasetHubClient, dataset: Dataset, cache_dir: Path, unprivileged: Unprivileged
) -> None:
    full.close()
    (cache_dir / dataset.name).chmod(0o555)
    code = """
        import sys
        from dsx import CacheError, DatasetHubClient
        try:
            DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3]).clear_cache()
        except CacheError as error:
            print(error)
    """
    try:
        output = unprivileged.run(code, dataset.url, "test-key-0123456789", cache_dir)
    finally:
        (cache_dir / dataset.name).chmod(0o755)
    assert "permissions" in output


def test_unreadable_private_folder_is_a_cache_error(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    cache_dir.mkdir()
    (cache_dir / ".dsx").write_bytes(b"a file where the folder should be")
    with pytest.raises(CacheError):
        connect(dataset.url).get_file(dataset.name, "a")
    assert (cache_dir / ".dsx").read_bytes() == b"a file where the folder should be"
