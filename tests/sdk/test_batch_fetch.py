"""Many files in few requests: order, what is asked for again, what is not, and what is left behind."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping

import pytest

import dsx._ahead
import dsx._batch
import dsx._pace
from dsx import (
    ConflictError,
    DatasetHubClient,
    DatasetNotFoundError,
    DsxError,
    EntryNotFoundError,
    HubError,
    HubUnreachableError,
    IntegrityError,
    InvalidPathError,
    InvalidRequestError,
    UnreadableError,
)
from dsx._ahead import Ahead
from dsx._reads import Origin, Read
from tests.conftest import KEY

from .conftest import run_python, shorten_waits, wait_until
from .scripted import (
    HonestScript,
    Reply,
    Request,
    Script,
    ScriptedHub,
    answer_frames,
    answer_problem,
    digests_of,
    paths_of,
    write_end,
    write_frame,
    write_problem,
)

Connect = Callable[..., DatasetHubClient]
StartScripted = Callable[[Script], ScriptedHub]
StartHonest = Callable[[Mapping[str, bytes]], tuple[ScriptedHub, HonestScript]]

HEAD = b"DSXB\x01\0\0\0"
FRAME_BYTES = 1020
"""What an entry of `make_files` is on the wire."""


def make_files(count: int, size: int = 1000) -> dict[str, bytes]:
    """Make entries of other bytes each."""
    return {f"{number:05}": random.Random(number).randbytes(size) for number in range(count)}


def read_all(client: DatasetHubClient, paths: list[str], **options: str) -> list[tuple[str, bytes]]:
    return list(client.iter_file_bytes("cats", paths, **options))  # type: ignore[arg-type]


def threads_left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dsx-batch"]


class First:
    """Gives the first batches to one script each, all else to an honest one."""

    def __init__(self, files: Mapping[str, bytes], *first: Callable[[Reply, Request], Reply]) -> None:
        self.honest = HonestScript(files)
        self._first = list(first)

    def __call__(self, request: Request) -> Reply:
        reply = self.honest(request)
        if request.method == "POST" and self._first:
            return self._first.pop(0)(reply, request)
        return reply


def body_of(reply: Reply) -> tuple[bytes, bytes]:
    """Return head and body of a reply."""
    assert isinstance(reply.data, bytes)
    head, gap, body = reply.data.partition(b"\r\n\r\n")
    return head + gap, body


def cut_at(offset: int, end: str = "close") -> Callable[[Reply, Request], Reply]:
    """Send so many bytes of the stream only."""

    def send(reply: Reply, request: Request) -> Reply:
        head, body = body_of(reply)
        return Reply(head + body[:offset], end)  # type: ignore[arg-type]

    return send


def flip_at(offset: int) -> Callable[[Reply, Request], Reply]:
    """Change one bit of the stream."""

    def send(reply: Reply, request: Request) -> Reply:
        head, body = body_of(reply)
        return Reply(head + body[:offset] + bytes([body[offset] ^ 1]) + body[offset + 1 :])

    return send


def say(reply: Reply) -> Callable[[Reply, Request], Reply]:
    return lambda honest, request: reply


def test_order_is_the_one_given_and_duplicates_are_served(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(300)
    hub, _ = start_honest(files)
    paths = [*files, *files]
    random.Random(7).shuffle(paths)
    assert read_all(connect(hub.url), paths) == [(path, files[path]) for path in paths]


def test_two_thousand_entries_of_a_known_manifest_are_one_request(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(2000, 20)
    hub, _ = start_honest(files)
    client = connect(hub.url)
    client.load_manifest("cats")
    assert dict(read_all(client, list(files))) == files
    assert len(hub.of("POST")) == 1
    assert hub.of("GET", "/file") == []


def test_requests_grow_when_the_entries_turn_out_small(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(4000, 20)
    hub, _ = start_honest(files)
    assert dict(read_all(connect(hub.url), list(files))) == files
    assert len(hub.of("POST")) < 15


@pytest.mark.parametrize("paths", [[], ["empty"]])
def test_nothing_and_empty_entries(connect: Connect, start_honest: StartHonest, paths: list[str]) -> None:
    hub, _ = start_honest({"empty": b""})
    assert read_all(connect(hub.url), paths) == [(path, b"") for path in paths]


def test_long_entries_come_by_themselves_and_in_order(
    connect: Connect, start_honest: StartHonest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._batch, "LONG_BYTES", 2 << 20)
    files = make_files(30) | {"00007.long": b"x" * (3 << 20), "00011.long": b"y" * (2 << 20), "~": b"z" * (5 << 20)}
    hub, _ = start_honest(files)
    client = connect(hub.url)
    assert read_all(client, sorted(files)) == sorted(files.items())
    assert {request.path for request in hub.of("GET", "/file")} == {"/file/cats/00007.long", "/file/cats/~"}
    client.load_manifest("cats")
    asked = len(hub.of("POST"))
    assert read_all(client, sorted(files)) == sorted(files.items())
    assert {path for request in hub.of("POST")[asked:] for path in paths_of(request)} == files.keys() - {
        "00007.long",
        "~",
    }


@pytest.mark.parametrize("offset", [0, 5, 8, 13, 24, 500, 8 + 1018, 8 + FRAME_BYTES, 8 + 7 * FRAME_BYTES + 33, -3, -24])
def test_what_came_of_a_broken_batch_is_not_asked_for_again(
    connect: Connect, start_scripted: StartScripted, offset: int
) -> None:
    files = make_files(20)
    hub = start_scripted(First(files, cut_at(offset)))
    assert read_all(connect(hub.url), list(files)) == list(files.items())
    came = 20 if offset < 0 else max(0, offset - 8) // FRAME_BYTES
    asked = [paths_of(request) for request in hub.of("POST")]
    assert asked == ([list(files)] if came == 20 else [list(files), list(files)[came:]])


def test_reset_in_the_middle_is_gone_on_after(connect: Connect, start_scripted: StartScripted) -> None:
    files = make_files(50)
    hub = start_scripted(First(files, cut_at(20_000, "reset"), cut_at(0, "reset"), cut_at(9_000, "reset")))
    assert read_all(connect(hub.url), list(files)) == list(files.items())


def test_stream_that_ends_early_without_a_declared_length_is_gone_on_after(
    connect: Connect, start_scripted: StartScripted
) -> None:
    def send(reply: Reply, request: Request) -> Reply:
        head, body = body_of(reply)
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
        return Reply(b"\r\n".join(lines) + body[: 8 + 3 * FRAME_BYTES])

    files = make_files(10)
    hub = start_scripted(First(files, send, send))
    assert read_all(connect(hub.url), list(files)) == list(files.items())
    assert [len(paths_of(request)) for request in hub.of("POST")] == [10, 7, 4]


def test_hub_that_breaks_every_batch_at_once_is_given_up(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch)
    hub = start_scripted(First(make_files(3), *[cut_at(8)] * 100))
    with pytest.raises(HubUnreachableError, match="cats/00000"):
        read_all(connect(hub.url), list(make_files(3)))


@pytest.mark.parametrize("index", [0, 5])
def test_flipped_bit_is_fetched_once_more(connect: Connect, start_scripted: StartScripted, index: int) -> None:
    files = make_files(10)
    hub = start_scripted(First(files, flip_at(8 + index * FRAME_BYTES + 100)))
    assert read_all(connect(hub.url), list(files)) == list(files.items())
    assert [paths_of(request) for request in hub.of("POST")] == [list(files), list(files)[index:]]


@pytest.mark.parametrize("is_known", [True, False], ids=["manifest loaded", "no manifest"])
def test_flipped_bit_in_a_status_makes_no_error_and_no_bytes(
    connect: Connect, start_scripted: StartScripted, is_known: bool
) -> None:
    problem = json.dumps({"title": "X", "code": "entry_not_found", "detail": "gone"}).encode()
    files = {"a": b"plain", "b": problem, "c": b"{}", "d": b""}
    hub = start_scripted(First(files, flip_at(12)))
    client = connect(hub.url)
    if is_known:
        client.load_manifest("cats")
    assert read_all(client, list(files)) == list(files.items())
    assert len(hub.of("POST")) == 2  # the first frame was a problem without words

    hub = start_scripted(First(files, say_gone_of("b", 1)))
    client = connect(hub.url)
    if is_known:
        client.load_manifest("cats")
    assert read_all(client, list(files)) == list(files.items())
    assert len(hub.of("POST")) == 1


def say_gone_of(path: str, bit: int) -> Callable[[Reply, Request], Reply]:
    """Say of one entry that it is gone, with one bit of the frame's status flipped."""

    def send(reply: Reply, request: Request) -> Reply:
        head, body = body_of(reply)
        index = paths_of(request).index(path)
        at = 8
        for _ in range(index):
            at += 20 + int.from_bytes(body[at + 8 : at + 16], "little")
        problem = bytearray(write_problem(index, 1, "entry_not_found", "the dataset has none"))
        problem[4] ^= bit
        end = at + 20 + int.from_bytes(body[at + 8 : at + 16], "little")
        return Reply(head + body[:at] + bytes(problem) + body[end:])

    return send


