"""A slow disk holds up its own dataset, not the others, and not the end of the process."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import uvicorn

from dsx import DatasetHubClient
from dsx_server import Settings, create_app
from dsx_server.index import WaitingRoom
from dsx_server.routes import access
from dsx_server.storage import Listing, LocalStorage
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import wait_until

HEADERS = {"Authorization": "Bearer k"}


class SlowStorage(LocalStorage):
    """Local folders of which the walk of ``slow`` waits until it is let go."""

    def __init__(self, served: Path) -> None:
        super().__init__(served)
        self.walks = 0
        self.began = threading.Event()
        self.go_on = threading.Event()

    def walk(self, dataset: str, folder: str = "") -> Iterator[Listing]:
        if dataset == "slow":
            self.walks += 1
            self.began.set()
            self.go_on.wait(60)
        yield from super().walk(dataset, folder)


@pytest.fixture
def storage(served: Path) -> SlowStorage:
    """A slow dataset and a quick one."""
    write_files(served, {"slow/a": b"a", "quick/b": b"b"})
    return SlowStorage(served)


@pytest.fixture
def url(storage: SlowStorage, served: Path, tmp_path: Path) -> Iterator[str]:
    """A hub on the slow storage."""
    app = create_app(Settings(api_key="k", dataset_path=served, state_dir=tmp_path / "state"), storage)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    storage.go_on.set()
    server.should_exit = True
    thread.join()
    app.close()


def test_waiting_for_a_slow_scan_holds_up_nobody_else(
    url: str, storage: SlowStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WaitingRoom.load.__kwdefaults__, "patience_s", 60.0)  # a slow machine shall not matter here
    monkeypatch.setitem(access.load.__kwdefaults__, "patience_s", 60.0)
    with ThreadPoolExecutor(60) as pool:
        waiting = [pool.submit(requests.get, f"{url}/manifest/slow", headers=HEADERS, timeout=60) for _ in range(60)]
        assert storage.began.wait(30)
        for path in ("/datasets", "/manifest/quick", "/datasets/quick", "/file/slow/a", "/health"):
            assert requests.get(url + path, headers=HEADERS, timeout=30).status_code == 200
        assert not any(future.done() for future in waiting)
        storage.go_on.set()
        assert {future.result().status_code for future in waiting} == {200}
    assert storage.walks <= 60 // 10


def test_request_that_comes_during_a_scan_is_answered_from_a_later_one(
    url: str, storage: SlowStorage, served: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(requests.get, f"{url}/manifest/slow", headers=HEADERS, timeout=60)
        assert storage.began.wait(30)
        write_files(served, {"slow/new": b"n"})
        second = pool.submit(requests.get, f"{url}/manifest/slow", headers=HEADERS, timeout=60)
        storage.go_on.set()
        assert first.result().status_code == 200
        assert [row["path"] for row in second.result().json()] == ["a", "new"]


def test_first_scan_that_takes_long_is_unavailable_with_progress(url: str, storage: SlowStorage) -> None:
    answer = requests.get(f"{url}/manifest/slow", headers=HEADERS, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert "first time" in answer.json()["detail"]


def test_description_during_the_first_scan_says_so(url: str, storage: SlowStorage) -> None:
    info = requests.get(f"{url}/datasets/slow", headers=HEADERS, timeout=60).json()
    assert (info["scanning"], info["revision"], info["entries"]) == (True, None, 0)
    storage.go_on.set()


def test_sdk_waits_for_the_first_scan(url: str, storage: SlowStorage) -> None:
    with DatasetHubClient(url, "k", cache_dir=None) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get_manifest, "slow")
        assert storage.began.wait(30)
        # The hub answers 503 after 10 s: only then it is let go.
        assert requests.get(f"{url}/manifest/slow", headers=HEADERS, timeout=60).status_code == 503
        storage.go_on.set()
        assert [row["path"] for row in waiting.result(60)] == ["a"]


def test_long_scan_of_a_known_dataset_is_answered_from_its_newest_revision(
    url: str, storage: SlowStorage, served: Path
) -> None:
    storage.go_on.set()
    before = requests.get(f"{url}/manifest/slow", headers=HEADERS, timeout=60).json()
    storage.go_on.clear()
    write_files(served, {"slow/new": b"n"})
    assert requests.get(f"{url}/manifest/slow", headers=HEADERS, timeout=60).json() == before
    assert requests.get(f"{url}/datasets/slow", headers=HEADERS, timeout=60).json()["scanning"] is True
    storage.go_on.set()
    wait_until(
        lambda: len(requests.get(f"{url}/manifest/slow", headers=HEADERS, timeout=60).json()) == 2,
        "the scan that took long has ended",
    )


def test_hashing_a_huge_entry_does_not_keep_the_process(served: Path, hub: HubProcess) -> None:
    (served / "big").mkdir()
    with (served / "big" / "huge").open("wb") as file:
        os.truncate(file.fileno(), 200 * 1024**3)  # sparse: it takes minutes to hash and no room
    with socket.create_connection(("127.0.0.1", hub.port)) as connection:
        request = "HEAD /file/big/huge HTTP/1.1\r\nHost: x\r\nWant-Repr-Digest: sha-256=10\r\n"
        connection.sendall(f"{request}Authorization: Bearer {hub.key}\r\n\r\n".encode())
        assert requests.get(f"{hub.url}/health", timeout=10).status_code == 200
        began = time.monotonic()
        assert hub.stop() == 0
    assert time.monotonic() - began < 12
    assert "Traceback" not in hub.log


def test_hashing_ends_when_nobody_waits_for_it(served: Path, hub: HubProcess) -> None:
    (served / "big").mkdir()
    with (served / "big" / "huge").open("wb") as file:
        os.truncate(file.fileno(), 200 * 1024**3)
    for _ in range(40):  # more than there are threads
        with socket.create_connection(("127.0.0.1", hub.port)) as connection:
            request = "HEAD /file/big/huge HTTP/1.1\r\nHost: x\r\nWant-Repr-Digest: sha-256=10\r\n"
            connection.sendall(f"{request}Authorization: Bearer {hub.key}\r\n\r\n".encode())
    write_files(served, {"cats/a": b"a"})
    assert hub.get("/file/cats/a").content == b"a"
