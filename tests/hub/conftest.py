"""What the hub's tests share: requests byte by byte, hubs that are read only, hubs inside this process."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn

from dsx_server import Settings
from dsx_server.app import create_app
from dsx_server.storage import Storage
from tests.conftest import KEY, HubProcess

WAIT_S = 20


class Answer(NamedTuple):
    """One HTTP answer as it came over the wire; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_whole(self) -> bool:
        """Whether as many bytes came as were declared."""
        return len(self.body) == int(self.headers["content-length"])


class InProcessHub:
    """The hub's application in a thread of this process, on a real socket."""

    def __init__(self, settings: Settings, storage: Storage | None = None) -> None:
        self.key = settings.api_key
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(settings, storage), log_config=None, access_log=False, ws="none", server_header=False
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the hub."""
        self._server.should_exit = True
        self._thread.join(WAIT_S)


def connect(hub: HubProcess | InProcessHub) -> socket.socket:
    """Open a connection to a hub."""
    return socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT_S)


def format_request(
    target: bytes,
    *,
    method: bytes = b"GET",
    key: str | None = KEY,
    headers: Sequence[bytes] = (),
    close: bool = True,
) -> bytes:
    """Write a request; ``headers`` are whole lines, sent as they are."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: hub", *headers]
    if key is not None:
        lines.append(b"Authorization: Bearer " + key.encode())
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def receive_all(connection: socket.socket) -> bytes:
    """Read until the other side closes; a reset counts as closing."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(1 << 20):
            received += block
    return bytes(received)


def parse_answer(raw: bytes) -> Answer:
    """Read an answer that ends where the connection ended."""
    assert raw, "the hub closed the connection without an answer"
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(status_line.split(" ")[1]), headers, body)


def ask(
    hub: HubProcess | InProcessHub,
    target: bytes,
    *,
    method: bytes = b"GET",
    key: str | None = KEY,
    headers: Sequence[bytes] = (),
) -> Answer:
    """Send one request on a connection of its own and return the answer."""
    with connect(hub) as connection:
        connection.sendall(format_request(target, method=method, key=key, headers=headers))
        return parse_answer(receive_all(connection))


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    """Wait for something that gives no sign of its own, for at most `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def mounted_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a small disk of its own at ``folder``, which a test may unmount itself."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def shared_served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The served folder of `shared_hub`."""
    folder = tmp_path_factory.mktemp("shared") / "served"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory, shared_served: Path) -> Iterator[HubProcess]:
    """One hub for all tests of a module that do not stop it; each uses datasets of its own."""
    hub = HubProcess(shared_served, tmp_path_factory.mktemp("state"))
    yield hub
    hub.kill()


@pytest.fixture
def start_in_process(tmp_path: Path, served: Path) -> Iterator[Callable[[Storage], InProcessHub]]:
    """Start hubs of this process on ``served``, with a storage of the test's own; they end with the test."""
    hubs: list[InProcessHub] = []

    def start(storage: Storage) -> InProcessHub:
        settings = Settings(api_key=KEY, dataset_path=served, state_dir=tmp_path / "in-process-state")
        hubs.append(InProcessHub(settings, storage))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.stop()
