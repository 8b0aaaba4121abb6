"""Requests made to harm: paths that climb, headers that smuggle, targets that are no targets."""

from __future__ import annotations

import itertools
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import HubProcess, write_files
from tests.hub.conftest import ask, connect, format_request, receive_all, wait_until

CANARY = b"canary-these-bytes-lie-outside"
CLIMBS = [
    b"../",
    b"..%2f",
    b"..%5c",
    b"..\\",
    b"%2e%2e/",
    b"%252e%252e%252f",
    b"....//",
    b"%c0%ae%c0%ae/",
    b"./",
    b"/",
    b"%00",
    b"cats/",
]
CHARACTERS = [b".", b"/", b"\\", b"%2e", b"%2f", b"%5c", b"%00", b"%", b"~", b":", b";", b"C:"]


@pytest.fixture(scope="module")
def target_hub(shared_hub: HubProcess, shared_served: Path) -> Iterator[HubProcess]:
    """A hub with canaries all around its one dataset, which must be as healthy afterwards as before."""
    write_files(shared_served, {"cats/x": b"inside", "cats-secret.txt": CANARY, "canary.txt": CANARY, ".env": CANARY})
    write_files(shared_served, {".cats/canary.txt": CANARY, "lost+found/canary.txt": CANARY})
    write_files(shared_served.parent, {"canary.txt": CANARY, "served-secret/canary.txt": CANARY, ".env": CANARY})
    yield shared_hub
    assert ask(shared_hub, b"/file/cats/x").body == b"inside"
    assert ask(shared_hub, b"/health").status == 200
    assert shared_hub.process.poll() is None
    assert "Traceback" not in shared_hub.log


def send_all(hub: HubProcess, targets: list[bytes]) -> list[bytes]:
    """Send a request for each target, over as few connections as the hub allows; return the answers."""
    answers: list[bytes] = []
    while len(answers) < len(targets):
        batch = targets[len(answers) : len(answers) + 100]
        with connect(hub) as connection:
            requests = [format_request(target, close=False) for target in batch[:-1]]
            connection.sendall(b"".join([*requests, format_request(batch[-1])]))
            found = re.split(rb"(?=HTTP/1\.1 \d\d\d )", receive_all(connection))[1:]
        assert found, f"no answer to {batch[0]!r}"
        answers += found
    assert len(answers) == len(targets)
    return answers


def assert_harmless(targets: list[bytes], answers: list[bytes]) -> None:
    """No answer holds a canary, and none says that the hub failed."""
    for target, answer in zip(targets, answers, strict=True):
        assert CANARY not in answer, target
        assert answer[9:10] in b"1234", (target, answer[:300])


@pytest.mark.parametrize("route", [b"/file/", b"/file/cats/"])
def test_no_spelling_of_a_climb_reaches_a_file_outside(target_hub: HubProcess, route: bytes) -> None:
    targets = [
        route + b"".join(climb) + b"canary.txt"
        for count in (1, 2, 3)
        for climb in itertools.product(CLIMBS, repeat=count)
    ]
    assert_harmless(targets, send_all(target_hub, targets))


@pytest.mark.parametrize("route", [b"/manifest/", b"/datasets/", b"/static-offline-docs/", b"/docs/", b"/"])
def test_no_spelling_of_a_climb_gets_through_another_route(target_hub: HubProcess, route: bytes) -> None:
    targets = [
        route + b"".join(climb) + end
        for count in (1, 2)
        for climb in itertools.product(CLIMBS, repeat=count)
        for end in (b"", b"canary.txt")
    ]
    assert_harmless(targets, send_all(target_hub, targets))


@pytest.mark.parametrize("route", [b"/file/cats/", b"/file/", b"/manifest/", b"/datasets/"])
def test_no_short_string_of_dangerous_characters_harms(target_hub: HubProcess, route: bytes) -> None:
    count = 3 if route == b"/file/cats/" else 2
    targets = [route + b"".join(text) for text in itertools.product(CHARACTERS, repeat=count)]
    assert_harmless(targets, send_all(target_hub, targets))


