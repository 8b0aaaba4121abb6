"""A hub, or a network, that sends wrong, short, long or foreign bytes: found, and never kept or returned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dsx._retry
from dsx import DatasetHubClient, DsxError, EntryNotFoundError, HubTimeoutError, HubUnreachableError, IntegrityError

from .conftest import Dataset, files_below, leftovers, shorten_waits
from .proxy import Proxy
from .scripted import (
    HonestScript,
    Reply,
    Request,
    ScriptedHub,
    answer_problem,
    describe,
    format_head,
)

DATA = bytes(range(251)) * 40
FAULTS_BEFORE_GIVING_IN = 25

Connect = Callable[..., DatasetHubClient]
Fault = Callable[[Request, bytes], Reply]


class FaultyScript(HonestScript):
    """Sends entries with a fault, as often as told; asked more than a client should ask, it has no such entry."""

    def __init__(self, fault: Fault, times: float) -> None:
        super().__init__({"x": DATA})
        self.fault = fault
        self.left = times
        self.asked = 0

    def send_entry(self, request: Request, data: bytes) -> Reply:
        self.asked += 1
        if self.asked > FAULTS_BEFORE_GIVING_IN:
            return answer_problem(404, "entry_not_found", "asked without end")
        if request.method == "HEAD" or self.left <= 0:
            return super().send_entry(request, data)
        self.left -= 1
        return self.fault(request, data)


def send(headers: dict[str, str], body: bytes | Iterator[bytes], status: int = 200) -> Reply:
    """Put together an answer whose headers need not fit its body."""
    blocks = [body] if isinstance(body, bytes) else body
    return Reply(itertools.chain([format_head(status, headers)], blocks))


def flip(data: bytes, position: int) -> bytes:
    """Change one bit."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def chunk(body: bytes) -> bytes:
    """Write a chunked body."""
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def without(data: bytes, *names: str) -> dict[str, str]:
    """Describe an entry without some headers."""
    return {name: value for name, value in describe(data).items() if name not in names}


WRONG: dict[str, Fault] = {
    "one bit in the head": lambda _, data: send(describe(data), flip(data, 7)),
    "one bit behind the head": lambda _, data: send(describe(data), flip(data, 5000)),
    "one bit behind the head, digest asked for later": lambda _, data: send(
        without(data, "Repr-Digest"), flip(data, 5000)
    ),
    "no length": lambda _, data: send(without(data, "Content-Length"), data),
    "chunked, short": lambda _, data: send(
        without(data, "Content-Length") | {"Transfer-Encoding": "chunked"}, chunk(data[:-1])
    ),
    "chunked, long": lambda _, data: send(describe(data) | {"Transfer-Encoding": "chunked"}, chunk(data + b"1")),
    "compressed": lambda _, data: send(describe(data) | {"Content-Encoding": "gzip"}, data),
    "part that was not asked for": lambda _, data: send(
        describe(data) | {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data, 206
    ),
    "no content": lambda _, data: send(describe(data), b"", 204),
    "not modified": lambda _, data: send({"ETag": describe(data)["ETag"]}, b"", 304),
    "half a head": lambda *_: Reply(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "an older content": lambda _, data: send(describe(data) | {"Content-Length": "3"}, b"old"),
}

BROKEN: dict[str, Fault] = {
    "short": lambda _, data: send(describe(data), data[:4000]),
    "nothing": lambda _, data: send(describe(data), b""),
    "reset": lambda _, data: Reply(format_head(200, describe(data)) + data[:4000], end="reset"),
    "reset before the answer": lambda *_: Reply(b"", end="reset"),
    "no HTTP": lambda *_: Reply(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "chunked, broken off": lambda _, data: send(describe(data) | {"Transfer-Encoding": "chunked"}, chunk(data)[:4000]),
}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._retry, "FIRST_DELAY_S", 0.01)


@pytest.fixture
def start_faulty(start_scripted: Callable[..., ScriptedHub]) -> Callable[..., ScriptedHub]:
    """Start a hub that sends entries with a fault, for ever unless told how often."""

    def start(fault: Fault, times: float = float("inf")) -> ScriptedHub:
        return start_scripted(FaultyScript(fault, times))

    return start


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_wrong_bytes_are_fetched_again_once(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], fault: Fault, call: str
) -> None:
    hub = start_faulty(fault, 1)
    got = getattr(connect(hub.url), call)("cats", "x")
    assert (got if isinstance(got, bytes) else got.read_bytes()) == DATA
    assert len(hub.of("GET", "/file/")) == 2


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_wrong_bytes_that_come_twice_are_an_error_that_names_the_file(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], fault: Fault, call: str
) -> None:
    hub = start_faulty(fault)
    with pytest.raises(IntegrityError, match="cats/x"):
        getattr(connect(hub.url), call)("cats", "x")
    assert len(hub.of("GET", "/file/")) == 2


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
def test_wrong_bytes_leave_the_cache_untouched(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], cache_dir: Path, fault: Fault
) -> None:
    with pytest.raises(IntegrityError):
        connect(start_faulty(fault).url).get_file("cats", "x")
    assert [name for name in files_below(cache_dir) if not name.startswith(".dsx/")] == []
    assert leftovers(cache_dir) == []


