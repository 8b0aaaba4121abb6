"""A hub in its own process, and requests to it of which it is known when each part arrived."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

from measuring import BenchmarkError, wait_for
from memory import MemoryWatch

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = str(ROOT / "server" / "server.py")
KEY = "benchmark-key-0123456789"
HOST = "127.0.0.1"

START_S = 60.0
STOP_S = 20.0
READY_PAUSE_S = 0.002

SLOW_READ_BYTES = 16 * 1024
SLOW_RECEIVE_BYTES = 64 * 1024
"""What the system takes in for a slow reader before it reads; the hub is to feel how slow it is."""


class Answer(NamedTuple):
    """One answer, read to its end.

    Attributes:
        status: HTTP status.
        headers: Its headers, names in lower case.
        body: The body as it came, perhaps compressed.
        first_byte_s: From before the connection was made to the first byte of the body, or to the head without one.
        arrived: When the last byte had arrived, on the clock of `time.perf_counter`.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    first_byte_s: float
    arrived: float


class Hub:
    """``python server/server.py`` on one served folder; `run_hub` starts and stops it.

    Args:
        served: The served folder.
        state: Its state folder, and where it runs.
        variables: More of its variables.
        command: Another script that starts a hub and says where it listens, with its arguments.

    Attributes:
        listening: When it said that it listens, on the clock of `time.perf_counter`.
        start_s: How long that took since its process was started.
        port: Where it listens.
        lines: What it has logged.
    """

    def __init__(
        self, served: Path, state: Path, variables: Mapping[str, str], command: Sequence[str] = (LAUNCHER,)
    ) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        env |= {"DSX_API_KEY": KEY, "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(state)}
        env |= {"DSX_HOST": HOST, "DSX_PORT": "0", **variables}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=env,
            cwd=state,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []
        self.port = 0
        self.listening = 0.0
        self._said_port = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._said_port.wait(START_S)
        if not self.port:
            self.stop()
            raise BenchmarkError("the hub did not start: " + "".join(self.lines[-5:]).strip())
        self.start_s = self.listening - began

    @property
    def url(self) -> str:
        """Base URL for a client."""
        return f"http://{HOST}:{self.port}"

    def wait_until_ready(self) -> None:
        """Wait until it answers, with a request that has nothing to do with datasets."""

        def look() -> bool | None:
            try:
                return True if self.get("/health", timeout_s=START_S).status == 200 else None
            except OSError:
                return None

        wait_for(look, "the hub answers /health", limit_s=START_S, pause_s=READY_PAUSE_S)

    def get(
        self, path: str, *, timeout_s: float, headers: Mapping[str, str] | None = None, bytes_per_s: float = 0.0
    ) -> Answer:
        """Send one request on a connection of its own and read the answer to its end.

        Args:
            path: Path and query.
            timeout_s: Longest silence of the hub, in s.
            headers: More request headers.
            bytes_per_s: Read the body no faster than this; 0 for as fast as it comes.

        Raises:
            BenchmarkError: The body is shorter than declared.
        """
        began = time.perf_counter()
        with closing(HTTPConnection(HOST, self.port, timeout=timeout_s)) as connection:
            if bytes_per_s:
                connection.sock = _connect_narrow(self.port, timeout_s)
            connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}", **(headers or {})})
            response = connection.getresponse()
            declared = response.length
            parts = [response.read(1)]
            first_byte_s = time.perf_counter() - began
            parts += _read_rest(response, bytes_per_s)
            arrived = time.perf_counter()
        body = b"".join(parts)
        if declared is not None and len(body) != declared:
            raise BenchmarkError(f"GET {path}: {len(body)} bytes came, {declared} were declared")
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, body, first_byte_s, arrived)

    def describe(self, dataset: str, *, timeout_s: float) -> dict[str, Any]:
        """Return what ``GET /datasets/{dataset}`` says; nothing while that is an error."""
        answer = self.get(f"/datasets/{dataset}", timeout_s=timeout_s)
        if self.process.poll() is not None:
            raise BenchmarkError("the hub has ended: " + "".join(self.lines[-5:]).strip())
        described = json.loads(answer.body) if answer.status == 200 else {}
        return described if isinstance(described, dict) else {}

    def wait_for_revision(self, dataset: str, *, other_than: str = "", limit_s: float, pause_s: float = 0.05) -> str:
        """Wait until the dataset has a revision, or another one than that, and return it."""

        def look() -> str | None:
            revision = self.describe(dataset, timeout_s=limit_s).get("revision")
            return str(revision) if revision and revision != other_than else None

        return wait_for(look, "GET /datasets shows a new revision", limit_s=limit_s, pause_s=pause_s)

    def list_scans(self, dataset: str) -> list[float]:
        """Return how long each scan took that the log tells of, in s."""
        pattern = re.compile(rf"scanned '{re.escape(dataset)}' in ([\d.]+) s")
        return [float(found[1]) for line in list(self.lines) if (found := pattern.search(line))]

    def stop(self) -> None:
        """End it with SIGTERM; kill it when that does not help."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S)
        self._reader.join(STOP_S)

    def _read(self) -> None:
        if self.process.stdout is None:
            return
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)
                found = None if self.port else re.search(r"listens on http://\S+:(\d+)", line)
                if found:
                    self.listening = time.perf_counter()
                    self.port = int(found[1])
                    self._said_port.set()
        self._said_port.set()


@contextmanager
def run_hub(served: Path, state: Path, memory: MemoryWatch, label: str, **variables: str) -> Iterator[Hub]:
    """Run a hub, whose memory is watched under ``label``, to the end of the context."""
    state.mkdir(exist_ok=True)
    hub = Hub(served, state, variables)
    watching = memory.watch(hub.process.pid, label)
    try:
        yield hub
    finally:
        hub.stop()
        watching.join(STOP_S)


def _connect_narrow(port: int, timeout_s: float) -> socket.socket:
    connected = socket.socket()
    connected.settimeout(timeout_s)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
    connected.connect((HOST, port))
    return connected


def _read_rest(response: HTTPResponse, bytes_per_s: float) -> Iterator[bytes]:
    if not bytes_per_s:
        yield response.read()
        return
    began, count = time.perf_counter(), 0
    while block := response.read(SLOW_READ_BYTES):
        yield block
        count += len(block)
        time.sleep(max(0.0, began + count / bytes_per_s - time.perf_counter()))
