"""Revisions end to end: the real SDK against the real hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsx import ConflictError, DatasetHubClient, EntryNotFoundError, HubUnavailableError, RevisionNotFoundError
from tests.conftest import KEY, HubProcess, write_files


@pytest.fixture
def cats(served: Path) -> Path:
    """A dataset with three entries."""
    write_files(served / "cats", {"a": b"a" * 2000, "b/c.png": b"c", "b/d": b"d"})
    return served / "cats"


@pytest.fixture
def client(cats: Path, hub: HubProcess, tmp_path: Path) -> Iterator[DatasetHubClient]:
    """A client with a cache."""
    with DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "cache") as client:
        yield client


def change(cats: Path) -> None:
    """Add one entry, change one, remove one."""
    write_files(cats, {"new": b"n", "a": b"A" * 2000})
    (cats / "b" / "c.png").unlink()


def test_loaded_manifest_has_the_entries(client: DatasetHubClient) -> None:
    manifest = client.load_manifest("cats")
    assert [(entry.path, entry.size) for entry in manifest] == [("a", 2000), ("b/c.png", 1), ("b/d", 1)]
    assert manifest.total_bytes == 2002
    assert manifest.revision == client.get_revision("cats")
    assert manifest.to_rows() == client.get_manifest("cats")


def test_selection_keeps_what_the_patterns_say(client: DatasetHubClient) -> None:
    manifest = client.load_manifest("cats")
    assert [entry.path for entry in manifest.select(include="*.png")] == ["b/c.png"]
    assert [entry.path for entry in manifest.select(exclude="b/**")] == ["a"]


def test_pinned_manifest_is_that_of_the_revision(client: DatasetHubClient, cats: Path) -> None:
    before = client.get_manifest("cats")
    revision = client.get_revision("cats")
    change(cats)
    assert client.get_manifest("cats") != before
    assert client.get_manifest("cats", revision=revision) == before


def test_difference_names_what_changed(client: DatasetHubClient, cats: Path) -> None:
    a = client.get_revision("cats")
    change(cats)
    difference = client.diff("cats", a, client.get_revision("cats"))
    assert (list(difference.added), list(difference.changed), list(difference.removed)) == (["new"], ["a"], ["b/c.png"])


def test_revisions_are_listed(client: DatasetHubClient, cats: Path) -> None:
    first = client.get_revision("cats")
    change(cats)
    second = client.get_revision("cats")
    assert [each.revision for each in client.list_revisions("cats")] == [second, first]


READS: dict[str, Callable[[DatasetHubClient, str, str], object]] = {
    "get_file_bytes": lambda client, path, revision: client.get_file_bytes("cats", path, revision=revision),
    "get_file": lambda client, path, revision: client.get_file("cats", path, revision=revision).read_bytes(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_unchanged_entry_of_a_pinned_revision_is_read(
    client: DatasetHubClient, cats: Path, read: Callable[[DatasetHubClient, str, str], object]
) -> None:
    revision = client.get_revision("cats")
    change(cats)
    assert read(client, "b/d", revision) == b"d"


@pytest.mark.parametrize("is_seen", [True, False], ids=["hub has seen it", "hub has not seen it"])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_changed_entry_of_a_pinned_revision_is_a_conflict_that_names_it(
    client: DatasetHubClient, cats: Path, read: Callable[[DatasetHubClient, str, str], object], is_seen: bool
) -> None:
    revision = client.get_revision("cats")
    change(cats)
    if is_seen:
        client.get_manifest("cats")
    with pytest.raises(ConflictError, match=r"'a'|cats/a"):
        read(client, "a", revision)


def test_entry_that_the_revision_does_not_have_is_not_found(client: DatasetHubClient, cats: Path) -> None:
    revision = client.get_revision("cats")
    change(cats)
    with pytest.raises(EntryNotFoundError, match="new"):
        client.get_file_bytes("cats", "new", revision=revision)


def test_pinned_dataset_is_downloaded_from_the_cache_after_it_changed(client: DatasetHubClient, cats: Path) -> None:
    revision = client.get_revision("cats")
    before = [path.read_bytes() for path in client.download_dataset("cats", revision=revision)]
    change(cats)
    assert [path.read_bytes() for path in client.download_dataset("cats", revision=revision)] == before


def test_unknown_revision_says_how_to_list_them(client: DatasetHubClient) -> None:
    with pytest.raises(RevisionNotFoundError, match="list_revisions"):
        client.get_manifest("cats", revision="0" * 32)


def test_unmounted_disk_is_an_error_at_once(client: DatasetHubClient, cats: Path, tmp_path: Path) -> None:
    client.get_revision("cats")
    cats.rename(tmp_path / "disk")
    cats.mkdir()
    with pytest.raises(HubUnavailableError, match="mounted"):
        client.get_manifest("cats")
