"""Long entries, which come in ranges: what is asked for, what may go wrong with each, and what is held meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsx._fetch
import dsx._link
import dsx._retry
from dsx import ConflictError, DatasetHubClient, DsxError, EntryNotFoundError, HubUnreachableError, IntegrityError
from dsx._link import Link
from tests.conftest import KEY

from .conftest import WAIT_S, Dataset, files_below, leftovers, run_in_thread, shorten_waits, wait_until
from .proxy import Proxy
from .scripted import HonestScript, Reply, Request, ScriptedHub, answer, answer_problem, describe, format_head, range_of

DATA = random.Random(1).randbytes(100_003)
LONG, LEAST, MOST, BUDGET = 10_000, 2000, 16_000, 48_000

Connect = Callable[..., DatasetHubClient]
Fault = Callable[[Request, bytes], Reply]
StartScripted = Callable[[Callable[[Request], Reply]], ScriptedHub]


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make long what is not, so that entries of some kilobytes have many ranges."""
    monkeypatch.setattr(dsx._fetch, "LONG_BYTES", LONG)
    monkeypatch.setattr(dsx._link, "FIRST_RANGE_BYTES", 4000)
    monkeypatch.setattr(dsx._link, "LEAST_RANGE_BYTES", LEAST)
    monkeypatch.setattr(dsx._link, "MOST_RANGE_BYTES", MOST)
    monkeypatch.setattr(dsx._link, "BUDGET_BYTES", BUDGET)
    monkeypatch.setattr(dsx._retry, "FIRST_DELAY_S", 0.01)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


class RangesScript(HonestScript):
    """Answers requests for ranges with what `fault` makes of them; it is honest where that is None."""

    def __init__(self, fault: Callable[[Request, bytes], Reply | None] = lambda *_: None) -> None:
        super().__init__({"x": DATA})
        self.fault = fault

    def send_entry(self, request: Request, data: bytes) -> Reply:
        reply = self.fault(request, data) if request.method == "GET" else None
        return super().send_entry(request, data) if reply is None else reply


class Once:
    """Gives a fault to the first request for a range that starts past ``start``, and to no other."""

    def __init__(self, fault: Fault, *, times: int = 1, start: int = 1) -> None:
        self._fault, self._left, self._start = fault, times, start
        self._lock = threading.Lock()

    def __call__(self, request: Request, data: bytes) -> Reply | None:
        with self._lock:
            if range_of(request, len(data))[0] < self._start or not self._left:
                return None
            self._left -= 1
        return self._fault(request, data)


