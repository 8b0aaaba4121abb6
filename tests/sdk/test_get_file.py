"""``get_file``: where files lie, when the hub is asked, what happens to files that are not as they should be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import (
    CacheDisabledError,
    CacheError,
    DatasetHubClient,
    EntryNotFoundError,
    HubUnreachableError,
)

from .conftest import Dataset, files_below, leftovers, shorten_waits
from .proxy import Proxy
from .scripted import HonestScript, ScriptedHub

LONG = bytes(range(256)) * 20  # longer than what the head hash covers
SIZES = [0, 1, 1023, 1024, 1025, 5120, 256 * 1024 + 1, 3_000_000]

Connect = Callable[..., DatasetHubClient]
Honest = tuple[ScriptedHub, HonestScript]


@pytest.fixture
def honest(start_honest: Callable[..., Honest]) -> Honest:
    """A scripted hub with one long and one short entry, and its script."""
    return start_honest({"a/long": LONG, "a/short": b"short"})


@pytest.fixture
def vouched(connect: Connect, honest: Honest, cache_dir: Path) -> DatasetHubClient:
    """A client that knows the manifest and has both files in its cache; the hub's record is empty."""
    client = connect(honest[0].url)
    client.download_dataset("cats")
    honest[0].requests.clear()
    return client


