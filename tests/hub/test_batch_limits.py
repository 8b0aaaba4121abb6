"""What batches may take: of a request, of memory, of time; and what happens when an entry changes under way."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dsx.errors import IntegrityError
from dsx.protocol.frames import Status
from dsx_server.problems import ProblemError
from dsx_server.routes import batch_request, wire
from dsx_server.routes.batch_budget import ByteBudget
from dsx_server.storage import LocalStorage
from tests.conftest import KEY, HubProcess, write_files
from tests.hub.batches import BatchConnection, Got, read_batch, read_frames, refuse_batch
from tests.hub.conftest import InProcessHub, connect, format_request, parse_answer, receive_all, wait_until

MIB = 1024 * 1024
HUGE_BYTES = 64 * MIB  # more than all buffers between hub and client hold
COUNT = 256
EACH_BYTES = 256 * 1024  # of an entry that is read whole; COUNT of them are more than all buffers hold

needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="memory is read where there is /proc")


def send_only(hub: HubProcess | InProcessHub, dataset: str, body: bytes, *headers: bytes) -> socket.socket:
    """Send a request and read nothing."""
    connection = connect(hub)
    lines = [b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    connection.sendall(format_request(f"/batch/{dataset}".encode(), method=b"POST", headers=lines) + body)
    return connection


def resident_bytes(hub: HubProcess) -> int:
    """How much memory the hub has."""
    status = Path(f"/proc/{hub.process.pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.parametrize("name", ["paths", "reads"])
def test_one_entry_too_many_is_413(shared_hub: HubProcess, shared_served: Path, name: str) -> None:
    write_files(shared_served, {"cats/x": b"x"})
    entry: object = "x" if name == "paths" else ["x", 0, 1]
    with closing(BatchConnection(shared_hub)) as connection:
        answer = connection.send("cats", {name: [entry] * 65_537})
        problem = json.loads(answer.read())
    assert (answer.status, problem["code"]) == (413, "too_large")
    assert "65536 entries" in problem["detail"]
    assert "16777216 bytes" in problem["detail"]


def test_body_that_is_declared_too_long_is_413_before_it_comes(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"cats/x": b"x"})
    for length in (b"16777217", b"9" * 17):
        lines = [b"Content-Type: application/json", b"Content-Length: " + length]
        with connect(shared_hub) as connection:
            connection.sendall(format_request(b"/batch/cats", method=b"POST", headers=lines))
            answer = parse_answer(receive_all(connection))
        assert (answer.status, json.loads(answer.body)["code"]) == (413, "too_large")


def test_body_that_grows_too_long_is_413(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"cats/x": b"x"})

    def blocks() -> Iterator[bytes]:
        yield b'{"paths": ["'
        yield from (b"a" * MIB for _ in range(17))

    with closing(http.client.HTTPConnection("127.0.0.1", shared_hub.port, timeout=20)) as connection:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", "/batch/cats", blocks(), headers, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "too_large")


def test_body_of_the_longest_length_is_taken(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"cats/x": b"x"})
    start = b'{"paths": ["x"], "more": "'
    body = start + b"," * (16 * MIB - len(start) - 2) + b'"}'
    with closing(BatchConnection(shared_hub)) as connection:
        answer = connection.send("cats", body)
        assert list(read_frames(answer, 1)) == [(Status.OK, b"x")]


@needs_proc
@pytest.mark.parametrize("value", [b"1", b"[]", b'""', b"{}", b"[[]]", b'{"a":1}'])
def test_millions_of_values_are_413_and_take_no_memory(hub: HubProcess, served: Path, value: bytes) -> None:
    write_files(served, {"cats/x": b"x"})
    body = b'{"paths": [' + b",".join([value] * (16 * MIB // (len(value) + 1) - 10)) + b"]}"
    before = resident_bytes(hub)
    assert refuse_batch(hub, "cats", body) == (413, "too_large")
    assert resident_bytes(hub) - before < 100 * MIB


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b'"]}'])
def test_quotes_without_number_are_counted_quickly(end: bytes) -> None:
    body = b"," * 200_000 + b'"' + b'\\"' * 1_000_000 + end
    began = time.process_time()
    with pytest.raises(ProblemError) as caught:
        batch_request.parse_wanted(body)
    assert caught.value.code == "too_large"
    assert time.process_time() - began < 2


def test_request_that_never_comes_takes_nothing_from_others(shared_hub: HubProcess, shared_served: Path) -> None:
    write_files(shared_served, {"cats/x": b"x"})
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(connect(shared_hub))
            lines = [b"Content-Type: application/json", b"Content-Length: 16777216"]
            connection.sendall(format_request(b"/batch/cats", method=b"POST", headers=lines) + b'{"paths"')
        assert read_batch(shared_hub, "cats", paths=["x"]) == [(Status.OK, b"x")]


def read_into(received: bytearray, answer: http.client.HTTPResponse) -> None:
    """Read an answer to its end."""
    while block := answer.read(MIB):
        received += block


def change_by_shrinking(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(HUGE_BYTES // 2)


def change_by_growing(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"B" * 1_000_000)


def change_by_overwriting(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(HUGE_BYTES // 2)
        file.write(b"B" * (HUGE_BYTES // 2))


def change_by_rewriting(path: Path) -> None:
    path.write_bytes(b"B" * HUGE_BYTES)
    os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize("change", [change_by_shrinking, change_by_growing, change_by_overwriting, change_by_rewriting])
def test_long_entry_that_changes_while_it_is_sent_breaks_the_connection(
    hub: HubProcess, served: Path, change: Callable[[Path], None]
) -> None:
    path = served / "cats" / "huge"
    write_files(served, {"cats/huge": b"A" * HUGE_BYTES, "cats/x": b"x"})
    os.utime(path, ns=(10**18, 10**18))
    with closing(BatchConnection(hub)) as connection:
        answer = connection.send("cats", {"paths": ["x", "huge", "x"]})
        begin = answer.read(1000)
        change(path)
        rest = bytearray(begin)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            read_into(rest, answer)
    assert b"BB" not in rest
    assert len(rest) < HUGE_BYTES
    assert [got.payload for got in read_batch(hub, "cats", paths=["huge"])] == [path.read_bytes()]


def test_stream_that_was_broken_off_is_no_whole_batch(hub: HubProcess, served: Path) -> None:
    write_files(served, {"cats/huge": b"A" * HUGE_BYTES})
    found: list[Got] = []
    with closing(BatchConnection(hub)) as connection:
        answer = connection.send("cats", {"paths": ["huge"]})
        change_by_shrinking(served / "cats" / "huge")
        with pytest.raises((http.client.IncompleteRead, ConnectionError, IntegrityError)):
            found += read_frames(answer, 1)
    assert found == []


@pytest.fixture
def heavy(served: Path) -> bytes:
    """A dataset of 64 MiB in entries that are read whole; and the request for all of it."""
    write_files(served, {"cats/x": b"x"} | {f"cats/{number}": b"%03d" % number * 87_382 for number in range(COUNT)})
    return json.dumps({"paths": [str(number) for number in range(COUNT)]}).encode()


@needs_proc
@pytest.mark.parametrize("kind", ["short", "long"])
def test_two_hundred_slow_readers_take_bounded_memory(hub: HubProcess, served: Path, heavy: bytes, kind: str) -> None:
    if kind == "long":
        write_files(served, {"cats/huge": b"A" * HUGE_BYTES})
        heavy = json.dumps({"paths": ["huge"] * 100}).encode()
    assert read_batch(hub, "cats", paths=["x"]) == [(Status.OK, b"x")]
    before = resident_bytes(hub)
    with ExitStack() as stack:
        readers = [stack.enter_context(send_only(hub, "cats", heavy)) for _ in range(200)]
        assert all(reader.recv(8).startswith(b"HTTP/1.1") for reader in readers[:50])
        for _ in range(50):
            assert hub.get("/file/cats/x").content == b"x"
            status, body = ask_once(hub)
            assert status in (200, 429)
            assert status == 429 or body == [(Status.OK, b"x")]
        assert resident_bytes(hub) - before < 200 * MIB
        for reader in readers[:3]:  # they are all served in the end
            assert reader.recv(100_000)
    wait_until(lambda: ask_once(hub)[0] == 200, "memory was given back")


def ask_once(hub: HubProcess | InProcessHub) -> tuple[int, list[Got]]:
    """Ask for one entry, once."""
    with closing(BatchConnection(hub)) as connection:
        answer = connection.send("cats", {"paths": ["x"]})
        if answer.status != 200:
            assert json.loads(answer.read())["code"] == "busy"
            assert answer.headers["retry-after"] == "1"
            return answer.status, []
        return answer.status, list(read_frames(answer, 1))


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for a few blocks."""
    monkeypatch.setattr(ByteBudget.__init__, "__defaults__", (4 * MIB,))