@pytest.mark.parametrize(
    "path",
    [
        b"/etc/passwd",
        b"%2fetc%2fpasswd",
        b"..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc/passwd",
        b"../" * 20 + b"etc/passwd",
        b"file:///etc/passwd",
        b"C:/Windows/win.ini",
        b"C:%5cWindows%5cwin.ini",
        b"%5c%5chost%5cshare%5cx",
        b"//host/share/x",
        b"/proc/self/environ",
        b"%c0%af..%c0%afcanary.txt",
        b"%e0%80%ae%e0%80%ae/canary.txt",
        b"%uff0e%uff0e/canary.txt",
        b"\xef\xbc\x8e\xef\xbc\x8e/canary.txt",
        b"%ef%bc%8e%ef%bc%8e/canary.txt",
        b"x%00.txt",
        b"x/../../canary.txt",
        b"x%2f..%2f..%2fcanary.txt",
        b".../...//canary.txt",
        b"..;/canary.txt",
        b"%2e%2e%3b/canary.txt",
        b"%25%32%65%25%32%65/canary.txt",
    ],
    ids=repr,
)
def test_well_known_spelling_does_not_lead_outside(target_hub: HubProcess, path: bytes) -> None:
    for route in (b"/file/cats/", b"/file/", b"/manifest/", b"/datasets/"):
        answer = ask(target_hub, route + path)
        assert 400 <= answer.status < 500
        assert CANARY not in answer.body
        assert b"root:" not in answer.body


@pytest.mark.parametrize("name", [b".", b"..", b"%2e", b"%2e%2e", b".env", b"canary.txt", b"-secret", b".cats"])
def test_name_that_is_no_dataset_is_refused_on_every_route(target_hub: HubProcess, name: bytes) -> None:
    for target in (b"/manifest/" + name, b"/datasets/" + name, b"/file/" + name + b"/canary.txt"):
        answer = ask(target_hub, target)
        assert answer.status in (400, 404)
        assert CANARY not in answer.body


def test_folder_whose_name_begins_like_the_served_one_is_not_reached(target_hub: HubProcess) -> None:
    for target in (
        b"/file/..%2fserved-secret/canary.txt",
        b"/file/-secret/canary.txt",
        b"/file/cats/..-secret/canary.txt",
    ):
        assert ask(target_hub, target).status in (400, 404)


@pytest.mark.parametrize("path", [b"%ff", b"caf%e9", b"%c3", b"%ed%a0%80", b"%f8%88%80%80%80"])
def test_path_that_is_not_utf8_is_refused_with_a_reason(target_hub: HubProcess, path: bytes) -> None:
    answer = ask(target_hub, b"/file/cats/" + path)
    assert answer.status in (400, 404)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "target",
    [
        b"/file/cats/\xc3\xa9",
        b"/file/cats/\xff",
        b"/manifest/\xff",
        b"/\x80",
        b"/datasets?\xff",
        "/file/cats/\u6f22".encode(),
    ],
    ids=repr,
)
def test_target_that_is_not_ascii_is_refused_as_the_clients_mistake(target_hub: HubProcess, target: bytes) -> None:
    assert 400 <= ask(target_hub, target).status < 500


@pytest.mark.parametrize(
    "target",
    [b"*", b"", b"hub:80", b"http://", b"http://hub", b"x", b"?", b"#", b"%", b"//", b"/%zz", b"/file/cats/%zz", b"/%"],
)
@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"CONNECT", b"X-MADE-UP"])
def test_odd_target_is_never_a_failure_of_the_hub(target_hub: HubProcess, method: bytes, target: bytes) -> None:
    with connect(target_hub) as connection:
        connection.sendall(format_request(target, method=method))
        connection.shutdown(socket.SHUT_WR)
        raw = receive_all(connection)
    assert not re.match(rb"HTTP/1\.\d 5", raw), raw


@pytest.mark.parametrize(
    "line",
    [
        b"Range: bytes=0-0\r\nX-Injected: 1",
        b"Range: \x00",
        b"Range: \xff\xfe",
        b"If-None-Match: " + b'"x",' * 10_000,
        b"If-None-Match: \xff",
        b'If-Match: \x80"',
        b"If-Modified-Since: " + b"9" * 5000,
        b"If-Modified-Since: Mon, 32 Foo 99999 99:99:99 GMT",
        b"If-Modified-Since: Fri, 31 Dec 99999999999999 23:59:59 GMT",
        b"If-Unmodified-Since: Thu, 01 Jan 0001 00:00:00 +2359",
        b"If-Range: \xff",
        b"Accept-Encoding: " + b"gzip;q=" * 5000,
        b"Accept-Encoding: gzip;q=" + b"0" * 20_000 + b"x",
        b"Want-Repr-Digest: " + b"sha-256=" * 5000,
        b"Want-Repr-Digest: \xff",
        b'Host: evil"<script>',
        b"X-Forwarded-Host: evil",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"X: " + b"a" * 60_000,
    ],
    ids=lambda line: repr(line[:40]),
)
@pytest.mark.parametrize("target", [b"/file/cats/x", b"/manifest/cats"])
def test_odd_header_is_never_a_failure_of_the_hub(target_hub: HubProcess, target: bytes, line: bytes) -> None:
    with connect(target_hub) as connection:
        connection.sendall(format_request(target, headers=[line]))
        connection.shutdown(socket.SHUT_WR)
        raw = receive_all(connection)
    assert not re.match(rb"HTTP/1\.\d 5", raw), raw
    head = raw.partition(b"\r\n\r\n")[0].lower()
    assert b"x-injected" not in head
    assert b"script" not in head