def test_path_is_the_one_of_the_contract(client: DatasetHubClient, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write({"train/img_001.jpg": LONG})
    assert client.get_file(dataset.name, "train/img_001.jpg") == cache_dir / dataset.name / "train" / "img_001.jpg"


def test_path_of_a_relative_cache_is_relative(
    connect: Connect, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset.write({"train/img_001.jpg": LONG})
    local = connect(dataset.url, cache_dir="./cache").get_file(dataset.name, "train/img_001.jpg")
    assert local == Path("cache", dataset.name, "train", "img_001.jpg")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("knows_manifest", [True, False])
def test_bytes_are_the_hubs(client: DatasetHubClient, dataset: Dataset, size: int, knows_manifest: bool) -> None:
    data = os.urandom(size)
    dataset.write({"x": data})
    if knows_manifest:
        client.get_manifest(dataset.name)
    assert client.get_file(dataset.name, "x").read_bytes() == data


def test_nothing_is_left_of_a_download_but_the_file(
    client: DatasetHubClient, dataset: Dataset, cache_dir: Path
) -> None:
    dataset.write({"x": LONG})
    client.get_file(dataset.name, "x")
    assert leftovers(cache_dir) == []


@pytest.mark.parametrize("same_client", [True, False])
def test_vouched_file_needs_no_request(
    vouched: DatasetHubClient, connect: Connect, honest: Honest, same_client: bool
) -> None:
    client = vouched if same_client else connect(honest[0].url)
    assert client.get_file("cats", "a/long").read_bytes() == LONG
    assert honest[0].requests == []


def test_vouched_file_needs_no_hub(vouched: DatasetHubClient, honest: Honest) -> None:
    honest[0].stop()
    assert vouched.get_file("cats", "a/long").read_bytes() == LONG


def test_entry_that_a_newer_manifest_names_otherwise_is_fetched_again(
    vouched: DatasetHubClient, honest: Honest
) -> None:
    honest[1].files["a/long"] = b"new" * 1000
    vouched.get_manifest("cats")
    assert vouched.get_file("cats", "a/long").read_bytes() == b"new" * 1000


def test_change_of_same_size_and_same_head_is_fetched_again(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"x": LONG + b"1"})
    client.download_dataset(dataset.name)
    dataset.write({"x": LONG + b"2"})
    client.get_manifest(dataset.name)
    assert client.get_file(dataset.name, "x").read_bytes() == LONG + b"2"


def test_without_a_manifest_the_hub_is_asked_whether_the_file_changed(connect: Connect, honest: Honest) -> None:
    client = connect(honest[0].url)
    client.get_file("cats", "a/long")
    client.get_file("cats", "a/long")
    assert ["if-none-match" in request.headers for request in honest[0].of("GET", "/file/")] == [False, True]


def test_without_a_manifest_an_unchanged_file_is_not_sent_again(
    client: DatasetHubClient, connect: Connect, dataset: Dataset, start_proxy: Callable[[int], Proxy]
) -> None:
    dataset.write({"x": LONG})
    client.get_file(dataset.name, "x")
    proxy = start_proxy(dataset.port)
    proxy.hold_after(len(LONG) // 2)
    assert connect(proxy.url).get_file(dataset.name, "x").read_bytes() == LONG
    assert len(proxy.file_requests) == 1
    assert not proxy.held.is_set()


def test_without_a_manifest_a_changed_file_is_fetched(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"x": LONG})
    client.get_file(dataset.name, "x")
    dataset.write({"x": LONG[::-1]})
    assert client.get_file(dataset.name, "x").read_bytes() == LONG[::-1]


def test_without_a_manifest_and_hub_the_cached_file_is_given_with_a_warning(
    connect: Connect, honest: Honest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch)
    client = connect(honest[0].url)
    client.get_file("cats", "a/long")
    honest[0].stop()
    with pytest.warns(UserWarning, match="cats/a/long"):
        assert client.get_file("cats", "a/long").read_bytes() == LONG


def test_unreachable_hub_is_an_error_for_a_file_that_is_not_cached(
    connect: Connect, honest: Honest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, first_contact_s=0.3)
    honest[0].stop()
    with pytest.raises(HubUnreachableError, match=honest[0].url):
        connect(honest[0].url).get_file("cats", "a/long")


@pytest.mark.parametrize("path", ["a/long", "a/short"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.unlink(),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x7f"),
        lambda file: file.write_bytes(b"\x7f" + file.read_bytes()[1:]),
        lambda file: file.write_bytes(file.read_bytes() + b"more"),
        lambda file: shutil.rmtree(file.parent),
    ],
    ids=["deleted", "truncated", "emptied", "last byte", "first byte", "longer", "folder deleted"],
)
def test_harmed_copy_is_made_whole(
    vouched: DatasetHubClient, honest: Honest, harm: Callable[[Path], object], path: str
) -> None:
    harm(vouched.get_file("cats", path))
    assert vouched.get_file("cats", path).read_bytes() == honest[1].files[path]


def test_touched_file_is_checked_on_the_disk_not_fetched(vouched: DatasetHubClient, honest: Honest) -> None:
    os.utime(vouched.get_file("cats", "a/long"), ns=(1, 1))
    assert vouched.get_file("cats", "a/long").read_bytes() == LONG
    assert honest[0].requests == []


@pytest.mark.parametrize("knows_manifest", [True, False])
@pytest.mark.parametrize("path", ["a/long", "a/short"])
def test_file_copied_in_by_hand_is_verified_and_used(
    connect: Connect, honest: Honest, cache_dir: Path, path: str, knows_manifest: bool
) -> None:
    own = cache_dir / "cats" / path
    own.parent.mkdir(parents=True)
    own.write_bytes(honest[1].files[path])
    client = connect(honest[0].url)
    if knows_manifest:
        client.get_manifest("cats")
    assert client.get_file("cats", path) == own
    assert honest[0].of("GET", "/file/") == []


@pytest.mark.parametrize("size", [10, 5000, 2_000_000])
def test_file_copied_in_by_hand_is_not_sent_by_the_real_hub(
    connect: Connect, dataset: Dataset, cache_dir: Path, start_proxy: Callable[[int], Proxy], size: int
) -> None:
    own = cache_dir / dataset.name / "x"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"1" * size)
    dataset.write({"x": b"1" * size})
    proxy = start_proxy(dataset.port)
    client = connect(proxy.url)
    client.get_manifest(dataset.name)
    assert client.get_file(dataset.name, "x") == own
    assert proxy.file_requests == []


def test_adopted_file_needs_no_second_look(connect: Connect, honest: Honest, cache_dir: Path) -> None:
    own = cache_dir / "cats" / "a" / "long"
    own.parent.mkdir(parents=True)
    own.write_bytes(LONG)
    client = connect(honest[0].url)
    client.download_dataset("cats")
    honest[0].requests.clear()
    client.get_file("cats", "a/long")
    assert honest[0].requests == []


