"""The slow link itself, held against what it should be: a benchmark on a link of unknown speed says nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from hubs import HOST
from measuring import BenchmarkError
from slow_link import LINK_BYTES_PER_S, WAY_S

HERE = Path(__file__).resolve().parent
STREAM_BYTES = 64 * 1024**2
PINGS = 20
LIMIT_S = 60.0
MAY_BE_OFF = 0.1
STOP_S = 10.0


class LinkSpeed(NamedTuple):
    """What the link does: a round trip, in s, and one plain stream, in bytes per s."""

    round_trip_s: float
    bytes_per_s: float


@contextmanager
def run_link(port: int) -> Iterator[tuple[int, int]]:
    """Run a slow link to a port of this machine; give its own port, and its process."""
    command = [sys.executable, str(HERE / "slow_link.py"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise BenchmarkError("slow_link.py did not start")
            yield int(line), process.pid
        finally:
            process.terminate()
            process.wait(STOP_S)


def check_link() -> LinkSpeed:
    """Measure the link.

    Raises:
        BenchmarkError: It is not as slow, or not as fast, as it should be.
    """
    with socket.create_server((HOST, 0)) as source:
        threading.Thread(target=_serve, args=[source], daemon=True).start()
        with (
            run_link(source.getsockname()[1]) as (port, _),
            closing(socket.create_connection((HOST, port), LIMIT_S)) as connection,
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            speed = LinkSpeed(median(_ping(connection) for _ in range(PINGS)), _stream(connection))
    for name, found, due in (
        ("round trip", speed.round_trip_s, 2 * WAY_S),
        ("speed", speed.bytes_per_s, LINK_BYTES_PER_S),
    ):
        if abs(found / due - 1) > MAY_BE_OFF:
            raise BenchmarkError(
                f"the slow link is not what it should be: its {name} is {found / due:.2f} x what is due"
            )
    return speed


def _serve(source: socket.socket) -> None:
    """Answer each byte: a ping with one, anything else with the stream."""
    connection, _ = source.accept()
    with connection, suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while word := connection.recv(1):
            connection.sendall(word if word == b"p" else bytes(STREAM_BYTES))


def _ping(connection: socket.socket) -> float:
    began = time.perf_counter()
    connection.sendall(b"p")
    connection.recv(1)
    return time.perf_counter() - began


def _stream(connection: socket.socket) -> float:
    connection.sendall(b"s")
    left = STREAM_BYTES - len(connection.recv(1))
    began = time.perf_counter()
    while left:
        block = connection.recv(min(left, 1024**2))
        if not block:
            raise BenchmarkError("the slow link broke off")
        left -= len(block)
    return STREAM_BYTES / (time.perf_counter() - began)
