"""Servers that the hub is held against, each in processes of its own for as long as a context lasts."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from hubs import HOST, KEY, ROOT, STOP_S
from measuring import BenchmarkError, wait_for

START_S = 30.0

_NGINX = """
daemon off;
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_body_temp_path {work}/nginx-body;
    proxy_temp_path {work}/nginx-proxy;
    fastcgi_temp_path {work}/nginx-fastcgi;
    uwsgi_temp_path {work}/nginx-uwsgi;
    scgi_temp_path {work}/nginx-scgi;
    server {{
        listen {host}:{port};
        location /file/ {{ alias {served}/; }}
    }}
}}
"""


class Peer(NamedTuple):
    """A server that answers ``/file/{dataset}/{path}``.

    Attributes:
        port: Where it listens on this machine.
        pid: Its process.
    """

    port: int
    pid: int


def find_nginx() -> str | None:
    """Return the nginx of this machine, which is often outside a user's ``PATH``; None when there is none."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def run_nginx(served: Path, work: Path) -> Iterator[Peer]:
    """Run nginx with one worker on a folder, as an ordinary process of this user."""
    port = find_free_port()
    config = work / "nginx.conf"
    config.write_text(_NGINX.format(work=work, host=HOST, port=port, served=served), encoding="utf-8")
    command = [str(find_nginx()), "-e", str(work / "nginx-error.log"), "-c", str(config)]
    with _run(command, port, work / "nginx-error.log") as peer:
        yield peer


@contextmanager
def run_quiet_hub(served: Path, work: Path) -> Iterator[Peer]:
    """Run the hub on a folder as it runs by default; its log goes to a file."""
    port = find_free_port()
    state = work / "state"
    state.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
    env |= {"DSX_API_KEY": KEY, "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(state)}
    env |= {"DSX_HOST": HOST, "DSX_PORT": str(port)}
    with _run([sys.executable, str(ROOT / "server" / "server.py")], port, work / "hub.log", env) as peer:
        yield peer


@contextmanager
def run_plain_hub(served: Path, work: Path) -> Iterator[Peer]:
    """Run `plain_hub.py` on a folder; like the hub it logs its requests to a file."""
    port = find_free_port()
    command = [sys.executable, str(ROOT / "benchmarks" / "plain_hub.py"), str(served), str(port)]
    with _run(command, port, work / "plain.log") as peer:
        yield peer


def find_free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _run(command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None) -> Iterator[Peer]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
    try:

        def answers() -> bool | None:
            if process.poll() is not None:
                raise BenchmarkError(f"{command[0]} did not start: {log.read_text(errors='replace')[-300:].strip()}")
            try:
                connection = HTTPConnection(HOST, port, timeout=START_S)
                connection.request("GET", "/")
                connection.getresponse().read()
                connection.close()
            except OSError:
                return None
            return True

        wait_for(answers, f"{command[0]} answers", limit_s=START_S)
        yield Peer(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