@pytest.mark.parametrize("name", sorted(WRONG.keys() - {"not modified"}))  # which here may be asked for
def test_wrong_bytes_leave_the_older_version_as_it_was(
    connect: Connect, start_scripted: Callable[..., ScriptedHub], name: str
) -> None:
    script = FaultyScript(WRONG[name], 0)
    client = connect(start_scripted(script).url)
    local = client.get_file("cats", "x")
    script.files["x"], script.left = DATA[::-1], float("inf")
    with pytest.raises(IntegrityError):
        client.get_file("cats", "x")
    assert local.read_bytes() == DATA


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_broken_transfer_goes_on(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], fault: Fault, call: str
) -> None:
    got = getattr(connect(start_faulty(fault, 2).url), call)("cats", "x")
    assert (got if isinstance(got, bytes) else got.read_bytes()) == DATA


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_transfer_that_always_breaks_at_one_place_is_given_up(
    connect: Connect,
    start_faulty: Callable[..., ScriptedHub],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    call: str,
) -> None:
    shorten_waits(monkeypatch, transfer_s=0.3, first_contact_s=0.3)
    hub = start_faulty(fault)
    with pytest.raises((HubUnreachableError, IntegrityError)):
        getattr(connect(hub.url), call)("cats", "x")


def test_broken_transfer_into_the_cache_goes_on_where_it_broke(
    connect: Connect, start_faulty: Callable[..., ScriptedHub]
) -> None:
    hub = start_faulty(BROKEN["short"], 1)
    connect(hub.url).get_file("cats", "x")
    second = hub.of("GET", "/file/")[1].headers
    assert (second["range"], second["if-range"]) == ("bytes=4000-", describe(DATA)["ETag"])


RANGE_FAULTS: dict[str, Callable[[bytes], Reply]] = {
    "the whole": lambda data: send(describe(data), data),
    "another range": lambda data: send(
        describe(data) | {"Content-Length": "10040", "Content-Range": "bytes 0-10039/10040"}, data, 206
    ),
    "shifted range": lambda data: send(
        describe(data) | {"Content-Length": "6039", "Content-Range": "bytes 4001-10039/10040"}, data[4001:], 206
    ),
    "range without Content-Range": lambda data: send(describe(data) | {"Content-Length": "6040"}, data[4000:], 206),
    "range of another version": lambda data: send(
        describe(data) | {"ETag": '"other"', "Content-Length": "6040", "Content-Range": "bytes 4000-10039/10040"},
        data[4000:],
        206,
    ),
    "wrong bytes in the range": lambda data: send(
        describe(data) | {"Content-Length": "6040", "Content-Range": "bytes 4000-10039/10040"}, b"?" * 6040, 206
    ),
    "compressed": lambda data: send(
        describe(data)
        | {"Content-Length": "6040", "Content-Range": "bytes 4000-10039/10040", "Content-Encoding": "gzip"},
        data[4000:],
        206,
    ),
    "not modified": lambda data: send({"ETag": describe(data)["ETag"]}, b"", 304),
}


@pytest.mark.parametrize("fault", RANGE_FAULTS.values(), ids=RANGE_FAULTS)
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_range_that_is_answered_wrongly_does_no_harm(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], fault: Callable[[bytes], Reply], call: str
) -> None:
    steps = iter([BROKEN["short"], lambda _, data: fault(data)])
    hub = start_faulty(lambda request, data: next(steps)(request, data), 2)
    got = getattr(connect(hub.url), call)("cats", "x")
    assert (got if isinstance(got, bytes) else got.read_bytes()) == DATA


def test_stall_is_bounded(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, transfer_s=0.3, first_contact_s=0.3, read_s=0.3)
    hub = start_faulty(lambda _, data: Reply(format_head(200, describe(data)), end="hang"))
    with pytest.raises(HubTimeoutError, match="stopped answering"):
        connect(hub.url).get_file_bytes("cats", "x")


