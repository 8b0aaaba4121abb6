"""What ``/file`` may take of the hub's memory, time and connections, whatever its clients do."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dsx_server.routes import wire
from dsx_server.storage import LocalStorage
from tests import conftest
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import InProcessHub, ask, connect, format_request, parse_answer, receive_all, wait_until

MIB = 1024 * 1024
HUGE_BYTES = 64 * MIB  # more than all buffers between hub and client hold
LETTERS = b"abcdefghijklmnopqrstuvwxyz"

needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="memory is read where there is /proc")


def resident_bytes(hub: HubProcess) -> int:
    """How much memory the hub has."""
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def are_open(pid: int, name: str) -> bool:
    """Whether a process has a file of a dataset open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if name in str(descriptor.readlink()):
                return True
        except FileNotFoundError:
            continue
    return False


def narrow(hub: HubProcess | InProcessHub) -> socket.socket:
    """Connect as somebody for whom the system takes in little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", hub.port))
    return connection


@pytest.fixture
def huge(served: Path) -> Path:
    """A file that no buffer holds."""
    write_files(served, {"cats/huge": b"A" * HUGE_BYTES, "cats/x": b"x", "cats/whole": b"w" * 250_000})
    return served / "cats" / "huge"


@needs_proc
def test_two_hundred_readers_that_read_nothing_take_bounded_memory(hub: HubProcess, huge: Path) -> None:
    assert ask(hub, b"/file/cats/x").body == b"x"
    before = resident_bytes(hub)
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(narrow(hub))
            connection.sendall(format_request(b"/file/cats/huge"))
        assert connection.recv(8).startswith(b"HTTP/1.1")
        for _ in range(50):
            assert ask(hub, b"/file/cats/x").body == b"x"
            assert ask(hub, b"/health").status == 200
        assert resident_bytes(hub) - before < 150 * MIB
        assert len(ask(hub, b"/file/cats/huge").body) == HUGE_BYTES  # one who reads has all of it
    wait_until(lambda: not are_open(hub.process.pid, "huge"), "the file was closed")


@needs_proc
def test_two_hundred_readers_of_short_entries_take_bounded_memory(hub: HubProcess, huge: Path) -> None:
    assert ask(hub, b"/file/cats/whole").status == 200
    before = resident_bytes(hub)
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(narrow(hub))
            connection.sendall(format_request(b"/file/cats/whole", close=False) * 100)
        for _ in range(20):
            assert ask(hub, b"/file/cats/x").body == b"x"
        assert resident_bytes(hub) - before < 150 * MIB


@pytest.mark.parametrize("name", ["huge", "whole"])
def test_reader_that_stopped_is_cut_off(
    huge: Path,
    served: Path,
    name: str,
    start_in_process: Callable[[LocalStorage], InProcessHub],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wire, "WRITE_WAIT_S", 0.2)
    hub = start_in_process(LocalStorage(served))
    assert ask(hub, b"/file/cats/whole").is_whole
    with narrow(hub) as connection:
        # Some hundred answers of a connection are more than the system holds for it.
        connection.sendall(format_request(f"/file/cats/{name}".encode(), close=False) * 200)
        wait_until(lambda: "took less than a block" in caplog.text, "the hub gave up")
        received = receive_all(connection)
    assert len(received) < HUGE_BYTES
    if sys.platform == "linux":
        wait_until(lambda: not are_open(os.getpid(), name), "the file was closed")
    assert ask(hub, b"/file/cats/x").body == b"x"


def test_reader_that_is_slow_and_goes_on_has_all_of_it(
    huge: Path, served: Path, start_in_process: Callable[[LocalStorage], InProcessHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "WRITE_WAIT_S", 5.0)
    hub = start_in_process(LocalStorage(served))
    with connect(hub) as connection:
        connection.sendall(format_request(b"/file/cats/huge"))
        received = bytearray()
        for _ in range(20):
            received += connection.recv(1000)
            time.sleep(0.01)
        received += receive_all(connection)
    assert parse_answer(bytes(received)).is_whole


def byte_ranges() -> Iterator[bytes]:
    """Yield what may stand behind ``Range: bytes=`` to do harm."""
    yield b",".join(b"%d-%d" % (n, n) for n in range(5000))
    yield b",".join([b"0-"] * 5000)  # overlapping
    yield b",".join(b"%d-" % n for n in range(1000))
    yield b"0-0," + b"-1," * 5000
    yield b"," * 30_000
    yield b"0" * 5000 + b"-" + b"9" * 5000
    yield b"9" * 5000 + b"-"
    yield b"-" + b"9" * 5000
    yield b"-0"
    yield b"-" + b"0" * 5000
    yield b"5-4"
    yield b"18446744073709551616-18446744073709551617"


@pytest.mark.parametrize("value", list(byte_ranges()), ids=lambda value: repr(value[:20]))
def test_range_made_to_harm_costs_no_more_than_the_entry(
    shared_hub: HubProcess, shared_served: Path, value: bytes
) -> None:
    write_files(shared_served, {"ranges/x": LETTERS})
    for _ in range(2):  # the careful way, and at once
        answer = ask(shared_hub, b"/file/ranges/x", headers=[b"Range: bytes=" + value])
        assert answer.status in (200, 206, 416)
        assert len(answer.body) <= 1000
        if answer.status != 416:
            assert answer.body == LETTERS


def test_many_harmful_ranges_at_once_leave_the_hub_answering(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"ranges/x": LETTERS})
    value = b"Range: bytes=" + b",".join(b"%d-" % n for n in range(10_000))
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(shared_hub)) for _ in range(50)]
        for connection in connections:
            connection.sendall(format_request(b"/file/ranges/x", headers=[value]))
        assert ask(shared_hub, b"/health").status == 200
        for connection in connections:
            raw = receive_all(connection)
            assert re.match(rb"HTTP/1\.1 (200|4\d\d)", raw)


def test_body_of_a_get_that_never_ends_takes_nothing_from_others(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"cats/x": b"x"})
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(connect(shared_hub))
            kind = b"Content-Length: 1000000000" if number % 2 else b"Transfer-Encoding: chunked"
            connection.sendall(format_request(b"/file/cats/x", headers=[kind], close=False) + b"1\r\n")
        for _ in range(10):
            assert ask(shared_hub, b"/file/cats/x").body == b"x"


@needs_proc
def test_endless_body_of_a_get_takes_no_memory(hub: HubProcess, huge: Path) -> None:
    assert ask(hub, b"/file/cats/x").body == b"x"
    before = resident_bytes(hub)
    with narrow(hub) as connection:
        connection.settimeout(0.5)
        connection.sendall(format_request(b"/file/cats/huge", headers=[b"Content-Length: 9000000000"], close=False))
        try:
            for _ in range(200):
                connection.sendall(b"B" * MIB)
        except OSError:
            pass  # the hub takes no more of it
        assert ask(hub, b"/file/cats/x").body == b"x"
        assert resident_bytes(hub) - before < 50 * MIB


def test_headers_that_come_slowly_keep_nobody_waiting(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"cats/x": b"x"})
    request = format_request(b"/file/cats/x")
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(shared_hub)) for _ in range(200)]
        for byte in range(len(request) - 1):
            slow[byte % 200].sendall(request[byte // 200 : byte // 200 + 1])
            if byte % 20 == 0:
                assert ask(shared_hub, b"/file/cats/x").body == b"x"


@needs_proc
def test_paths_that_lead_nowhere_take_no_memory(hub: HubProcess, served: Path) -> None:
    write_files(served, {"cats/x": b"x"})
    long = b"/".join([b"%61" * 250] * 16)
    assert ask(hub, b"/file/cats/x").body == b"x"
    before = resident_bytes(hub)
    with connect(hub) as connection:
        for number in range(0, 5000, 20):
            targets = [b"/file/cats/%s/%d" % (long, each) for each in range(number, number + 20)]
            connection.sendall(b"".join(format_request(target, close=False) for target in targets))
            received = b""
            while received.count(b"HTTP/1.1 404 ") < len(targets):
                received += connection.recv(MIB)
    assert resident_bytes(hub) - before < 30 * MIB


@needs_proc
def test_thousands_of_idle_connections_leave_room_for_others(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_hub: Callable[..., HubProcess]
) -> None:
    resource = pytest.importorskip("resource")
    least = 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < least:
        pytest.skip("this user may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
    launcher = tmp_path / "frugal.py"  # a hub that begins with as few open files as most systems give
    launcher.write_text(
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {least}))\n"
        f"os.execv(sys.executable, [sys.executable, {str(conftest.LAUNCHER)!r}])\n"
    )
    monkeypatch.setattr(conftest, "LAUNCHER", launcher)
    write_files(served, {"cats/x": b"x"})
    try:
        hub = start_hub()
        with ExitStack() as stack:
            idle = [stack.enter_context(connect(hub)) for _ in range(2000)]
            for connection in idle[::2]:
                connection.sendall(b"GET /file/cats/x HTTP/1.1\r\nHost: hub\r\n")
            for _ in range(10):
                assert ask(hub, b"/file/cats/x").body == b"x"
        assert ask(hub, b"/health").status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "Traceback" not in hub.log
