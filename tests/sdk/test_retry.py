"""How long the SDK keeps trying, and what it waits for."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsx._fetch
import dsx._problems
import dsx._retry
from dsx import AccessDeniedError, DatasetHubClient, DsxError, HubUnavailableError, HubUnreachableError, IntegrityError
from dsx._retry import Patience
from dsx._transport import Transport
from dsx.config import HubAddress

from .scripted import HonestScript, Reply, Request, ScriptedHub, answer, answer_json

Connect = Callable[..., DatasetHubClient]
StartScripted = Callable[[Callable[[Request], Reply]], ScriptedHub]


class Clock(threading.Event):
    """Stands for the clock and for waiting: time passes by being waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now_s += timeout
        return self.is_set()

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that `Patience` goes by."""
    made = Clock()

    class Time:
        monotonic = staticmethod(made.monotonic)

    monkeypatch.setattr(dsx._retry, "time", Time)
    return made


def fail_with(error: DsxError) -> Callable[[], None]:
    """Make a call that always fails."""

    def call() -> None:
        raise error

    return call


def retry_after(seconds: float) -> HubUnavailableError:
    """Make the error of a hub that asks to come back later."""
    error = HubUnavailableError("busy")
    error.retry_after_s = seconds
    return error


@pytest.mark.parametrize("seconds", [3, 60])
def test_tries_end_when_the_time_is_over(clock: Clock, seconds: float) -> None:
    with pytest.raises(HubUnreachableError):
        Patience(seconds, clock).run(fail_with(HubUnreachableError("gone")))
    assert sum(clock.waits) <= seconds
    assert sum(clock.waits) > seconds / 2


def test_delays_grow_to_a_limit(clock: Clock) -> None:
    with pytest.raises(HubUnreachableError):
        Patience(60, clock).run(fail_with(HubUnreachableError("gone")))
    assert clock.waits[0] < 0.5
    assert clock.waits[-1] > clock.waits[0]
    assert max(clock.waits) <= 5
    assert len(clock.waits) < 40


def test_delays_have_jitter(clock: Clock) -> None:
    firsts = set()
    for _ in range(20):
        clock.waits.clear()
        with pytest.raises(HubUnreachableError):
            Patience(1, clock).run(fail_with(HubUnreachableError("gone")))
        firsts.add(clock.waits[0])
    assert len(firsts) > 1


def test_what_trying_again_cannot_help_is_raised_at_once(clock: Clock) -> None:
    with pytest.raises(AccessDeniedError):
        Patience(60, clock).run(fail_with(AccessDeniedError("no")))
    assert clock.waits == []


def test_only_the_attribute_decides(clock: Clock) -> None:
    error = HubUnreachableError("a certificate that is not trusted")
    error.retryable = False
    with pytest.raises(HubUnreachableError):
        Patience(60, clock).run(fail_with(error))
    assert clock.waits == []


def test_wrong_bytes_are_tried_again_once(clock: Clock) -> None:
    with pytest.raises(IntegrityError):
        Patience(60, clock).run(fail_with(IntegrityError("wrong")))
    assert len(clock.waits) == 1


def test_result_of_a_later_try_is_returned(clock: Clock) -> None:
    outcomes = iter([HubUnreachableError("1"), HubUnreachableError("2"), "here"])

    def call() -> object:
        outcome = next(outcomes)
        if isinstance(outcome, DsxError):
            raise outcome
        return outcome

    assert Patience(60, clock).run(call) == "here"


def test_retry_after_is_obeyed(clock: Clock) -> None:
    with pytest.raises(HubUnavailableError):
        Patience(60, clock).run(fail_with(retry_after(20)))
    assert len(clock.waits) == 2 or len(clock.waits) == 3
    assert min(clock.waits) >= 20


def test_retry_after_beyond_the_time_is_an_error_at_once(clock: Clock) -> None:
    with pytest.raises(HubUnavailableError) as caught:
        Patience(60, clock).run(fail_with(retry_after(3600)))
    assert (clock.waits, caught.value.retry_after_s) == ([], 3600)


def test_progress_starts_the_time_anew(clock: Clock) -> None:
    patience = Patience(10, clock)
    for _ in range(20):
        clock.now_s += 8
        patience.note_progress(10)
        patience.wait_after(HubUnreachableError("broke"))
    assert len(clock.waits) == 20


def test_stop_ends_the_tries(clock: Clock) -> None:
    clock.set()
    with pytest.raises(HubUnreachableError):
        Patience(60, clock).run(fail_with(HubUnreachableError("gone")))
    assert clock.waits == []


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize(
    "after",
    ["7", " 7 ", formatdate(1_700_000_007, usegmt=True), "Tuesday, 14-Nov-23 22:13:27 GMT", "Tue Nov 14 22:13:27 2023"],
    ids=["seconds", "spaces", "date", "RFC 850", "asctime"],
)
def test_retry_after_is_read(
    start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, status: int, after: str
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setattr("dsx._problems.time.time", lambda: 1_700_000_000.0)
    hub = start_scripted(lambda _: answer(status, Retry_After=after))
    transport = Transport(HubAddress(hub.url, "key"))
    with pytest.raises(HubUnavailableError) as caught, transport.open("GET", "/datasets"):
        pass
    transport.close()
    monkeypatch.undo()
    time.tzset()
    assert caught.value.retry_after_s == 7


@given(st.one_of(st.text(max_size=60), st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+\-\w]+")))
def test_any_retry_after_is_a_number_or_nothing(value: str) -> None:
    seconds = dsx._problems.parse_retry_after(value)
    assert seconds is None or seconds >= 0


def test_date_in_the_past_is_now() -> None:
    past = format_datetime(datetime(2001, 1, 1, tzinfo=UTC), usegmt=True)
    assert dsx._problems.parse_retry_after(past) == 0


def test_date_of_another_zone_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.now(timezone(timedelta(hours=9))) + timedelta(seconds=100)
    seconds = dsx._problems.parse_retry_after(format_datetime(later))
    assert seconds is not None
    assert 90 < seconds <= 100


def test_hub_that_is_busy_for_a_moment_is_waited_for(connect: Connect, start_scripted: StartScripted) -> None:
    replies = itertools.chain([answer(503, Retry_After="1"), answer(429)], itertools.repeat(answer_json(["cats"])))
    hub = start_scripted(lambda _: next(replies))
    assert connect(hub.url).list_datasets() == ["cats"]
    assert len(hub.requests) == 3


def test_busy_hub_in_the_middle_of_a_download_is_waited_for(connect: Connect, start_scripted: StartScripted) -> None:
    honest = HonestScript({"x": b"1"})
    busy = iter([answer(503, Retry_After="1"), answer(429, Retry_After="1")])

    def script(request: Request) -> Reply:
        return next(busy, None) or honest(request) if request.path.startswith("/file/") else honest(request)

    client = connect(start_scripted(script).url)
    client.list_datasets()
    assert client.get_file_bytes("cats", "x") == b"1"


@pytest.fixture
def dead_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.list_datasets(),
        lambda client: client.get_manifest("cats"),
        lambda client: client.get_file("cats", "x"),
        lambda client: client.get_file_bytes("cats", "x"),
        lambda client: client.download_dataset("cats"),
    ],
    ids=["list_datasets", "get_manifest", "get_file", "get_file_bytes", "download_dataset"],
)
def test_first_contact_with_nobody_fails_within_ten_seconds(
    connect: Connect, dead_port: int, call: Callable[[DatasetHubClient], object]
) -> None:
    began = time.monotonic()
    with pytest.raises(HubUnreachableError, match=f"127.0.0.1:{dead_port}"):
        call(connect(f"http://127.0.0.1:{dead_port}"))
    assert time.monotonic() - began < 10


def test_host_that_does_not_exist_is_an_error_that_names_it(connect: Connect) -> None:
    with pytest.raises(HubUnreachableError, match=r"no-such-host\.invalid"):
        connect("http://no-such-host.invalid:8000").list_datasets()