def test_redirect_goes_nowhere_else(target_hub: HubProcess) -> None:
    for target in (b"/datasets/", b"//evil.example/datasets/", b"/manifest/cats/", b"//evil.example/..%2f"):
        location = ask(target_hub, target).headers.get("location", "")
        assert location == "" or re.match(r"https?://hub/(?!/)|/(?!/)", location), location


@pytest.mark.parametrize(
    "name", ["line\r\nX-Injected: 1", 'quote"', "\u6f22\u5b57", "\x1b[31m", "caf\u00e9\r\n\r\n<html>"]
)
def test_name_of_an_entry_never_reaches_a_header(target_hub: HubProcess, shared_served: Path, name: str) -> None:
    write_files(shared_served / "cats", {f"odd/{name}": b"bytes"})
    answer = ask(target_hub, f"/file/cats/odd/{quote(name)}".encode())
    assert (answer.status, answer.body) == (200, b"bytes")
    random = ("etag", "x-dsx-hash", "x-request-id")  # hex digits: any of them may spell "caf"
    headers = repr({key: value for key, value in answer.headers.items() if key not in random})
    assert not any(part in headers for part in ("njected", "quote", "html", "caf", "\\x1b", "[31m"))


@pytest.mark.parametrize(
    "target",
    [
        b"/file/cats/a%0aFORGED",
        b"/file/cats/a%0d%0aFORGED",
        b"/file/cats/a%1b[31mFORGED",
        b"/manifest/a%0aFORGED",
        b"/datasets/a%0aFORGED",
        b"/a%0aFORGED",
        b"/file/a%0aFORGED/b",
        b"/file/cats/%e2%80%a8FORGED",
    ],
    ids=bytes.decode,
)
def test_log_line_of_a_request_stays_one_printable_line(target_hub: HubProcess, target: bytes) -> None:
    answer = ask(target_hub, target)
    tag = f"id={answer.headers['x-request-id']}"
    wait_until(lambda: tag in target_hub.log, "the line was written")
    lines = [line for line in target_hub.log.split("\n") if tag in line]
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert not any(line.startswith("FORGED") for line in target_hub.log.splitlines())
    assert "\x1b" not in target_hub.log


def test_raw_control_bytes_in_a_target_do_not_reach_the_log(target_hub: HubProcess) -> None:
    for byte in (b"\x01", b"\x08", b"\x0b", b"\x0c", b"\x1b", b"\x7f", b"\x85", b"\x9b", b"\t"):
        with connect(target_hub) as connection:
            connection.sendall(format_request(b"/file/cats/" + byte + b"RAWBYTE"))
            receive_all(connection)
    marker = ask(target_hub, b"/health").headers["x-request-id"]
    wait_until(lambda: marker in target_hub.log, "the lines were written")
    assert all(line.isprintable() for line in target_hub.log.split("\n"))


def test_query_is_not_in_the_log(target_hub: HubProcess) -> None:
    tag = f"id={ask(target_hub, b'/datasets?token=hush-hush').headers['x-request-id']}"
    wait_until(lambda: tag in target_hub.log, "the line was written")
    assert "hush-hush" not in target_hub.log


def test_request_that_is_no_http_is_refused_and_others_are_served(target_hub: HubProcess) -> None:
    for rubbish in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ):
        with connect(target_hub) as connection:
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            assert not re.match(rb"HTTP/1\.\d [25]", receive_all(connection))
    assert ask(target_hub, b"/health").status == 200


def test_body_of_a_get_is_not_taken_for_the_next_request(target_hub: HubProcess) -> None:
    smuggled = format_request(b"/file/cats/x", close=True)
    with connect(target_hub) as connection:
        headers = [b"Content-Length: " + str(len(smuggled)).encode()]
        connection.sendall(format_request(b"/health", headers=headers, close=False) + smuggled)
        connection.sendall(format_request(b"/health"))
        raw = receive_all(connection)
    assert raw.count(b"HTTP/1.1 200") == 2
    assert b"inside" not in raw


def test_half_a_request_keeps_nobody_waiting(target_hub: HubProcess) -> None:
    idle = [connect(target_hub) for _ in range(200)]
    try:
        for connection in idle:
            connection.sendall(b"GET /file/cats/x HTTP/1.1\r\nHost: hub\r\nX: ")
        assert ask(target_hub, b"/file/cats/x").body == b"inside"
    finally:
        for connection in idle:
            connection.close()