def test_stalled_transfer_goes_on(
    connect: Connect, start_faulty: Callable[..., ScriptedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, transfer_s=5, first_contact_s=5, read_s=0.3)
    hub = start_faulty(lambda _, data: Reply(format_head(200, describe(data)) + data[:4000], end="hang"), 1)
    assert connect(hub.url).get_file("cats", "x").read_bytes() == DATA


def test_endless_body_is_not_read_to_its_end(connect: Connect, start_faulty: Callable[..., ScriptedHub]) -> None:
    hub = start_faulty(lambda _, data: send(without(data, "Content-Length"), itertools.repeat(b"0" * 65536)))
    with pytest.raises(IntegrityError):
        connect(hub.url).get_file_bytes("cats", "x")


def test_bytes_beyond_the_declared_length_do_not_reach_the_next_answer(
    connect: Connect, start_scripted: Callable[..., ScriptedHub]
) -> None:
    def script(request: Request) -> Reply:
        honest = HonestScript({"x": DATA, "y": b"y"})(request)
        assert isinstance(honest.data, bytes)
        open_end = honest.data.replace(b"connection: close\r\n", b"")
        return Reply(open_end + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", end="close")

    client = connect(start_scripted(script).url)
    assert [client.get_file_bytes("cats", path) for path in ("x", "y", "x")] == [DATA, b"y", DATA]


@pytest.mark.parametrize(
    "mtime", ["soon", "-", "1e9", "9999999999999999999", "1" * 5000, "²"], ids=lambda text: text[:6]
)
@pytest.mark.parametrize("is_own", [True, False])
def test_time_that_cannot_be_is_no_reason_to_break(
    connect: Connect, start_scripted: Callable[..., ScriptedHub], cache_dir: Path, mtime: str, is_own: bool
) -> None:
    class Script(HonestScript):
        def send_entry(self, request: Request, data: bytes) -> Reply:
            headers = describe(data) | {"X-DSX-Mtime-Ns": mtime}
            return Reply(format_head(200, headers) + (b"" if request.method == "HEAD" else data))

    if is_own:
        (cache_dir / "cats").mkdir(parents=True)
        (cache_dir / "cats" / "x").write_bytes(DATA)
    client = connect(start_scripted(Script({"x": DATA})).url)
    try:
        local = client.get_file("cats", "x")
    except DsxError:
        return
    assert local.read_bytes() == DATA


def test_answer_that_carries_nothing_to_verify_against_is_not_believed(
    connect: Connect, start_scripted: Callable[..., ScriptedHub], cache_dir: Path
) -> None:
    class Script(HonestScript):
        def send_entry(self, request: Request, data: bytes) -> Reply:
            headers = {"Content-Length": str(len(data))}
            return Reply(format_head(200, headers) + (b"" if request.method == "HEAD" else b"<html>".ljust(len(data))))

    client = connect(start_scripted(Script({"x": DATA})).url)
    with pytest.raises(DsxError):
        client.get_file("cats", "x")
    assert not (cache_dir / "cats" / "x").exists()


def test_entry_replaced_between_its_bytes_and_its_digest_is_fetched_anew(
    connect: Connect, start_scripted: Callable[..., ScriptedHub]
) -> None:
    class Script(HonestScript):
        def send_entry(self, request: Request, data: bytes) -> Reply:
            if request.method == "HEAD" and data == DATA:
                self.files["x"] = data = DATA[::-1]
            if request.method == "GET" and data == DATA:
                return send(without(data, "Repr-Digest"), data)
            return super().send_entry(request, data)

    assert connect(start_scripted(Script({"x": DATA})).url).get_file("cats", "x").read_bytes() == DATA[::-1]


def test_entry_replaced_while_it_is_sent_is_fetched_anew(
    connect: Connect, start_scripted: Callable[..., ScriptedHub]
) -> None:
    script = FaultyScript(BROKEN["short"], 1)

    def break_off_and_replace(request: Request, data: bytes) -> Reply:
        script.files["x"] = DATA[::-1]
        return BROKEN["short"](request, data)

    script.fault = break_off_and_replace
    assert connect(start_scripted(script).url).get_file("cats", "x").read_bytes() == DATA[::-1]


def test_entry_removed_while_it_is_sent_is_not_found(
    connect: Connect, start_scripted: Callable[..., ScriptedHub], cache_dir: Path
) -> None:
    script = FaultyScript(BROKEN["short"], 1)

    def break_off_and_remove(request: Request, data: bytes) -> Reply:
        del script.files["x"]
        return BROKEN["short"](request, data)

    script.fault = break_off_and_remove
    with pytest.raises(EntryNotFoundError):
        connect(start_scripted(script).url).get_file("cats", "x")
    assert not (cache_dir / "cats" / "x").exists()


@pytest.mark.parametrize("size", [100_000, 5_000_000])
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_bit_that_flips_on_the_way_from_the_real_hub_is_found(
    connect: Connect, dataset: Dataset, start_proxy: Callable[[int], Proxy], size: int, call: str
) -> None:
    mark = b"here and nowhere else"
    data = bytes(size // 2) + mark + bytes(size // 2)
    dataset.write({"x": data})
    proxy = start_proxy(dataset.port)
    proxy.flip_bit_in(mark)
    got = getattr(connect(proxy.url), call)(dataset.name, "x")
    assert (got if isinstance(got, bytes) else got.read_bytes()) == data
    assert len(proxy.file_requests) == 2
