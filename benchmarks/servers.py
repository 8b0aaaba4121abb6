"""What the datasets are read from, each in processes of its own, and what serving costs there."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.request import urlopen

from cpu import read_cpu_s
from hubs import HOST, KEY, ROOT, Hub
from measuring import BenchmarkError, wait_for
from memory import list_children, read_memory, reset_peak

HERE = Path(__file__).resolve().parent
START_S = 30.0
STOP_S = 20.0

NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen {host}:{port};
        location = /nginx-status {{ stub_status; }}
        location / {{ root {root}; autoindex on; }}
        location /file/ {{ alias {root}/; }}
    }}
}}
"""

RSYNCD = """\
address = {host}
port = {port}
use chroot = no
pid file = {folder}/rsyncd.pid
[data]
path = {root}
read only = yes
{user}
"""


class Server(Protocol):
    """Something that datasets are read from.

    Attributes:
        pid: Its process; what that has started belongs to it.
    """

    @property
    def pid(self) -> int: ...

    def count_requests(self) -> int | None:
        """Return how many requests it has answered so far; None if it cannot be known."""


class HubServer:
    """A hub of this project; its log has a line for every request."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.pid = hub.process.pid

    def count_requests(self) -> int | None:
        """Count lines in the log, but for those of ``/health``."""
        return sum(" id=" in line and " /health " not in line for line in list(self.hub.lines))


class ProcessServer:
    """A server of somebody else's, in the foreground, on a port that was free; `run_server` starts and stops it.

    Args:
        command: What to run.
        port: Where it will listen.
        log: File for what it says.
        env: Its variables; by default those of this process.
    """

    def __init__(self, command: list[str], port: int, log: Path, env: dict[str, str] | None = None) -> None:
        self.url = f"http://{HOST}:{port}"
        self.port = port
        self._name = Path(command[1] if command[0] == sys.executable else command[0]).name
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until it accepts connections."""

        def look() -> bool | None:
            if self._process.poll() is not None:
                said = self._log.read_text(encoding="utf-8", errors="replace").strip()
                raise BenchmarkError(f"{self._name} has ended: {said[-300:]}")
            with closing(socket.socket()) as probe:
                return True if probe.connect_ex((HOST, self.port)) == 0 else None

        wait_for(look, f"{self._name} listens on {self.port}", limit_s=START_S)

    def count_requests(self) -> int | None:
        """Most do not know."""
        return None

    def stop(self) -> None:
        """End it with SIGTERM; kill it when that does not help."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)


class NginxServer(ProcessServer):
    """nginx, which counts its requests."""

    _asked = 0

    def count_requests(self) -> int | None:
        """Ask it; that it was asked is not counted."""
        with urlopen(f"{self.url}/nginx-status", timeout=START_S) as answer:
            words = answer.read().decode().split()
        self._asked += 1
        return int(words[words.index("requests") + 3]) - self._asked


@contextmanager
def run_server(server: ProcessServer) -> Iterator[ProcessServer]:
    """Run a server to the end of the context."""
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@contextmanager
def run_plain_hub(root: Path, folder: Path, delay_ms: float = 0) -> Iterator[ProcessServer]:
    """Run `plain_hub.py`; like the hub it logs its requests."""
    port = find_port()
    command = [sys.executable, str(HERE / "plain_hub.py"), str(root), str(port), str(delay_ms)]
    with run_server(ProcessServer(command, port, folder / "log")) as server:
        server.url += "/file"
        yield server


@contextmanager
def run_quiet_hub(root: Path, folder: Path) -> Iterator[ProcessServer]:
    """Run the hub on a folder as it runs by default; its log goes to a file, its state to ``folder``."""
    port = find_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
    env |= {"DSX_API_KEY": KEY, "DSX_DATASET_PATH": str(root), "DSX_STATE_DIR": str(folder / "state")}
    env |= {"DSX_HOST": HOST, "DSX_PORT": str(port)}
    (folder / "state").mkdir()
    command = [sys.executable, str(ROOT / "server" / "server.py")]
    with run_server(ProcessServer(command, port, folder / "hub.log", env)) as server:
        yield server


@contextmanager
def run_nginx(root: Path, folder: Path) -> Iterator[ProcessServer]:
    """Run nginx with one worker on a folder; its own files go to ``folder``."""
    port = find_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(user=user, folder=folder, host=HOST, port=port, root=root), encoding="utf-8")
    log = folder / "error.log"
    command = [find_program("nginx"), "-c", str(config), "-e", str(log)]
    with run_server(NginxServer(command, port, log)) as server:
        yield server


@contextmanager
def run_rsync_daemon(root: Path, folder: Path) -> Iterator[ProcessServer]:
    """Run a daemon of rsync on a folder, as its module ``data``."""
    port = find_port()
    user = "uid = 0\ngid = 0" if os.geteuid() == 0 else ""
    config = folder / "rsyncd.conf"
    config.write_text(RSYNCD.format(user=user, folder=folder, host=HOST, port=port, root=root), encoding="utf-8")
    command = [find_program("rsync"), "--daemon", "--no-detach", f"--config={config}"]
    with run_server(ProcessServer(command, port, folder / "log")) as server:
        yield server


def find_program(name: str) -> str:
    """Return where a program lies.

    Raises:
        BenchmarkError: It is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchmarkError(f"{name} is not installed")
    return found


def find_port() -> int:
    """Return a port that is free now."""
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Cost:
    """What serving costs from now on.

    Args:
        server: Who serves.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._cpu_s = read_cpu_s(server.pid)
        self._requests = server.count_requests()
        for pid in self._list_processes():
            reset_peak(pid)

    def measure(self) -> dict[str, Any]:
        """Return CPU time in s, requests answered, and the peak of its memory in bytes, all since the beginning."""
        requests = self._server.count_requests()
        known = None if requests is None or self._requests is None else requests - self._requests
        memories = [memory for pid in self._list_processes() if (memory := read_memory(pid)) is not None]
        return {
            "server_cpu_s": read_cpu_s(self._server.pid) - self._cpu_s,
            "requests": known,
            "server_peak": sum(memory.peak for memory in memories),
        }

    def _list_processes(self) -> list[int]:
        return [self._server.pid, *list_children(self._server.pid)]


def measure_idle(server: Server) -> int:
    """Return what a server takes now, in bytes."""
    processes = [server.pid, *list_children(server.pid)]
    return sum(memory.rss for pid in processes if (memory := read_memory(pid)) is not None)