def test_wrong_bytes_twice_are_an_error_and_never_handed_out(connect: Connect, start_scripted: StartScripted) -> None:
    files = make_files(10)
    hub = start_scripted(First(files, flip_at(8 + 4 * FRAME_BYTES + 100), flip_at(8 + 100), flip_at(8 + 100)))
    results = connect(hub.url).iter_file_bytes("cats", list(files))
    assert list(itertools.islice(results, 4)) == list(files.items())[:4]
    with pytest.raises(IntegrityError, match=r"cats/00004.*checksum"):
        next(results)
    assert len(hub.of("POST")) == 2


def test_one_flipped_bit_in_each_of_many_entries_is_got_over(connect: Connect, start_scripted: StartScripted) -> None:
    files = make_files(6)
    hub = start_scripted(First(files, *[flip_at(8 + FRAME_BYTES + 100)] * 4))
    assert read_all(connect(hub.url), list(files)) == list(files.items())


def test_long_range_that_is_damaged_is_fetched_once_more(connect: Connect, start_scripted: StartScripted) -> None:
    files = {"a": b"a" * 10, "long": random.Random(1).randbytes(3 << 20)}
    hub = start_scripted(First(files, flip_at(2 << 20), cut_at(2 << 20)))
    reads = [("a", 0, 5), ("long", 10, 1 << 30), ("a", 1, 2)]
    assert connect(hub.url).read_ranges("cats", reads) == [b"aaaaa", files["long"][10:], b"a"]


