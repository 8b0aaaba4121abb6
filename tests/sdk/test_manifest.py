"""``get_manifest``: its rows, its one conditional request, its copies in the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import dsx._manifests
from dsx import CacheError, DatasetHubClient, DatasetNotFoundError, HubUnreachableError, IntegrityError

from .conftest import Dataset, files_below
from .proxy import Proxy
from .scripted import HonestScript, Reply, Request, ScriptedHub, md5_of_head

FILES = {"train/b.png": b"b" * 3000, "train/a.png": b"a", "empty": b"", "val/ü.png": bytes(range(256)) * 4}
ROWS = [{"path": path, "size": len(FILES[path]), "hash": md5_of_head(FILES[path])} for path in sorted(FILES)]

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def hub(start_honest: Callable[..., tuple[ScriptedHub, HonestScript]]) -> ScriptedHub:
    """A scripted hub that has `FILES`."""
    return start_honest(FILES)[0]


@pytest.fixture
def plain_file(cache_dir: Path) -> Path:
    """The contract's cached manifest."""
    return cache_dir / "cats_manifest.json"


@pytest.fixture
def columns_file(cache_dir: Path) -> Path:
    """The SDK's own copy."""
    return cache_dir / ".dsx" / "manifests" / "cats.json"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._manifests, "FIRST_CONTACT_S", 0.3)