def send_part(request: Request, data: bytes, status: int = 0, **changes: str | None) -> bytes:
    """Write an honest answer to a request for a range, or for all, with other headers."""
    start, stop = range_of(request, len(data))
    headers: dict[str, str | None] = {**describe(data), "Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
    if "range" in request.headers:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        status = status or 206
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    named = {name: value for name, value in headers.items() if value is not None}
    return format_head(status or 200, named) + data[start:stop]


def break_off(request: Request, data: bytes) -> bytes:
    """Write an answer without its second half."""
    start, stop = range_of(request, len(data))
    return send_part(request, data)[: -(stop - start) // 2]


def shift(request: Request, data: bytes) -> Reply:
    """Send other bytes than were asked for, and say so."""
    start, stop = range_of(request, len(data))
    return Reply(send_part(request, data, Content_Range=f"bytes {start - 1}-{stop - 2}/{len(data)}"))


FAULTS: dict[str, Fault] = {
    "short": lambda request, data: Reply(break_off(request, data)),
    "nothing": lambda request, data: Reply(send_part(request, b"")[:0]),
    "reset": lambda request, data: Reply(break_off(request, data), end="reset"),
    "stall": lambda request, data: Reply(break_off(request, data), end="hang"),
    "busy": lambda *_: answer(503, Retry_After="0"),
    "too many requests": lambda *_: answer(429),
    "bad gateway": lambda *_: answer(502, b"<html>"),
    "the whole": lambda _, data: Reply(format_head(200, describe(data)) + data),
    "shifted": shift,
    "compressed": lambda request, data: Reply(send_part(request, data, Content_Encoding="gzip")),
    "no length": lambda request, data: Reply(send_part(request, data, Content_Length=None)),
    "longer than asked for": lambda request, data: Reply(send_part(request, data, Content_Length="90000") + data),
    "no Content-Range": lambda request, data: Reply(send_part(request, data, Content_Range=None)),
    "another size": lambda request, data: Reply(
        send_part(request, data + b"1", ETag=describe(data)["ETag"], Repr_Digest=describe(data)["Repr-Digest"])
    ),
    "another version": lambda request, data: Reply(send_part(request, data, ETag='"other"')),
    "no version": lambda request, data: Reply(send_part(request, data, ETag=None)),
    "numbers of 5000 digits": lambda request, data: Reply(
        send_part(request, data, Content_Range=f"bytes 0-{'9' * 5000}/{'9' * 5000}")
    ),
    "not modified": lambda _, data: Reply(format_head(304, {"ETag": describe(data)["ETag"]})),
    "no content": lambda request, data: Reply(send_part(request, data, 204)),
    "changed": lambda *_: answer_problem(412, "precondition_failed", "it is another version now"),
    "changed, by a proxy's word": lambda *_: answer(412),
}


def read(client: DatasetHubClient, call: str) -> bytes:
    """Get the entry in one of the two ways."""
    got = getattr(client, call)("cats", "x")
    return got if isinstance(got, bytes) else got.read_bytes()


def spans(hub: ScriptedHub) -> list[tuple[int, int]]:
    """Return what was asked for of the entry, in order of place."""
    return sorted(range_of(request, len(DATA)) for request in hub.of("GET", "/file/"))


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_long_entry_of_a_manifest_is_asked_for_in_ranges_each_once(
    connect: Connect, start_scripted: StartScripted, call: str
) -> None:
    hub = start_scripted(RangesScript())
    client = connect(hub.url)
    client.get_manifest("cats")
    assert read(client, call) == DATA
    asked = spans(hub)
    assert len(asked) > 6
    assert [start for start, _ in asked] == [0, *(stop for _, stop in asked[:-1])]
    assert asked[-1][1] == len(DATA)
    later = [request for request in hub.of("GET", "/file/") if range_of(request, len(DATA))[0]]
    assert {request.headers["if-match"] for request in later} == {describe(DATA)["ETag"]}


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_entry_that_turns_out_to_be_long_is_gone_on_with_in_ranges(
    connect: Connect, start_scripted: StartScripted, call: str
) -> None:
    hub = start_scripted(RangesScript())
    assert read(connect(hub.url), call) == DATA
    first, *others = hub.of("GET", "/file/")
    assert "range" not in first.headers
    assert min(range_of(request, len(DATA))[0] for request in others) == 4000


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("is_known", [True, False], ids=["in the manifest", "unknown"])
def test_long_entry_that_is_shorter_than_one_range_is_got(
    connect: Connect, start_scripted: StartScripted, is_known: bool
) -> None:
    script = RangesScript()
    script.files["y"] = DATA[: LONG + 100]
    hub = start_scripted(script)
    client = connect(hub.url)
    assert client.get_file_bytes("cats", "x") == DATA
    assert client._transport.link.range_bytes > len(script.files["y"])
    if is_known:
        client.get_manifest("cats")
    assert client.get_file_bytes("cats", "y") == script.files["y"]
    assert len(hub.of("GET", "/file/cats/y")) == 1


@pytest.mark.parametrize("size", [0, 1, 9999, 10_000])
@pytest.mark.usefixtures("_small")
def test_short_entry_is_one_request(connect: Connect, start_scripted: StartScripted, size: int) -> None:
    script = RangesScript()
    script.files["x"] = DATA[:size]
    hub = start_scripted(script)
    client = connect(hub.url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA[:size]
    (request,) = hub.of("GET", "/file/")
    assert "range" not in request.headers
    assert hub.of("HEAD") == []


@pytest.mark.usefixtures("_small")
def test_ranges_are_under_way_together(connect: Connect, start_scripted: StartScripted) -> None:
    lock, together = threading.Lock(), threading.Event()
    waiting = 0

    def wait_for_others(request: Request, data: bytes) -> None:
        nonlocal waiting
        if range_of(request, len(data))[0]:
            with lock:
                waiting += 1
                if waiting == 3:
                    together.set()
            assert together.wait(WAIT_S)

    client = connect(start_scripted(RangesScript(wait_for_others)).url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
@pytest.mark.parametrize("is_known", [True, False], ids=["in the manifest", "unknown"])
def test_range_that_goes_wrong_once_does_no_harm(
    connect: Connect,
    start_scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
    cache_dir: Path,
    fault: Fault,
    call: str,
    is_known: bool,
) -> None:
    shorten_waits(monkeypatch, transfer_s=20, first_contact_s=20, read_s=0.3)
    client = connect(start_scripted(RangesScript(Once(fault))).url)
    if is_known:
        client.get_manifest("cats")
    assert read(client, call) == DATA
    assert call == "get_file_bytes" or leftovers(cache_dir) == []


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_first_range_that_goes_wrong_does_no_harm(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    shorten_waits(monkeypatch, transfer_s=20, first_contact_s=20, read_s=0.3)
    client = connect(start_scripted(RangesScript(Once(fault, start=0))).url)
    client.get_manifest("cats")
    try:
        assert client.get_file_bytes("cats", "x") == DATA
    except ConflictError:  # nobody has asked for a version yet, so that none can have changed
        assert fault in (FAULTS["changed"], FAULTS["changed, by a proxy's word"])


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("start", [0, 1])
def test_ranges_that_always_go_wrong_end_in_the_bytes_or_in_an_error(
    connect: Connect,
    start_scripted: StartScripted,
    monkeypatch: pytest.MonkeyPatch,
    cache_dir: Path,
    fault: Fault,
    start: int,
) -> None:
    shorten_waits(monkeypatch, transfer_s=0.3, first_contact_s=0.3, read_s=0.3)
    always = Once(fault, times=10**9, start=start)
    script = RangesScript(lambda request, data: always(request, data) if "range" in request.headers else None)
    client = connect(start_scripted(script).url)
    client.get_manifest("cats")
    try:
        assert read(client, "get_file") == DATA
    except DsxError as error:
        assert "cats/x" in str(error)  # noqa: PT017 -- either is right
        assert not (cache_dir / "cats").exists()


@pytest.mark.usefixtures("_small")
def test_range_that_breaks_goes_on_where_it_broke(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(RangesScript(Once(FAULTS["short"], start=8000)))
    client = connect(hub.url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA
    starts = [start for start, _ in spans(hub)]
    assert len(set(starts)) == len(starts)
    again = [b for (_, stop), (b, other) in itertools.pairwise(spans(hub)) if other == stop]
    assert len(again) == 1


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    "name", ["shifted", "another size", "another version", "no version", "compressed", "no Content-Range", "no length"]
)
def test_range_that_is_not_what_was_asked_for_is_asked_for_again_alone(
    connect: Connect, start_scripted: StartScripted, name: str
) -> None:
    hub = start_scripted(RangesScript(Once(FAULTS[name])))
    client = connect(hub.url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA
    starts = [start for start, _ in spans(hub)]
    assert (starts.count(0), len(starts) - len(set(starts))) == (1, 1)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_hub_that_knows_no_ranges_sends_it_in_one_piece(
    connect: Connect, start_scripted: StartScripted, call: str
) -> None:
    headers = describe(DATA) | {"Accept-Ranges": "bytes"}  # it says so, and does not
    hub = start_scripted(RangesScript(lambda _, data: Reply(format_head(200, headers) + data)))
    client = connect(hub.url)
    client.get_manifest("cats")
    assert read(client, call) == DATA
    assert len(hub.of("GET", "/file/")) == 1


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_hub_that_gives_no_strong_tag_sends_it_in_one_piece(
    connect: Connect, start_scripted: StartScripted, tag: str
) -> None:
    def send(request: Request, data: bytes) -> Reply:
        if "range" in request.headers:
            return Reply(send_part(request, data, ETag=tag or None))
        return Reply(format_head(200, describe(data) | {"ETag": tag, "Accept-Ranges": "bytes"}) + data)

    hub = start_scripted(RangesScript(send))
    client = connect(hub.url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA
    assert [request.headers.get("range") is not None for request in hub.of("GET", "/file/")] == [True, False]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("size", [0, 1, 3999, 4001, 9000])
def test_entry_that_is_shorter_than_the_manifest_says_is_got(
    connect: Connect, start_scripted: StartScripted, size: int
) -> None:
    script = RangesScript()
    client = connect(start_scripted(script).url)
    client.get_manifest("cats")
    script.files["x"] = DATA[:size]
    assert client.get_file_bytes("cats", "x") == DATA[:size]


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
@pytest.mark.parametrize("is_known", [True, False], ids=["in the manifest", "unknown"])
def test_entry_replaced_between_two_ranges_is_fetched_anew(
    connect: Connect, start_scripted: StartScripted, call: str, is_known: bool
) -> None:
    script = RangesScript()
    other = DATA[::-1]

    def replace(request: Request, data: bytes) -> None:
        if range_of(request, len(data))[0] > 30_000:
            script.files["x"] = other

    script.fault = replace
    client = connect(start_scripted(script).url)
    if is_known:
        client.get_manifest("cats")
    assert read(client, call) == other


@pytest.mark.usefixtures("_small")
def test_entry_that_changes_with_every_range_is_no_mixture(connect: Connect, start_scripted: StartScripted) -> None:
    numbers = itertools.count()

    def change(request: Request, _data: bytes) -> Reply:
        data = bytes([next(numbers) % 256]) * len(DATA)
        return Reply(
            send_part(request, data) if "range" in request.headers else format_head(200, describe(data)) + data
        )

    client = connect(start_scripted(RangesScript(change)).url)
    client.get_manifest("cats")
    assert len(set(client.get_file_bytes("cats", "x"))) == 1


@pytest.mark.usefixtures("_small")
def test_entry_removed_between_two_ranges_is_not_found(
    connect: Connect, start_scripted: StartScripted, cache_dir: Path
) -> None:
    gone = Once(lambda *_: answer_problem(404, "entry_not_found", "gone"), times=10**9, start=30_000)
    client = connect(start_scripted(RangesScript(gone)).url)
    client.get_manifest("cats")
    with pytest.raises(EntryNotFoundError, match="cats/x"):
        client.get_file("cats", "x")
    assert not (cache_dir / "cats").exists()
    wait_until(lambda: not any(t.name == "dsx-range" for t in threading.enumerate()), "the threads have ended")


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("size", [2**63, 9_999_999_999_999_999_999])
def test_size_that_no_file_has_is_an_error(connect: Connect, start_scripted: StartScripted, size: int) -> None:
    def lie(request: Request, data: bytes) -> Reply:
        start, stop = range_of(request, len(data))
        if "range" not in request.headers:
            return Reply(format_head(200, describe(data) | {"Content-Length": str(size)}) + data)
        return Reply(send_part(request, data, Content_Range=f"bytes {start}-{stop - 1}/{size}"))

    client = connect(start_scripted(RangesScript(lie)).url)
    client.get_manifest("cats")
    with pytest.raises(IntegrityError, match="no file has"):
        client.get_file_bytes("cats", "x")


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
def test_wrong_byte_in_a_range_is_fetched_again_once(
    connect: Connect, start_scripted: StartScripted, cache_dir: Path, call: str
) -> None:
    def flip(request: Request, data: bytes) -> Reply:
        start, stop = range_of(request, len(data))
        return Reply(send_part(request, data)[: -(stop - start)] + bytes([data[start] ^ 1]) + data[start + 1 : stop])

    script = RangesScript(Once(flip))
    client = connect(start_scripted(script).url)
    client.get_manifest("cats")
    assert read(client, call) == DATA
    script.files["x"] = DATA[1:]
    script.fault = Once(flip, times=10**9)
    client.get_manifest("cats")
    with pytest.raises(IntegrityError, match="cats/x"):
        read(client, call)
    assert call == "get_file_bytes" or leftovers(cache_dir) == []


@pytest.mark.usefixtures("_small")
def test_bytes_that_wait_for_their_turn_are_bounded(connect: Connect, start_scripted: StartScripted) -> None:
    go_on = threading.Event()
    script = RangesScript(lambda request, data: hold_back(request, data, go_on))
    names = ["a", "b", "c", "x"]
    script.files = {name: name.encode() + DATA for name in names}
    hub = start_scripted(script)
    client = connect(hub.url)

    def asked_bytes() -> int:
        asked = [range_of(request, len(DATA) + 1) for request in hub.of("GET", "/file/")]
        return sum(stop - start for start, stop in asked)

    client.get_manifest("cats")
    with ThreadPoolExecutor(len(names)) as pool:
        files = pool.map(lambda name: client.get_file("cats", name), names)
        wait_until(lambda: asked_bytes() > BUDGET - MOST, "nothing more is asked for")
        time.sleep(0.5)  # in which more would be asked for, if it were
        held = asked_bytes()
        go_on.set()
        assert [file.read_bytes() for file in files] == list(script.files.values())
    # Each entry may have its first range, and one short one when the others have spent the budget.
    assert held <= BUDGET + len(names) * (4000 + LEAST)


def hold_back(request: Request, data: bytes, go_on: threading.Event) -> Reply | None:
    """Send all but the last bytes of an entry's first range until told to go on."""
    start, _ = range_of(request, len(data))
    if start:
        return None
    whole = send_part(request, data)

    def blocks() -> Iterator[bytes]:
        yield whole[:-100]
        go_on.wait(WAIT_S)
        yield whole[-100:]

    return Reply(blocks())


@pytest.mark.usefixtures("_small")
def test_digest_is_asked_for_while_the_bytes_come(connect: Connect, start_scripted: StartScripted) -> None:
    asked = threading.Event()

    class Script(RangesScript):
        def send_entry(self, request: Request, data: bytes) -> Reply:
            if request.method == "HEAD":
                asked.set()
                return super().send_entry(request, data)
            if range_of(request, len(data))[1] == len(data) and "range" in request.headers:
                assert asked.wait(WAIT_S)
            return Reply(send_part(request, data, Repr_Digest=None))

    hub = start_scripted(Script())
    client = connect(hub.url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA
    (head,) = hub.of("HEAD")
    assert (head.headers["if-match"], head.headers["want-repr-digest"]) == (describe(DATA)["ETag"], "sha-256=10")


@pytest.mark.usefixtures("_small")
def test_digest_that_could_not_be_had_early_is_asked_for_again(connect: Connect, start_scripted: StartScripted) -> None:
    refusals = iter([answer(503)])

    class Script(RangesScript):
        def send_entry(self, request: Request, data: bytes) -> Reply:
            if request.method == "HEAD":
                return next(refusals, None) or super().send_entry(request, data)
            return Reply(send_part(request, flipped, Repr_Digest=None, ETag=describe(data)["ETag"]))

    flipped = DATA[:50_000] + bytes([DATA[50_000] ^ 1]) + DATA[50_001:]
    hub = start_scripted(Script())
    client = connect(hub.url)
    client.get_manifest("cats")
    with pytest.raises(IntegrityError):
        client.get_file_bytes("cats", "x")
    assert len(hub.of("HEAD")) == 3


@pytest.mark.usefixtures("_small")
def test_digest_of_the_manifest_is_not_asked_for(connect: Connect, start_scripted: StartScripted) -> None:
    script = RangesScript(lambda request, data: Reply(send_part(request, data, Repr_Digest=None)))
    script.changes = {"digests": [hashlib.sha256(DATA).hexdigest()]}
    hub = start_scripted(script)
    client = connect(hub.url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA
    assert hub.of("HEAD") == []


@pytest.mark.usefixtures("_small")
def test_retry_after_is_obeyed_by_each_range(connect: Connect, start_scripted: StartScripted) -> None:
    seen: list[tuple[float, tuple[int, int]]] = []
    refusal = Once(lambda *_: answer(429, Retry_After="1"))
    refused: list[tuple[int, int]] = []

    def note(request: Request, data: bytes) -> Reply | None:
        span = range_of(request, len(data))
        seen.append((time.monotonic(), span))
        reply = refusal(request, data)
        if reply is not None:
            refused.append(span)
        return reply

    client = connect(start_scripted(RangesScript(note)).url)
    client.get_manifest("cats")
    assert client.get_file_bytes("cats", "x") == DATA
    first, second = [at for at, span in seen if span == refused[0]]
    assert second - first >= 1


def test_hub_that_refuses_is_asked_for_fewer_at_once_and_later_for_more() -> None:
    link, stop = Link(), threading.Event()
    stop.set()  # nobody waits
    with link.request(stop), link.request(stop), link.request(stop), link.request(stop):
        link.note_refusal()
        link.note_refusal()
    assert link._most_requests == 1
    for _ in range(dsx._link.PEACE_RANGES * 20):
        link.note_range(1, 1)
    assert link._most_requests == dsx._link.MOST_REQUESTS


@pytest.mark.parametrize(
    ("bytes_per_s", "due"), [(100e3, 1024**2), (3e6, 3e6), (1e9, 16 * 1024**2)], ids=["slow", "middling", "fast"]
)
def test_range_is_as_long_as_comes_in_a_second(bytes_per_s: float, due: float) -> None:
    link = Link()
    for _ in range(10):
        link.note_range(link.range_bytes, link.range_bytes / bytes_per_s)
    assert link.range_bytes == pytest.approx(due, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 20 * 1024**2), st.booleans()), max_size=40))
def test_budget_is_kept_but_for_a_short_range_each(asked: list[tuple[int, bool]]) -> None:
    link = Link()
    taken = [(link.take(left, is_needed=is_needed), left, is_needed) for left, is_needed in asked]
    assert all(0 < size <= left if is_needed else size <= left for size, left, is_needed in taken)
    needed = sum(is_needed for _, _, is_needed in taken)
    assert sum(size for size, _, _ in taken) <= dsx._link.BUDGET_BYTES + needed * dsx._link.LEAST_RANGE_BYTES


@given(
    faults=st.lists(
        st.one_of(st.none(), st.sampled_from(["short", "nothing", "reset", "busy", "cut"])), min_size=1, max_size=40
    ),
    cuts=st.lists(st.integers(0, 8000), min_size=1, max_size=40),
    size=st.integers(LONG + 1, len(DATA)),
    is_known=st.booleans(),
)
@settings(max_examples=30)
def test_whatever_breaks_and_where_the_bytes_are_right(
    faults: list[str | None], cuts: list[int], size: int, is_known: bool
) -> None:
    lock, left, places = threading.Lock(), iter(faults), itertools.cycle(cuts)

    def fail(request: Request, data: bytes) -> Reply | None:
        with lock:
            name, cut = next(left, None), next(places)
        if name == "cut":
            whole = send_part(request, data)
            head = whole.index(b"\r\n\r\n") + 4
            return Reply(whole[: head + cut])
        return None if name is None else FAULTS[name](request, data)

    script = RangesScript(fail)
    script.files["x"] = DATA[:size]
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        hub = ScriptedHub(script)
        with DatasetHubClient(hub.url, KEY, None) as client:
            if is_known:
                client.get_manifest("cats")
            else:
                client.list_datasets()
            assert client.get_file_bytes("cats", "x") == DATA[:size]
        hub.stop()


DOWNLOAD = """
    import sys
    from dsx import DatasetHubClient
    with DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3]) as hub:
        hub.get_manifest("cats")
        print(hub.get_file("cats", "x"))
"""


def test_killed_client_goes_on_where_the_first_range_that_lacks_begins(
    connect: Connect, start_scripted: StartScripted, start_python: Callable[..., subprocess.Popen[str]], cache_dir: Path
) -> None:
    data = os.urandom(24 * 1024**2)
    never, later = threading.Event(), threading.Event()
    held: list[int] = []

    def hold(request: Request, data: bytes) -> None:
        start, _ = range_of(request, len(data))
        if start >= 6 * 1024**2 and not held:
            held.append(start)
            never.wait(WAIT_S)
        elif held and start > held[0]:
            later.set()

    script = RangesScript(hold)
    script.files["x"] = data
    hub = start_scripted(script)
    process = start_python(DOWNLOAD, hub.url, KEY, cache_dir)
    assert later.wait(WAIT_S)
    wait_until(lambda: any((cache_dir / ".dsx" / "tmp").glob("*.json")), "there is a checkpoint")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=WAIT_S)
    never.set()
    asked_before = len(hub.of("GET", "/file/"))
    script.fault = lambda *_: None
    assert connect(hub.url).get_file("cats", "x").read_bytes() == data
    start, _ = range_of(hub.of("GET", "/file/")[asked_before], len(data))
    assert 4 * 1024**2 <= start <= held[0]
    assert leftovers(cache_dir) == []


def test_download_that_is_given_up_leaves_what_comes_before_the_gap(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    shorten_waits(monkeypatch, transfer_s=0.3, first_contact_s=0.3)
    data = os.urandom(24 * 1024**2)
    lost = Once(FAULTS["nothing"], times=10**9, start=12 * 1024**2)
    script = RangesScript(lost)
    script.files["x"] = data
    hub = start_scripted(script)
    client = connect(hub.url)
    client.get_manifest("cats")
    with pytest.raises(HubUnreachableError):
        client.get_file("cats", "x")
    (resting,) = (cache_dir / ".dsx" / "tmp").glob("*.part")
    assert data.startswith(resting.read_bytes())
    assert resting.stat().st_size >= 8 * 1024**2
    script.fault = lambda *_: None
    assert client.get_file("cats", "x").read_bytes() == data


def test_long_entry_of_the_real_hub_replaced_while_it_comes_is_fetched_anew(
    connect: Connect, dataset: Dataset, start_proxy: Callable[[int], Proxy], cache_dir: Path
) -> None:
    data, other = os.urandom(24 * 1024**2), os.urandom(20 * 1024**2)
    dataset.write({"x": data})
    proxy = start_proxy(dataset.port)
    client = connect(proxy.url)
    client.get_manifest(dataset.name)
    proxy.hold_after(6 * 1024**2)
    with run_in_thread(lambda: client.get_file(dataset.name, "x")) as result:
        assert proxy.held.wait(WAIT_S)
        dataset.write({"x": other})
        proxy.release()
    assert result().read_bytes() == other
    assert [name for name in files_below(cache_dir) if not name.startswith(".dsx/")] == [
        f"{dataset.name}/x",
        f"{dataset.name}_manifest.json",
    ]