def test_clear_cache_leaves_an_adopted_file(connect: Connect, honest: Honest, cache_dir: Path) -> None:
    own = cache_dir / "cats" / "a" / "long"
    own.parent.mkdir(parents=True)
    own.write_bytes(LONG)
    client = connect(honest[0].url)
    client.download_dataset("cats")
    client.clear_cache()
    assert files_below(cache_dir / "cats") == {"a/long": LONG}


@pytest.mark.parametrize("knows_manifest", [True, False])
@pytest.mark.parametrize(
    "own_bytes", [b"mine", LONG[:-1] + b"\x7f", LONG + b"more"], ids=["other", "same size", "longer"]
)
def test_foreign_file_in_the_way_stays_as_it_was(
    connect: Connect, honest: Honest, cache_dir: Path, own_bytes: bytes, knows_manifest: bool
) -> None:
    own = cache_dir / "cats" / "a" / "long"
    own.parent.mkdir(parents=True)
    own.write_bytes(own_bytes)
    client = connect(honest[0].url)
    if knows_manifest:
        client.get_manifest("cats")
    with pytest.raises(CacheError, match="in the way"):
        client.get_file("cats", "a/long")
    assert own.read_bytes() == own_bytes


def test_adopted_file_that_the_hub_has_otherwise_now_is_in_the_way(
    connect: Connect, honest: Honest, cache_dir: Path
) -> None:
    own = cache_dir / "cats" / "a" / "long"
    own.parent.mkdir(parents=True)
    own.write_bytes(LONG)
    client = connect(honest[0].url)
    client.download_dataset("cats")
    honest[1].files["a/long"] = LONG[::-1]
    client.get_manifest("cats")
    with pytest.raises(CacheError, match="in the way"):
        client.get_file("cats", "a/long")
    assert own.read_bytes() == LONG


def test_foreign_folder_in_the_way_is_an_error(connect: Connect, honest: Honest, cache_dir: Path) -> None:
    (cache_dir / "cats" / "a" / "long").mkdir(parents=True)
    with pytest.raises(CacheError, match="long"):
        connect(honest[0].url).get_file("cats", "a/long")


def test_foreign_file_where_a_folder_should_be_is_an_error(connect: Connect, honest: Honest, cache_dir: Path) -> None:
    (cache_dir / "cats").mkdir(parents=True)
    (cache_dir / "cats" / "a").write_bytes(b"mine")
    with pytest.raises(CacheError, match="cats"):
        connect(honest[0].url).get_file("cats", "a/long")
    assert (cache_dir / "cats" / "a").read_bytes() == b"mine"


def test_entry_that_became_a_folder_is_fetched(vouched: DatasetHubClient, honest: Honest) -> None:
    del honest[1].files["a/long"]
    honest[1].files["a/long/1"] = b"one"
    vouched.get_manifest("cats")
    assert vouched.get_file("cats", "a/long/1").read_bytes() == b"one"


def test_folder_that_became_an_entry_is_fetched(vouched: DatasetHubClient, honest: Honest) -> None:
    honest[1].files = {"a": b"a file now"}
    vouched.get_manifest("cats")
    vouched.clear_cache("cats")
    assert vouched.get_file("cats", "a").read_bytes() == b"a file now"


def test_without_a_cache_folder_it_is_a_value_error_that_names_cache_dir(connect: Connect, honest: Honest) -> None:
    with pytest.raises(ValueError, match="cache_dir"):
        connect(honest[0].url, cache_dir=None).get_file("cats", "a/long")


def test_without_a_cache_folder_the_error_is_of_our_tree(connect: Connect, honest: Honest) -> None:
    with pytest.raises(CacheDisabledError, match="get_file_bytes"):
        connect(honest[0].url, cache_dir=None).get_file("cats", "a/long")


def test_cache_folder_that_is_removed_meanwhile_is_made_again(
    vouched: DatasetHubClient, honest: Honest, cache_dir: Path
) -> None:
    shutil.rmtree(cache_dir)
    assert vouched.get_file("cats", "a/long").read_bytes() == LONG


def test_file_that_the_dataset_lacks_is_named(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"x": b"1"})
    with pytest.raises(EntryNotFoundError, match="y"):
        client.get_file(dataset.name, "y")
