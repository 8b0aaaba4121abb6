"""Mistakes that people make, and what they are told."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dsx._ledger
from dsx import CacheError, DatasetHubClient, DsxError, HubError, InvalidRequestError
from tests.conftest import KEY, HubProcess, write_files


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[str]:
    """A web server that is no hub."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


CALLS: dict[str, Callable[[DatasetHubClient], object]] = {
    "list_datasets": lambda client: client.list_datasets(),
    "get_manifest": lambda client: client.get_manifest("cats"),
    "get_file_bytes": lambda client: client.get_file_bytes("cats", "a"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_web_server_that_is_no_hub_is_named_as_such(other_server: str, call: Callable[..., object]) -> None:
    with pytest.raises(HubError, match=f"{other_server} is not a DSX hub.*base_url"):
        call(DatasetHubClient(other_server, KEY, cache_dir=None))


def test_path_too_many_in_base_url_is_named(hub: HubProcess) -> None:
    with pytest.raises(DsxError, match="base_url"):
        DatasetHubClient(hub.url + "/docs", KEY, cache_dir=None).list_datasets()


def test_https_to_a_hub_without_it_says_http(hub: HubProcess) -> None:
    with pytest.raises(ConnectionError, match=r"http://"):
        DatasetHubClient(hub.url.replace("http://", "https://"), KEY, cache_dir=None).list_datasets()


def test_empty_cache_dir_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="cache_dir"):
        DatasetHubClient("http://127.0.0.1:9", KEY, cache_dir="")


def test_home_in_cache_dir_is_the_home(
    served: Path, hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_files(served, {"cats/a": b"a"})
    with DatasetHubClient(hub.url, KEY, cache_dir="~/cache") as client:
        assert client.get_file("cats", "a") == tmp_path / "home" / "cache" / "cats" / "a"


def test_dataset_with_a_very_long_name_is_read(served: Path, hub: HubProcess, tmp_path: Path) -> None:
    name = "d" * 250
    write_files(served, {f"{name}/a": b"a"})
    with DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "cache") as client:
        assert [len(client.get_manifest(name)) for _ in range(2)] == [1, 1]
        assert client.get_file(name, "a").read_bytes() == b"a"


def test_own_file_that_is_the_entry_is_used_again_after_clear_cache(
    served: Path, hub: HubProcess, tmp_path: Path
) -> None:
    write_files(served, {"cats/a": b"a"})
    write_files(tmp_path / "cache", {"cats/a": b"a"})
    with DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "cache") as client:
        client.get_manifest("cats")
        client.get_file("cats", "a")
        client.clear_cache()
        assert client.get_file("cats", "a").read_bytes() == b"a"


@pytest.mark.parametrize("reason", ["damaged", "network disk"])
def test_own_file_survives_a_lost_ledger(
    served: Path, hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    own = tmp_path / "cache" / "cats" / "labels"
    write_files(served, {"cats/labels": b"the hub's"})
    write_files(tmp_path / "cache", {"cats/labels": b"my own precious labels"})
    with DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "cache") as client:
        client.get_manifest("cats")
    if reason == "damaged":
        (tmp_path / "cache" / ".dsx" / "ledger.sqlite").write_bytes(b"damaged" * 1000)
    else:
        monkeypatch.setattr(dsx._ledger, "is_network_disk", lambda _: True)
    with DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "cache") as client:
        with pytest.raises(CacheError, match="in the way"):
            client.get_file("cats", "labels")
        client.clear_cache()
    assert own.read_bytes() == b"my own precious labels"
