"""``DSX_OFFLINE=1``: what is in the cache is enough, and what is not is named."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import DatasetHubClient, DownloadError, InvalidRequestError, OfflineError

from .conftest import Dataset
from .proxy import Proxy

FILES = {"a": b"1" * 100, "deep/b": b"2" * 20_000, "c": b"3"}

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def full(connect: Connect, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A dataset that the cache has; offline from now on."""
    dataset.write(FILES)
    connect(dataset.url).download_dataset(dataset.name)
    monkeypatch.setenv("DSX_OFFLINE", "1")
    return dataset


@pytest.fixture
def proxy(full: Dataset, start_proxy: Callable[[int], Proxy]) -> Proxy:
    """Sees whether anybody asks the hub."""
    return start_proxy(full.port)


def test_everything_comes_from_the_cache(connect: Connect, full: Dataset, proxy: Proxy, cache_dir: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hub = connect(proxy.url)
        assert hub.list_datasets() == [full.name]
        assert [row["path"] for row in hub.get_manifest(full.name)] == sorted(FILES)
        assert {path: hub.get_file_bytes(full.name, path) for path in FILES} == FILES
        assert hub.get_file(full.name, "a") == cache_dir / full.name / "a"
        assert dict(hub.iter_file_bytes(full.name, list(FILES))) == FILES
        assert hub.read_ranges(full.name, [("deep/b", 5, 10), ("a", 90, 1000), ("c", 7, 9)]) == [
            b"22222",
            b"1" * 10,
            b"",
        ]
        assert {sample.path: sample.data for sample in hub.stream(full.name, shuffle=True)} == FILES
        assert {sample.path: sample.data for sample in hub.stream(full.name, cache=True)} == FILES
        assert len(hub.download_dataset(full.name)) == len(FILES)
    assert proxy.requests == []


def test_neither_hub_nor_key_is_needed(full: Dataset, cache_dir: Path) -> None:
    with DatasetHubClient(cache_dir=cache_dir) as hub:
        assert hub.get_file_bytes(full.name, "c") == b"3"


def test_what_is_missing_is_named(connect: Connect, full: Dataset, proxy: Proxy, cache_dir: Path) -> None:
    (cache_dir / full.name / "deep" / "b").unlink()
    hub = connect(proxy.url)
    for call in (
        lambda: hub.get_file(full.name, "deep/b"),
        lambda: hub.get_file_bytes(full.name, "deep/b"),
        lambda: list(hub.iter_file_bytes(full.name, ["a", "deep/b"])),
        lambda: list(hub.stream(full.name)),
        lambda: list(hub.stream(full.name, cache=True)),
    ):
        with pytest.raises(OfflineError, match=r"DSX_OFFLINE is set, and 'cats\d+/deep/b' is not in the cache"):
            call()
    with pytest.raises(OfflineError, match="the manifest of dataset 'dogs' is not in the cache"):
        hub.get_manifest("dogs")
    with pytest.raises(OfflineError, match="DSX_OFFLINE is set"):
        hub.list_revisions(full.name)
    with pytest.raises(DownloadError) as info:
        hub.download_dataset(full.name)
    assert list(info.value.failures) == ["deep/b"]
    assert proxy.requests == []


def test_wrong_bytes_in_the_cache_are_not_returned(connect: Connect, full: Dataset, cache_dir: Path) -> None:
    (cache_dir / full.name / "deep" / "b").write_bytes(b"x" * 20_000)
    with pytest.raises(OfflineError, match="deep/b"):
        connect(full.url).get_file_bytes(full.name, "deep/b")


def test_without_a_cache_nothing_is_there(connect: Connect, full: Dataset) -> None:
    with pytest.raises(OfflineError, match="manifest"):
        connect(full.url, cache_dir=None).get_manifest(full.name)


@pytest.mark.parametrize("said", ["0", "", "no"])
def test_switched_off_it_asks(said: str, connect: Connect, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.write(FILES)
    monkeypatch.setenv("DSX_OFFLINE", said)
    assert connect(dataset.url).get_file_bytes(dataset.name, "c") == b"3"


def test_another_value_is_refused(connect: Connect, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSX_OFFLINE", "maybe")
    with pytest.raises(InvalidRequestError, match="DSX_OFFLINE is 1 or 0"):
        connect(dataset.url)
