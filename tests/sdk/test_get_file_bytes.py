"""``get_file_bytes``: the right bytes, and nothing on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import DatasetHubClient, EntryNotFoundError, IntegrityError, InvalidPathError

from .conftest import Dataset, files_below
from .scripted import HonestScript, Reply, Request, ScriptedHub, format_head

Connect = Callable[..., DatasetHubClient]


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 256 * 1024, 256 * 1024 + 1, 20_000_000])
def test_bytes_are_the_hubs(client: DatasetHubClient, dataset: Dataset, size: int) -> None:
    data = os.urandom(size)
    dataset.write({"x": data})
    assert client.get_file_bytes(dataset.name, "x") == data


def test_result_is_bytes(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"x": b"1", "large": b"1" * 3_000_000})
    assert [type(client.get_file_bytes(dataset.name, name)) for name in ("x", "large")] == [bytes, bytes]


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_nothing_is_written(
    connect: Connect, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset.write({"x": b"1" * size})
    client = connect(dataset.url, cache_dir="./cache")
    before = files_below(tmp_path)
    client.get_file_bytes(dataset.name, "x")
    assert files_below(tmp_path) == before
    assert not Path("cache").exists()


def test_no_cache_folder_is_needed(connect: Connect, dataset: Dataset) -> None:
    dataset.write({"x": b"1"})
    assert connect(dataset.url, cache_dir=None).get_file_bytes(dataset.name, "x") == b"1"


def test_change_on_the_hub_is_seen_at_once(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"x": b"1"})
    client.get_file(dataset.name, "x")
    dataset.write({"x": b"2"})
    assert client.get_file_bytes(dataset.name, "x") == b"2"


def test_small_entry_takes_one_request(
    connect: Connect, start_honest: Callable[..., tuple[ScriptedHub, HonestScript]]
) -> None:
    hub, _ = start_honest({"x": b"1" * 5000})
    connect(hub.url).get_file_bytes("cats", "x")
    assert [request.method for request in hub.requests] == ["GET"]


@pytest.mark.parametrize("name", ["n" * 255, "a b", "#?%&+", "%2e%2e", "new\nline", "ü/\N{GRINNING FACE}"], ids=ascii)
def test_any_name(client: DatasetHubClient, dataset: Dataset, name: str) -> None:
    dataset.write({name: b"named"})
    assert client.get_file_bytes(dataset.name, name) == b"named"


def test_file_that_the_dataset_lacks_is_named(client: DatasetHubClient, dataset: Dataset) -> None:
    with pytest.raises(EntryNotFoundError, match=r"missing\.png"):
        client.get_file_bytes(dataset.name, "missing.png")


@pytest.mark.parametrize("path", ["", "..", "/etc/passwd", "a/../../b", "a\\b"])
def test_path_that_leaves_the_dataset_is_refused(client: DatasetHubClient, dataset: Dataset, path: str) -> None:
    with pytest.raises(InvalidPathError):
        client.get_file_bytes(dataset.name, path)


def test_not_modified_without_having_been_asked_is_not_an_empty_file(
    connect: Connect, start_honest: Callable[..., tuple[ScriptedHub, HonestScript]]
) -> None:
    hub, script = start_honest({"x": b"1" * 5000})

    def send_not_modified(_request: Request, _data: bytes) -> Reply:
        return Reply(format_head(304, {"ETag": '"1"'}))

    script.send_entry = send_not_modified  # type: ignore[method-assign]
    with pytest.raises(IntegrityError):
        connect(hub.url).get_file_bytes("cats", "x")