def test_rows_are_those_of_the_contract(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write(FILES)
    assert client.get_manifest(dataset.name) == ROWS


def test_empty_dataset_has_an_empty_manifest(client: DatasetHubClient, dataset: Dataset) -> None:
    assert client.get_manifest(dataset.name) == []


def test_rows_are_the_callers_own(connect: Connect, hub: ScriptedHub) -> None:
    client = connect(hub.url)
    client.get_manifest("cats").clear()
    assert client.get_manifest("cats") == ROWS


def test_cached_manifest_is_the_plain_array(client: DatasetHubClient, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client.get_manifest(dataset.name)
    assert json.loads((cache_dir / f"{dataset.name}_manifest.json").read_bytes()) == ROWS


def test_all_else_that_is_kept_lies_below_the_private_folder(
    client: DatasetHubClient, dataset: Dataset, cache_dir: Path
) -> None:
    dataset.write(FILES)
    client.get_manifest(dataset.name)
    assert sorted(os.listdir(cache_dir)) == [".dsx", f"{dataset.name}_manifest.json"]


def test_first_call_makes_one_unconditional_request(connect: Connect, hub: ScriptedHub) -> None:
    connect(hub.url).get_manifest("cats")
    assert ["if-none-match" in request.headers for request in hub.requests] == [False]


@pytest.mark.parametrize("same_client", [True, False])
def test_next_call_makes_one_conditional_request(connect: Connect, hub: ScriptedHub, same_client: bool) -> None:
    first = connect(hub.url)
    first.get_manifest("cats")
    second = first if same_client else connect(hub.url)
    assert second.get_manifest("cats") == ROWS
    assert ["if-none-match" in request.headers for request in hub.requests] == [False, True]


def test_unchanged_manifest_is_not_sent_again(
    client: DatasetHubClient, connect: Connect, dataset: Dataset, start_proxy: Callable[[int], Proxy]
) -> None:
    dataset.write({f"{number:05}": b"x" for number in range(200)})
    client.get_manifest(dataset.name)
    proxy = start_proxy(dataset.port)
    proxy.hold_after(4096)  # the 200 rows are more than that, even compressed
    assert len(connect(proxy.url).get_manifest(dataset.name)) == 200
    assert not proxy.held.is_set()


def test_change_on_the_hub_is_seen(client: DatasetHubClient, dataset: Dataset) -> None:
    dataset.write({"a": b"1"})
    client.get_manifest(dataset.name)
    dataset.write({"a": b"2", "b": b"3"})
    assert client.get_manifest(dataset.name) == [
        {"path": "a", "size": 1, "hash": md5_of_head(b"2")},
        {"path": "b", "size": 1, "hash": md5_of_head(b"3")},
    ]


def test_unreachable_hub_gives_the_cached_manifest_with_a_warning(connect: Connect, hub: ScriptedHub) -> None:
    connect(hub.url).get_manifest("cats")
    hub.stop()
    with pytest.warns(UserWarning, match="cached manifest of dataset 'cats'"):
        assert connect(hub.url).get_manifest("cats") == ROWS


def test_warning_points_at_the_callers_line(connect: Connect, hub: ScriptedHub) -> None:
    client = connect(hub.url)
    client.get_manifest("cats")
    hub.stop()
    with pytest.warns(UserWarning, match="cached manifest") as caught:
        client.get_manifest("cats")
    assert caught[0].filename == __file__


def test_unreachable_hub_and_no_cached_manifest_is_an_error(connect: Connect, hub: ScriptedHub) -> None:
    hub.stop()
    with pytest.raises(HubUnreachableError, match=hub.url):
        connect(hub.url).get_manifest("cats")


def test_dataset_that_is_gone_is_an_error_in_spite_of_the_cached_manifest(
    client: DatasetHubClient, dataset: Dataset
) -> None:
    client.get_manifest(dataset.name)
    dataset.folder.rmdir()
    with pytest.raises(DatasetNotFoundError, match=dataset.name):
        client.get_manifest(dataset.name)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "binary": lambda _: b"\xff\x00" * 100,
    "another value": lambda _: b"[1, 2]",
    "deep": lambda _: b"[" * 100_000,
    "one digit": lambda data: data.replace(b"3000", b"3001"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("which", ["plain", "columns", "both"])
def test_damaged_copies_are_survived(
    connect: Connect,
    hub: ScriptedHub,
    plain_file: Path,
    columns_file: Path,
    damage: Callable[[bytes], bytes],
    which: str,
) -> None:
    connect(hub.url).get_manifest("cats")
    for name, file in (("plain", plain_file), ("columns", columns_file)):
        if which in (name, "both"):
            file.write_bytes(damage(file.read_bytes()))
    assert connect(hub.url).get_manifest("cats") == ROWS


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_plain_array_is_written_anew(
    connect: Connect, hub: ScriptedHub, plain_file: Path, damage: Callable[[bytes], bytes]
) -> None:
    connect(hub.url).get_manifest("cats")
    plain_file.write_bytes(damage(plain_file.read_bytes()))
    connect(hub.url).get_manifest("cats")
    assert json.loads(plain_file.read_bytes()) == ROWS


def test_missing_plain_array_is_written_anew(connect: Connect, hub: ScriptedHub, plain_file: Path) -> None:
    client = connect(hub.url)
    client.get_manifest("cats")
    plain_file.unlink()
    client.get_manifest("cats")
    assert json.loads(plain_file.read_bytes()) == ROWS


def test_plain_array_alone_serves_when_the_hub_is_away(connect: Connect, hub: ScriptedHub, columns_file: Path) -> None:
    connect(hub.url).get_manifest("cats")
    columns_file.unlink()
    hub.stop()
    with pytest.warns(UserWarning, match="cached manifest"):
        assert connect(hub.url).get_manifest("cats") == ROWS


def test_without_a_cache_nothing_is_written(
    connect: Connect,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset.write(FILES)
    before = files_below(tmp_path)
    assert connect(dataset.url, cache_dir=None).get_manifest(dataset.name) == ROWS
    assert files_below(tmp_path) == before


def test_without_a_cache_the_client_remembers(connect: Connect, hub: ScriptedHub) -> None:
    client = connect(hub.url, cache_dir=None)
    client.get_manifest("cats")
    assert client.get_manifest("cats") == ROWS
    assert ["if-none-match" in request.headers for request in hub.requests] == [False, True]


def test_own_file_with_the_name_of_the_manifest_is_not_lost(
    connect: Connect, hub: ScriptedHub, cache_dir: Path, plain_file: Path
) -> None:
    cache_dir.mkdir()
    plain_file.write_bytes(b"my own notes")
    assert connect(hub.url).get_manifest("cats") == ROWS
    assert b"my own notes" in files_below(cache_dir).values()


def test_own_file_put_there_after_clear_cache_is_not_lost(
    connect: Connect, hub: ScriptedHub, cache_dir: Path, plain_file: Path
) -> None:
    client = connect(hub.url)
    client.get_manifest("cats")
    client.clear_cache()
    plain_file.write_bytes(b"my own notes")
    client.get_manifest("cats")
    assert b"my own notes" in files_below(cache_dir).values()


def test_not_modified_without_having_been_asked_is_an_error(
    connect: Connect, start_scripted: Callable[..., ScriptedHub]
) -> None:
    hub = start_scripted(lambda _: Reply(b"HTTP/1.1 304 X\r\nConnection: close\r\n\r\n"))
    with pytest.raises(HubUnreachableError, match="cats"):
        connect(hub.url).get_manifest("cats")


def test_wrong_manifest_leaves_the_cached_one_as_it_was(
    connect: Connect,
    start_honest: Callable[..., tuple[ScriptedHub, HonestScript]],
    plain_file: Path,
    columns_file: Path,
) -> None:
    hub, script = start_honest(FILES)
    client = connect(hub.url)
    client.get_manifest("cats")
    before = plain_file.read_bytes(), columns_file.read_bytes()

    def send_html(_: Request) -> Reply:
        return Reply(b"HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: 6\r\n\r\n<html>")

    script.send_manifest = send_html  # type: ignore[method-assign]
    with pytest.raises(IntegrityError):
        client.get_manifest("cats")
    assert (plain_file.read_bytes(), columns_file.read_bytes()) == before


def test_cache_that_cannot_be_is_a_cache_error(connect: Connect, hub: ScriptedHub, cache_dir: Path) -> None:
    cache_dir.write_bytes(b"a file where the folder should be")
    with pytest.raises(CacheError, match="cache_dir"):
        connect(hub.url).get_manifest("cats")
    assert cache_dir.read_bytes() == b"a file where the folder should be"
