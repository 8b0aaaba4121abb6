"""The SDK on a hub that knows digests: it holds downloads against them, and notices what nothing else shows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsx import ConflictError, DatasetHubClient
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import wait_until

OLD_NS = 10**18


@pytest.fixture
def cats(served: Path) -> Path:
    """A dataset whose entries look old."""
    write_files(served / "cats", {"a": b"a" * 5000, "b": b"b"})
    for name in ("a", "b"):
        os.utime(served / "cats" / name, ns=(OLD_NS, OLD_NS))
    return served / "cats"


@pytest.fixture
def hub(cats: Path, start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub that knows all digests."""
    hub = start_hub()
    wait_until(lambda: hub.get("/datasets/cats").json()["digest_share"] == 1, "all digests are known")
    return hub


@pytest.fixture
def client(hub: HubProcess, tmp_path: Path) -> Iterator[DatasetHubClient]:
    """A client with a cache."""
    with DatasetHubClient(hub.url, hub.key, cache_dir=tmp_path / "cache") as client:
        yield client


def rewrite_in_place(path: Path) -> None:
    """Change bytes past the first kilobyte, and hide it: size and mtime stay."""
    with path.open("r+b") as file:
        file.seek(4000)
        file.write(b"X")
    os.utime(path, ns=(OLD_NS, OLD_NS))


def test_manifest_has_the_digests_of_the_files(cats: Path, client: DatasetHubClient) -> None:
    manifest = client.load_manifest("cats")
    expected = {name: hashlib.sha256((cats / name).read_bytes()).hexdigest() for name in ("a", "b")}
    assert {entry.path: entry.digest for entry in manifest} == expected


def test_download_is_what_the_digest_says(cats: Path, client: DatasetHubClient) -> None:
    assert client.get_file("cats", "a").read_bytes() == (cats / "a").read_bytes()


def test_pinned_read_of_an_entry_rewritten_in_place_is_a_conflict(cats: Path, client: DatasetHubClient) -> None:
    revision = client.get_revision("cats")
    client.load_manifest("cats", revision=revision)
    rewrite_in_place(cats / "a")
    with pytest.raises(ConflictError, match="cats/a"):
        client.get_file("cats", "a", revision=revision)
    with pytest.raises(ConflictError, match="cats/a"):
        client.get_file_bytes("cats", "a", revision=revision)


def test_cached_entry_rewritten_in_place_is_fetched_anew_once_its_digest_is_known(
    cats: Path, hub: HubProcess, client: DatasetHubClient
) -> None:
    client.get_manifest("cats")
    client.get_file("cats", "a")
    rewrite_in_place(cats / "a")
    assert hub.get("/datasets/cats").json()["digest_share"] < 1
    wait_until(lambda: hub.get("/datasets/cats").json()["digest_share"] == 1, "the new digest is known")
    client.get_manifest("cats")
    assert client.get_file("cats", "a").read_bytes() == (cats / "a").read_bytes()