def test_batch_that_is_too_large_for_the_hub_is_split(connect: Connect, start_scripted: StartScripted) -> None:
    files = make_files(200)
    honest = HonestScript(files)

    def script(request: Request) -> Reply:
        if request.method == "POST" and len(paths_of(request)) > 20:
            return answer_problem(413, "too_large", "a batch may ask for 20 entries")
        return honest(request)

    hub = start_scripted(script)
    client = connect(hub.url)
    assert read_all(client, list(files)) == list(files.items())
    refused = sum(len(paths_of(request)) > 20 for request in hub.of("POST"))
    assert read_all(client, list(files)) == list(files.items())
    assert sum(len(paths_of(request)) > 20 for request in hub.of("POST")) == refused


def test_one_entry_that_is_too_large_is_an_error(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(lambda request: answer_problem(413, "too_large", "not even one"))
    with pytest.raises(InvalidRequestError, match="not even one"):
        read_all(connect(hub.url), ["a", "b"])


@pytest.mark.parametrize(("status", "code"), [(429, "busy"), (503, "unavailable")])
def test_busy_hub_is_asked_again_when_it_says(
    connect: Connect, start_scripted: StartScripted, status: int, code: str
) -> None:
    came: list[float] = []

    def refuse(reply: Reply, request: Request) -> Reply:
        came.append(time.monotonic())
        return answer_problem(status, code, "come again", Retry_After="1")

    def note(reply: Reply, request: Request) -> Reply:
        came.append(time.monotonic())
        return reply

    files = make_files(5)
    hub = start_scripted(First(files, refuse, note))
    assert read_all(connect(hub.url), list(files)) == list(files.items())
    assert came[1] - came[0] >= 1


def test_hub_that_takes_one_batch_at_once_gets_one_at_once(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._pace, "JOB_BYTES", 20_000)
    monkeypatch.setattr(dsx._pace, "LEAST_JOB_BYTES", 20_000)
    shorten_waits(monkeypatch)
    files = make_files(2000)
    honest = HonestScript(files)
    under_way = threading.Semaphore()

    def script(request: Request) -> Reply:
        if request.method != "POST":
            return honest(request)
        if not under_way.acquire(blocking=False):
            return answer_problem(429, "busy", "one at a time", Retry_After="0")
        try:
            time.sleep(0.01)
            return honest(request)
        finally:
            under_way.release()

    hub = start_scripted(script)
    client = connect(hub.url)
    client.load_manifest("cats")
    assert read_all(client, list(files)) == list(files.items())
    assert len(hub.of("POST")) < 125  # 100 that bring something; they are 160 when three are always tried


@pytest.mark.parametrize(("status", "code"), [(404, "route_not_found"), (405, "method_not_allowed")])
def test_hub_without_batches_is_read_file_by_file(
    connect: Connect, start_scripted: StartScripted, status: int, code: str
) -> None:
    files = make_files(100)
    honest = HonestScript(files)
    hub = start_scripted(lambda r: answer_problem(status, code, "?") if r.method == "POST" else honest(r))
    client = connect(hub.url)
    assert read_all(client, list(files)) == list(files.items())
    asked = len(hub.of("POST"))
    assert client.read_ranges("cats", [("00001", 3, 9), ("00002", 5000, 6000)]) == [files["00001"][3:9], b""]
    with pytest.raises(EntryNotFoundError):
        read_all(client, ["nothing"])
    assert len(hub.of("POST")) == asked <= 3


ERRORS = [
    (1, "entry_not_found", EntryNotFoundError),
    (2, "conflict", ConflictError),
    (3, "unreadable", UnreadableError),
    (4, "invalid_path", InvalidPathError),
]


class Wrong(HonestScript):
    """Has something to say of one entry in place of its bytes."""

    def __init__(self, files: Mapping[str, bytes], status: int, code: str, times: int = 10**9) -> None:
        super().__init__(files)
        self._problem = (status, code, "the words of the hub")
        self.left = times

    def write_frame(self, index: int, path: str, start: int, stop: int) -> bytes:
        if path == "00003" and self.left:
            self.left -= 1
            return write_problem(index, *self._problem)
        return super().write_frame(index, path, start, stop)


@pytest.mark.parametrize(("status", "code", "error"), ERRORS)
def test_error_of_an_entry_is_raised_in_its_turn(
    connect: Connect, start_scripted: StartScripted, status: int, code: str, error: type[DsxError]
) -> None:
    files = make_files(10)
    hub = start_scripted(Wrong(files, status, code))
    results = connect(hub.url).iter_file_bytes("cats", list(files))
    assert list(itertools.islice(results, 3)) == list(files.items())[:3]
    with pytest.raises(error, match=r"cats/00003.*the words of the hub") as caught:
        next(results)
    assert (type(caught.value), caught.value.code) == (error, code)


@pytest.mark.parametrize(("status", "code", "error"), ERRORS)
def test_entry_that_is_wrong_can_be_skipped_and_is_logged_once(
    connect: Connect,
    start_scripted: StartScripted,
    caplog: pytest.LogCaptureFixture,
    status: int,
    code: str,
    error: type[DsxError],
) -> None:
    files = make_files(10)
    hub = start_scripted(Wrong(files, status, code))
    paths = [*files, *files]
    with caplog.at_level(logging.WARNING, "dsx"):
        got = read_all(connect(hub.url), paths, on_error="skip")
    assert got == [(path, files[path]) for path in paths if path != "00003"]
    assert [(record.levelname, "cats/00003" in record.message) for record in caplog.records] == [("WARNING", True)]
    assert "the words of the hub" in caplog.text


def test_entry_that_is_being_written_is_tried_again(connect: Connect, start_scripted: StartScripted) -> None:
    files = make_files(10)
    hub = start_scripted(Wrong(files, 2, "conflict", times=2))
    assert read_all(connect(hub.url), list(files)) == list(files.items())


def test_code_that_does_not_fit_the_status_is_not_believed(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(Wrong(make_files(10), 3, "unauthorized"))
    with pytest.raises(UnreadableError, match="the words of the hub") as caught:
        read_all(connect(hub.url), ["00003"])
    assert caught.value.code == ""


def test_dataset_that_is_not_there_is_raised_whatever_is_skipped(
    connect: Connect, start_scripted: StartScripted
) -> None:
    hub = start_scripted(lambda request: answer_problem(404, "dataset_not_found", "it has: dogs"))
    with pytest.raises(DatasetNotFoundError, match="dogs"):
        read_all(connect(hub.url), ["a"], on_error="skip")


@pytest.mark.parametrize(("status", "code"), [(500, "unreadable"), (409, "conflict"), (500, "internal")])
def test_error_of_the_whole_request_is_not_skipped(
    connect: Connect, start_scripted: StartScripted, status: int, code: str
) -> None:
    hub = start_scripted(lambda request: answer_problem(status, code, "the words of the hub"))
    with pytest.raises(DsxError, match="the words of the hub"):
        read_all(connect(hub.url), ["a", "b"], on_error="skip")
    assert len(hub.requests) == 1


@pytest.mark.parametrize("path", ["../a", "", "/etc/passwd", "a\\b", 5])
def test_path_that_cannot_be_one_is_refused_before_anything_is_read(
    connect: Connect, start_honest: StartHonest, path: str
) -> None:
    hub, _ = start_honest(make_files(3))
    client = connect(hub.url)
    with pytest.raises(InvalidPathError):
        client.iter_file_bytes("cats", ["00000", path])
    with pytest.raises(InvalidPathError):
        client.read_ranges("cats", [("00000", 0, 1), (path, 0, 1)])
    assert hub.requests == []
    assert read_all(client, ["00000", path, "00001"], on_error="skip") == list(make_files(2).items())


@pytest.mark.parametrize("read", [("a", -1, 5), ("a", 5, 4), ("a", 0), ("a", "0", "1"), "a", ("a", 0, None)])
def test_range_that_cannot_be_one_is_refused(connect: Connect, start_honest: StartHonest, read: object) -> None:
    hub, _ = start_honest({"a": b"abc"})
    with pytest.raises(InvalidRequestError, match="start"):
        connect(hub.url).read_ranges("cats", [("a", 0, 1), read])  # type: ignore[list-item]
    assert hub.requests == []


def test_arguments_of_the_wrong_kind_are_refused(connect: Connect) -> None:
    client = connect("http://hub.example:8000")
    with pytest.raises(InvalidRequestError, match="list of paths"):
        client.iter_file_bytes("cats", "a")
    with pytest.raises(InvalidRequestError, match="on_error"):
        client.iter_file_bytes("cats", ["a"], on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(InvalidPathError, match="dataset name"):
        client.iter_file_bytes("../cats", ["a"])


def test_ranges_come_in_order_and_are_clamped(connect: Connect, start_honest: StartHonest) -> None:
    hub, _ = start_honest({"a": b"0123456789", "b": b"xyz"})
    reads = [("b", 1, 2), ("a", 0, 0), ("a", 8, 2**70), ("a", 10, 20), ("a", 2**65, 2**66), ("b", 0, 3), ("b", 1, 2)]
    assert connect(hub.url).read_ranges("cats", reads) == [b"y", b"", b"89", b"", b"", b"xyz", b"y"]
    assert len(hub.of("POST")) == 1


HOSTILE = {
    "another index": HEAD + write_frame(1, 0, b"a") + write_end(1),
    "another status": HEAD + write_frame(0, 9, b"a") + write_end(1),
    "longer than asked for": HEAD + write_frame(0, 0, b"abcdef") + write_end(1),
    "said to be endless": HEAD + write_frame(0, 0, b"", length=2**62),
    "problem without end": HEAD + write_frame(0, 1, b"", length=2**62),
    "no frames": b"<html>" * 100,
    "another version": b"DSXB\x02\0\0\0" + write_end(0),
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE)
def test_stream_that_is_not_what_was_asked_for_is_refused(
    connect: Connect, start_scripted: StartScripted, stream: bytes
) -> None:
    hub = start_scripted(lambda request: answer_frames(stream))
    with pytest.raises(IntegrityError, match="cats/a"):
        connect(hub.url).read_ranges("cats", [("a", 0, 5)])
    assert len(hub.of("POST")) == 2


SURPLUS = {
    "a frame more": write_frame(1, 0, b"b") + write_end(2),
    "bytes after the end": write_end(1) + b"more",
    "another count": write_end(2),
    "flipped bit in the end": write_end(1)[:-1] + b"?",
}


@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
def test_what_comes_behind_the_last_entry_is_not_handed_out(
    connect: Connect, start_scripted: StartScripted, surplus: bytes
) -> None:
    hub = start_scripted(lambda request: answer_frames(HEAD + write_frame(0, 0, b"a") + surplus))
    assert read_all(connect(hub.url), ["a"]) == [("a", b"a")]


def test_entry_that_is_said_to_be_endless_is_not_read_from_the_batch(
    connect: Connect, start_scripted: StartScripted
) -> None:
    endless = answer_frames(HEAD + write_frame(0, 0, b"x" * (3 << 20), length=2**62), Content_Length=str(2**62))
    hub = start_scripted(First({"a": b"a"}, say(endless)))
    assert read_all(connect(hub.url), ["a"]) == [("a", b"a")]


@pytest.mark.parametrize("headers", [{"Content_Type": "text/html"}, {"Content_Encoding": "gzip"}])
def test_answer_of_another_kind_is_refused(
    connect: Connect, start_scripted: StartScripted, headers: dict[str, str]
) -> None:
    stream = HEAD + write_frame(0, 0, b"a") + write_end(1)
    hub = start_scripted(lambda request: answer_frames(stream, **headers))
    with pytest.raises((HubError, IntegrityError)):
        read_all(connect(hub.url), ["a"])


def test_bytes_that_the_digest_does_not_know_are_asked_for_by_themselves(
    connect: Connect, start_honest: StartHonest
) -> None:
    files = make_files(5, 3000)
    hub, script = start_honest(files)
    script.changes["digests"] = digests_of(files)
    client = connect(hub.url)
    client.load_manifest("cats")
    assert read_all(client, list(files)) == list(files.items())
    assert hub.of("GET", "/file") == []
    script.files["00002"] = files["00002"][:-1] + b"?"
    assert dict(read_all(client, list(files))) == script.files
    assert [request.path for request in hub.of("GET", "/file")] == ["/file/cats/00002"]


def test_entry_that_changed_since_the_manifest_is_read_as_it_is(connect: Connect, start_honest: StartHonest) -> None:
    hub, script = start_honest(make_files(5))
    client = connect(hub.url)
    client.load_manifest("cats")
    script.files["00001"] = b"new" * 1000
    assert dict(read_all(client, list(script.files))) == script.files


def test_little_is_asked_for_ahead_of_what_is_used(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(100, 1 << 20)
    hub, _ = start_honest(files)
    client = connect(hub.url)
    client.load_manifest("cats")
    results = client.iter_file_bytes("cats", list(files))
    for number in range(1, 101):
        next(results)
        assert sum(len(paths_of(request)) for request in hub.of("POST")) <= number + 8 * 3
    assert list(results) == []


def test_iterator_without_end_can_be_read(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(5)
    hub, _ = start_honest(files)
    results = connect(hub.url).iter_file_bytes("cats", itertools.cycle(files))
    assert list(itertools.islice(results, 1000)) == list(files.items()) * 200
    results.close()


def test_bytes_in_flight_stay_within_the_budget(connect: Connect, start_honest: StartHonest) -> None:
    budget, size = 1 << 20, 100_000
    files = make_files(200, size)
    hub, _ = start_honest(files)
    ahead = Ahead(connect(hub.url)._batches, Origin("cats"), map(Read, files), budget_bytes=budget)
    got = []
    for read, result in ahead.take():
        if len(got) < 150:  # until each thread waits, or is done
            wait_until(
                lambda: len(ahead._changed._waiters) + sum(job.is_done for job in ahead._jobs) >= len(ahead._jobs),  # type: ignore[attr-defined]
                "nobody brings more",
            )
        assert ahead._held <= budget + dsx._batch.BLOCK_BYTES + size
        got.append((read.path, result))
    assert got == list(files.items())
    assert ahead._held == 0


@pytest.mark.parametrize("offset", [8 + FRAME_BYTES, 8 + 3 * FRAME_BYTES + 40])
def test_iterator_that_is_closed_leaves_no_thread(connect: Connect, start_scripted: StartScripted, offset: int) -> None:
    files = make_files(500)
    hub = start_scripted(First(files, *[cut_at(offset, "hang")] * 9))
    results = connect(hub.url).iter_file_bytes("cats", list(files))
    assert next(results) == ("00000", files["00000"])
    assert threads_left() != []
    results.close()
    assert threads_left() == []


def test_loop_that_is_left_leaves_no_thread(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(500)
    hub, _ = start_honest(files)
    for path, data in connect(hub.url).iter_file_bytes("cats", list(files)):
        assert data == files[path]
        break
    assert threads_left() == []


def test_error_leaves_no_thread(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(Wrong(make_files(500), 1, "entry_not_found"))
    with pytest.raises(EntryNotFoundError):
        read_all(connect(hub.url), list(make_files(500)))
    assert threads_left() == []


ENDS = {
    "end": "",
    "exception": "raise ValueError('mine')",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT); results.send(None)",
}


@pytest.mark.parametrize("how", ENDS)
def test_process_ends_though_the_hub_hangs(start_scripted: StartScripted, how: str) -> None:
    hub = start_scripted(First(make_files(500), *[cut_at(8 + FRAME_BYTES, "hang")] * 9))
    code = f"""
        import sys
        from dsx import DatasetHubClient
        client = DatasetHubClient({hub.url!r}, {KEY!r}, None)
        results = client.iter_file_bytes("cats", [f"{{number:05}}" for number in range(500)])
        try:
            next(results)
            {ENDS[how]}
        except (ValueError, KeyboardInterrupt) as error:
            print(type(error).__name__)
        print("done")
    """
    assert run_python(code).splitlines()[-1] == "done"


def test_iterator_that_is_used_while_the_process_ends_does_not_seem_complete(start_scripted: StartScripted) -> None:
    hub = start_scripted(First(make_files(500), *[cut_at(8 + FRAME_BYTES, "hang")] * 9))
    code = f"""
        import atexit
        def go_on():
            try:
                print("complete", len(list(results)))
            except InvalidRequestError as error:
                print(error)
        atexit.register(go_on)  # called last
        from dsx import DatasetHubClient, InvalidRequestError
        client = DatasetHubClient({hub.url!r}, {KEY!r}, None)
        results = client.iter_file_bytes("cats", [f"{{number:05}}" for number in range(500)])
        next(results)
    """
    assert "process is ending" in run_python(code)


def test_iterator_begun_before_a_fork_is_refused_in_the_child_and_goes_on_in_the_parent(
    start_honest: StartHonest,
) -> None:
    hub, _ = start_honest(make_files(500))
    code = f"""
        import os, signal, sys
        from dsx import DatasetHubClient, InvalidRequestError
        client = DatasetHubClient({hub.url!r}, {KEY!r}, None)
        paths = [f"{{number:05}}" for number in range(500)]
        results = client.iter_file_bytes("cats", paths)
        next(results)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # the end of a child that hangs
            code = 1
            try:
                assert len(list(client.iter_file_bytes("cats", paths))) == 500
                list(results)
            except InvalidRequestError:
                code = 0
            finally:
                os._exit(code)
        assert len(list(results)) == 499
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.close()
        print("both")
    """
    assert run_python(code) == "both\n"


def test_threads_share_a_client(connect: Connect, start_honest: StartHonest) -> None:
    files = make_files(300)
    hub, _ = start_honest(files)
    client = connect(hub.url)
    wrong: list[object] = []

    def work() -> None:
        try:
            if dict(read_all(client, list(files))) != files:
                wrong.append("bytes")
        except DsxError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