@pytest.mark.usefixtures("small_budget")
def test_batch_that_finds_the_memory_spent_is_429(
    served: Path, heavy: bytes, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    hub = start_in_process(LocalStorage(served))
    with ExitStack() as stack:

        def is_busy() -> bool:
            stack.enter_context(send_only(hub, "cats", heavy))
            return ask_once(hub)[0] == 429

        wait_until(is_busy, "the memory was spent")
    wait_until(lambda: ask_once(hub)[0] == 200, "the memory was given back")


@pytest.mark.usefixtures("small_budget")
def test_many_batches_in_little_memory_are_all_served(
    served: Path, heavy: bytes, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    hub = start_in_process(LocalStorage(served))
    expected = [(Status.OK, b"%03d" % number * 87_382) for number in range(COUNT)]
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(BatchConnection(hub))) for _ in range(6)]
        answers = [connection.send("cats", heavy) for connection in connections]
        for answer in answers:
            assert answer.status == 429 or list(read_frames(answer, COUNT)) == expected
        assert 200 in {answer.status for answer in answers}


def test_reader_that_stopped_is_cut_off(
    served: Path,
    heavy: bytes,
    start_in_process: Callable[[LocalStorage], InProcessHub],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(wire, "WRITE_WAIT_S", 0.2)
    hub = start_in_process(LocalStorage(served))
    with send_only(hub, "cats", heavy) as connection:
        wait_until(lambda: "took less than a block" in caplog.text, "the hub gave up")
        answer = receive_all(connection)
    assert not answer.endswith(b"0\r\n\r\n")
    assert len(answer) < HUGE_BYTES


def test_request_that_stops_coming_is_refused(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_request, "BODY_WAIT_S", 0.2)
    hub = start_in_process(LocalStorage(served))
    with connect(hub) as connection:
        lines = [b"Content-Type: application/json", b"Content-Length: 100"]
        connection.sendall(format_request(b"/batch/cats", method=b"POST", headers=lines) + b'{"paths"')
        answer = parse_answer(receive_all(connection))
    assert (answer.status, json.loads(answer.body)["code"]) == (422, "invalid_request")


@needs_proc
def test_client_that_goes_away_leaves_no_file_open(hub: HubProcess, served: Path, heavy: bytes) -> None:
    write_files(served, {"cats/huge": b"A" * HUGE_BYTES})
    requests = [heavy, json.dumps({"paths": ["huge"] * 5}).encode()]
    for number in range(20):
        with send_only(hub, "cats", requests[number % 2]) as connection:
            connection.recv(1000)
    open_files = Path(f"/proc/{hub.process.pid}/fd")

    def are_closed() -> bool:
        targets = []
        for descriptor in open_files.iterdir():
            try:
                targets.append(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
        return not any("cats" in target for target in targets)

    wait_until(are_closed, "the files were closed")


def test_batch_that_is_being_sent_is_finished_when_the_hub_is_told_to_stop(
    hub: HubProcess, served: Path, heavy: bytes
) -> None:
    with closing(BatchConnection(hub)) as connection:
        answer = connection.send("cats", heavy)
        first = answer.read(1000)
        hub.process.terminate()
        rest = answer.read()
    assert first.startswith(b"DSXB")
    assert rest[-28:-4] == b"\xff" * 5 + bytes(3) + struct.pack("<QQ", 8, COUNT)
    assert hub.process.wait(20) == 0
