"""SIGTERM and Ctrl-C: what is being sent is finished, new requests are refused, the process ends with 0."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import HubProcess, write_files
from tests.hub.conftest import ask, connect, format_request, parse_answer, receive_all, wait_until

BIG = bytes(range(256)) * 131_072  # 32 MiB, more than the buffers between hub and client hold
STOP_WITHIN_S = 10

both_signals = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@pytest.fixture
def busy_hub(served: Path, start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub with a file that takes more than one send."""
    write_files(served, {"cats/big": BIG, "cats/small": b"x"})
    return start_hub()


def end(hub: HubProcess) -> int:
    """Wait for the process and for the last of its log."""
    status = hub.process.wait(STOP_WITHIN_S + 10)
    hub._reader.join(STOP_WITHIN_S)
    return status


def is_refused(hub: HubProcess) -> bool:
    """Tell whether the hub takes no new connection."""
    try:
        connect(hub).close()
    except ConnectionRefusedError:
        return True
    return False


@both_signals
def test_idle_hub_ends_with_status_0(busy_hub: HubProcess, number: signal.Signals) -> None:
    assert ask(busy_hub, b"/file/cats/small").status == 200
    busy_hub.process.send_signal(number)
    assert end(busy_hub) == 0
    assert "Traceback" not in busy_hub.log
    assert is_refused(busy_hub)


@both_signals
def test_hub_ends_while_clients_keep_their_connections(busy_hub: HubProcess, number: signal.Signals) -> None:
    with connect(busy_hub) as idle, connect(busy_hub) as kept:
        kept.sendall(format_request(b"/health", close=False))
        assert kept.recv(1000).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        busy_hub.process.send_signal(number)
        assert end(busy_hub) == 0
        assert time.monotonic() - began < STOP_WITHIN_S
        assert idle.recv(1) == b""
    assert "Traceback" not in busy_hub.log


@both_signals
def test_answer_under_way_is_finished_and_new_connections_are_refused(
    busy_hub: HubProcess, number: signal.Signals
) -> None:
    with connect(busy_hub) as connection:
        connection.sendall(format_request(b"/file/cats/big"))
        received = connection.recv(1000)
        busy_hub.process.send_signal(number)
        wait_until(lambda: is_refused(busy_hub), "new connections are refused")
        assert busy_hub.process.poll() is None
        while len(received) < len(BIG) // 2:  # a reader that takes little at a time
            received += connection.recv(65536)
        answer = parse_answer(received + receive_all(connection))
    assert answer.body == BIG
    assert end(busy_hub) == 0
    assert "Traceback" not in busy_hub.log


def test_reader_that_never_reads_holds_up_the_end_for_less_than_10_s(
    busy_hub: HubProcess,
) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", busy_hub.port))
        connection.sendall(format_request(b"/file/cats/big"))
        connection.recv(100)
        began = time.monotonic()
        busy_hub.process.send_signal(signal.SIGTERM)
        assert end(busy_hub) == 0
        assert time.monotonic() - began < STOP_WITHIN_S
        rest = receive_all(connection)
    assert len(rest) < len(BIG)
    assert "Traceback" not in busy_hub.log


@both_signals
def test_hub_starts_again_at_once_on_the_same_port(busy_hub: HubProcess, number: signal.Signals) -> None:
    port = busy_hub.port
    assert ask(busy_hub, b"/file/cats/small").status == 200
    busy_hub.process.send_signal(number)
    assert end(busy_hub) == 0
    busy_hub.process.stdout.close()  # type: ignore[union-attr]  # it was opened as a pipe
    busy_hub.start()
    assert busy_hub.port == port
    assert ask(busy_hub, b"/file/cats/small").status == 200


@both_signals
def test_impatient_second_signal_still_leaves_no_traceback(busy_hub: HubProcess, number: signal.Signals) -> None:
    with connect(busy_hub) as connection:
        connection.sendall(format_request(b"/file/cats/big"))
        connection.recv(1000)
        busy_hub.process.send_signal(number)
        wait_until(lambda: is_refused(busy_hub), "new connections are refused")
        busy_hub.process.send_signal(number)
        receive_all(connection)
    assert end(busy_hub) == 0
    assert "Traceback" not in busy_hub.log
