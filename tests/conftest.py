"""Real parts for tests: a served folder, a hub in its own process, requests to it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = ROOT / "server" / "server.py"
KEY = "test-key-0123456789"

# No deadline: a shared machine may be slow at any moment. In CI the same examples every time; elsewhere new ones.
settings.register_profile("dsx", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dsx-ci", settings.get_profile("dsx"), derandomize=True)
settings.load_profile("dsx-ci" if os.environ.get("CI") else "dsx")


os.environ["DSX_CONFIG_DIR"] = str(Path(__file__).parent / "no-such-folder")  # no login of whoever runs the tests


class HubProcess:
    """``python server/server.py`` in its own process, listening on a port that the system chose."""

    def __init__(self, served: Path, state: Path, *, key: str = KEY, **variables: str) -> None:
        self.served = served
        self.key = key
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        self.env |= {"DSX_API_KEY": key, "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(state), "DSX_PORT": "0"}
        self.env |= variables
        self.start()

    def start(self) -> None:
        """Start the process and wait until it says where it listens; a second start uses the first one's port."""
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(LAUNCHER)],
            env=self.env,
            cwd=self.served.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(listening,), daemon=True)
        self._reader.start()
        if not listening.wait(30):
            self.kill()
            raise RuntimeError("the hub did not start: " + "".join(self.lines))
        found = re.search(r"listens on http://\S+:(\d+)", "".join(self.lines))
        if found is None:
            self.kill()
            raise RuntimeError("the hub did not start: " + "".join(self.lines))
        self.port = int(found[1])
        self.env["DSX_PORT"] = str(self.port)
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self, listening: threading.Event) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "print(hub.list_datasets())" in line:
                listening.set()
        listening.set()

    @property
    def log(self) -> str:
        """All that the process has printed so far, stdout and stderr."""
        return "".join(self.lines)

    def request(self, method: str, path: str, **options: object) -> requests.Response:
        """Send a request with the key; ``path`` as it shall be on the wire."""
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}  # type: ignore[dict-item, misc]
        request = requests.Request(method, self.url, headers=headers, **options)  # type: ignore[arg-type]
        with requests.Session() as session:
            prepared = session.prepare_request(request)
            prepared.url = self.url + path  # as it is: no normalisation
            return session.send(prepared, allow_redirects=False, timeout=30)

    def get(self, path: str, **options: object) -> requests.Response:
        """GET with the key."""
        return self.request("GET", path, **options)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def kill(self) -> None:
        """End the process at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """An empty folder to put datasets into."""
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@pytest.fixture
def start_hub(tmp_path: Path, served: Path) -> Iterator[Callable[..., HubProcess]]:
    """Start hubs on ``served`` that end with the test; keyword arguments are more variables."""
    hubs: list[HubProcess] = []

    def start(**options: str) -> HubProcess:
        hubs.append(HubProcess(served, tmp_path / "state", **options))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.kill()


@pytest.fixture
def hub(start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub on ``served``; datasets may be added while it runs."""
    return start_hub()


@pytest.fixture
def powerless_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub on ``served`` that file permissions hold for, even where the tests run as root."""
    if os.name == "posix" and os.geteuid() == 0:
        launcher = tmp_path / "powerless.py"
        launcher.write_text(
            "import ctypes, os, sys\n"
            "for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH\n"
            "    if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP\n"
            "        sys.exit('the capability could not be dropped')\n"
            f"os.execv(sys.executable, [sys.executable, {str(LAUNCHER)!r}])\n"
        )
        monkeypatch.setattr(sys.modules[__name__], "LAUNCHER", launcher)
    return start_hub()


@pytest.fixture
def raw_request() -> Callable[[HubProcess, bytes], bytes]:
    """Send bytes to a hub as they are and return all that comes back until it closes."""

    def send(hub: HubProcess, message: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as connection:
            connection.sendall(message)
            answer = b""
            while block := connection.recv(65536):
                answer += block
            return answer

    return send


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below ``folder``, making the folders on the way."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
