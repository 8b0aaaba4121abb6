"""What the SDK's tests share: one hub for all of them, scripted hubs, clients that are closed in the end."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

import dsx._batch
import dsx._fetch
import dsx._transport
from dsx import DatasetHubClient
from tests.conftest import KEY, HubProcess, write_files

from .proxy import Proxy
from .scripted import HonestScript, Script, ScriptedHub

WAIT_S = 60

T = TypeVar("T")

_numbers = itertools.count()


class Dataset:
    """A dataset of a test's own on the shared hub.

    Attributes:
        name: Its name.
        folder: Its folder on the hub's side.
        url: Where the hub is.
    """

    def __init__(self, hub: HubProcess) -> None:
        self.name = f"cats{next(_numbers)}"
        self.folder = hub.served / self.name
        self.folder.mkdir()
        self.url = hub.url
        self.port = hub.port

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write or replace entries."""
        write_files(self.folder, dict(files))


class Unprivileged:
    """Runs Python in a process that file permissions hold for, even where the tests run as root."""

    _DROP = """
        import ctypes, os, sys
        for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
            if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
                sys.exit("the capability could not be dropped")
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    """

    def run(self, code: str, *args: object) -> str:
        """Run ``code`` with ``args`` and return what it printed."""
        return run_python(textwrap.dedent(self._DROP), "-c", textwrap.dedent(code), *args)


def run_python(code: str, *args: object, env: Mapping[str, str] | None = None) -> str:
    """Run ``code`` in a Python of its own, warnings being errors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_until(is_true: Callable[[], bool], what: str) -> None:
    """Wait for something that gives no sign of its own, for at most `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.005)


@contextmanager
def run_in_thread(call: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Run ``call`` while the block runs; what is given waits for its end and returns or raises what it did."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        yield lambda: future.result(WAIT_S)


def files_below(folder: Path) -> dict[str, bytes]:
    """Read all regular files below ``folder``; their paths are relative to it."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def leftovers(cache_dir: Path) -> list[str]:
    """Name what lies in the cache's folder of downloads under way."""
    return sorted(os.listdir(cache_dir / ".dsx" / "tmp"))


def shorten_waits(
    monkeypatch: pytest.MonkeyPatch, *, transfer_s: float = 1.0, first_contact_s: float = 1.0, read_s: float = 1.0
) -> None:
    """Make the SDK give up sooner than a person would want it to."""
    for module in (dsx._fetch, dsx._batch):
        monkeypatch.setattr(module, "TRANSFER_S", transfer_s)
        monkeypatch.setattr(module, "FIRST_CONTACT_S", first_contact_s)
    monkeypatch.setattr(dsx._transport, "READ_TIMEOUT_S", read_s)
    defaults = dsx._transport.Transport.open.__wrapped__.__kwdefaults__  # type: ignore[attr-defined]
    if defaults.get("timeout_s") is not None:
        monkeypatch.setitem(defaults, "timeout_s", read_s)


@pytest.fixture(scope="session")
def common_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for all tests that do not stop it; each uses datasets of its own."""
    folder = tmp_path_factory.mktemp("common") / "served"
    folder.mkdir()
    hub = HubProcess(folder, tmp_path_factory.mktemp("state"))
    yield hub
    hub.kill()


@pytest.fixture
def dataset(common_hub: HubProcess) -> Iterator[Dataset]:
    """An empty dataset on the common hub."""
    made = Dataset(common_hub)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """The cache folder of `connect`; nothing is there yet."""
    return tmp_path / "cache"


@pytest.fixture
def connect(cache_dir: Path) -> Iterator[Callable[..., DatasetHubClient]]:
    """Make clients of a hub, on `cache_dir` unless told otherwise, that are closed with the test."""
    clients: list[DatasetHubClient] = []

    def make(url: str, **options: object) -> DatasetHubClient:
        options = {"api_key": KEY, "cache_dir": cache_dir} | options
        clients.append(DatasetHubClient(url, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., DatasetHubClient], common_hub: HubProcess) -> DatasetHubClient:
    """A client of the common hub."""
    return connect(common_hub.url)


@pytest.fixture
def start_proxy() -> Iterator[Callable[[int], Proxy]]:
    """Start proxies in front of ports; they end with the test."""
    proxies: list[Proxy] = []

    def start(port: int) -> Proxy:
        proxies.append(Proxy(port))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def start_scripted() -> Iterator[Callable[[Script], ScriptedHub]]:
    """Start scripted hubs; they end with the test."""
    hubs: list[ScriptedHub] = []

    def start(script: Script) -> ScriptedHub:
        hubs.append(ScriptedHub(script))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.stop()


@pytest.fixture
def start_honest(start_scripted: Callable[[Script], ScriptedHub]) -> Callable[..., tuple[ScriptedHub, HonestScript]]:
    """Start a scripted hub that does everything right, on files that may be changed."""

    def start(files: Mapping[str, bytes]) -> tuple[ScriptedHub, HonestScript]:
        script = HonestScript(files)
        return start_scripted(script), script

    return start


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python processes that end with the test at the latest."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **(env or {})},
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=WAIT_S)


@pytest.fixture
def unprivileged() -> Unprivileged:
    """Runs code that file permissions hold for."""
    return Unprivileged()
