"""A hub that means harm: manifests, redirects, bombs and words that would do something if they were believed."""

from __future__ import annotations

import gzip
import http.server
import itertools
import re
import resource
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dsx._manifests
from dsx import DatasetHubClient, DsxError, HubError, IntegrityError
from tests.conftest import KEY

from .conftest import files_below, run_python
from .scripted import (
    HonestScript,
    Reply,
    Request,
    ScriptedHub,
    answer,
    answer_json,
    answer_problem,
    columns_of,
    format_head,
)

FILES = {"a": b"1", "b": b"2"}

Connect = Callable[..., DatasetHubClient]
StartScripted = Callable[[Callable[[Request], Reply]], ScriptedHub]


def columns_with_path(path: str) -> dict[str, object]:
    """Build a manifest of one file with a name of the test's choice."""
    return columns_of({path: b"1"})


def nested(depth: int) -> bytes:
    """Write JSON that is lists in lists."""
    return b"[" * depth + b"]" * depth


PATHS = [
    "../x",
    "/etc/passwd",
    "a/../../x",
    "..",
    ".",
    "",
    "a//b",
    "a/",
    "a\\..\\x",
    "C:\\x",
    "x\0",
    "./x",
    "x/" * 3000,
]
MANIFESTS: dict[str, object] = {
    **{f"path {path[:12]!a}": columns_with_path(path) for path in PATHS},
    "duplicates": columns_of(FILES, paths=["a", "a"]),
    "not sorted": columns_of(FILES, paths=["b", "a"]),
    "negative size": columns_of(FILES, sizes=[-1, 1]),
    "size of 2^63": columns_of(FILES, sizes=[2**63, 1]),
    "size of 5000 digits": columns_of(FILES, sizes=["SIZE", 1]),
    "size as text": columns_of(FILES, sizes=["1", 1]),
    "size as fraction": columns_of(FILES, sizes=[1.5, 1]),
    "size as truth": columns_of(FILES, sizes=[True, 1]),
    "size as null": columns_of(FILES, sizes=[None, 1]),
    "mtime of 2^63": columns_of(FILES, mtimes_ns=[2**63, 1]),
    "hash too short": columns_of(FILES, hashes=["ab", "cd"]),
    "hash with a newline": columns_of(FILES, hashes=["0" * 32 + "\n", "0" * 32]),
    "path as number": columns_of(FILES) | {"paths": [1, 2]},
    "columns that differ in length": columns_of(FILES) | {"sizes": [1]},
    "no columns": {},
    "another revision": columns_of(FILES) | {"revision": "0" * 32},
    "no revision": columns_of(FILES) | {"revision": ""},
    "rows where columns were asked for": [{"path": "a", "size": 1, "hash": "0" * 32}],
    "null": None,
    "text": "manifest",
}


def serve_manifest(body: bytes, **headers: str) -> Callable[[Request], Reply]:
    """Answer requests for a manifest with ``body``."""
    return lambda _: answer(200, body, **({"Content_Type": "application/json"} | headers))


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
def test_manifest_that_cannot_be_right_is_refused_and_not_kept(
    connect: Connect, start_scripted: StartScripted, cache_dir: Path, manifest: object
) -> None:
    reply = answer_json(manifest, ETag='W/"1"')
    assert isinstance(reply.data, bytes)
    data = reply.data.partition(b"\r\n\r\n")[2].replace(b'"SIZE"', b"9" * 5000)
    hub = start_scripted(serve_manifest(data))
    with pytest.raises(IntegrityError, match="manifest"):
        connect(hub.url).get_manifest("cats")
    assert [name for name in files_below(cache_dir) if "cats" in name] == []


@pytest.mark.parametrize(
    "body",
    [
        b"<!doctype html><html><body>Login</body></html>",
        b"",
        b"{",
        nested(100_000),
        b'{"revision": ' + nested(100_000) + b"}",
        b"\xff\xfe",
        b'{"revision": NaN}',
        b'{"paths": ["\\ud800"]}',
    ],
    ids=["html", "empty", "half", "deep", "deep inside", "not UTF-8", "NaN", "lone surrogate"],
)
@pytest.mark.parametrize("call", ["get_manifest", "list_datasets"])
def test_body_that_is_no_such_document_is_an_error(
    connect: Connect, start_scripted: StartScripted, body: bytes, call: str
) -> None:
    client = connect(start_scripted(serve_manifest(body)).url)
    with pytest.raises((IntegrityError, HubError)):
        client.get_manifest("cats") if call == "get_manifest" else client.list_datasets()


@pytest.mark.parametrize("names", [["../x"], ["/etc"], [".dsx"], [""], [1], {"a": 1}, [None], ["a/b"]], ids=repr)
def test_dataset_names_that_cannot_be_are_refused(
    connect: Connect, start_scripted: StartScripted, names: object
) -> None:
    with pytest.raises(DsxError):
        connect(start_scripted(lambda _: answer_json(names)).url).list_datasets()


def test_no_path_of_a_manifest_leaves_the_cache(
    connect: Connect, start_scripted: StartScripted, cache_dir: Path, tmp_path: Path
) -> None:
    before = files_below(tmp_path)
    for path in PATHS:
        reply = answer_json(columns_with_path(path))
        with pytest.raises(DsxError):
            connect(start_scripted(lambda _, reply=reply: reply).url).download_dataset("cats")  # type: ignore[misc]
    outside = {name for name in files_below(tmp_path) if not name.startswith("cache/.dsx/")}
    assert outside == set(before)


BOMB_BYTES = 3 * 1024**3


def pack_zeros(count: int) -> bytes:
    """Write gzip that unpacks to zeros: one piece, over and over."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(32 * 1024**2)
    first, again = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * (count // len(block) - 1)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """3 MB of gzip that unpack to 3 GiB."""
    return pack_zeros(BOMB_BYTES)


def test_gzip_bomb_does_not_fill_the_memory(connect: Connect, start_scripted: StartScripted, bomb: bytes) -> None:
    client = connect(start_scripted(serve_manifest(bomb, Content_Encoding="gzip")).url)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError):
        client.get_manifest("cats")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < BOMB_BYTES / 6


def test_manifest_that_really_is_gzip_is_read(connect: Connect, start_scripted: StartScripted) -> None:
    reply = answer_json(columns_of(FILES)).data
    assert isinstance(reply, bytes)
    packed = gzip.compress(reply.partition(b"\r\n\r\n")[2])
    hub = start_scripted(serve_manifest(packed, Content_Encoding="gzip"))
    assert [row["path"] for row in connect(hub.url).get_manifest("cats")] == ["a", "b"]


@pytest.mark.parametrize(
    "packed", [b"not gzip", gzip.compress(b"[]", mtime=0)[:-9], gzip.compress(b"[1]", mtime=0)[:-1] + b"?"]
)
def test_manifest_that_cannot_be_unpacked_is_an_error(
    connect: Connect, start_scripted: StartScripted, packed: bytes
) -> None:
    hub = start_scripted(serve_manifest(packed, Content_Encoding="gzip"))
    with pytest.raises(IntegrityError):
        connect(hub.url).get_manifest("cats")


ENDLESS_HEAD = format_head(200, {"Content-Type": "application/json"})


@pytest.mark.parametrize("call", ["get_manifest", "list_datasets"])
def test_endless_document_is_not_read_to_its_end(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(dsx._manifests, "LARGE_BODY_BYTES", 8 * 1024**2)
    hub = start_scripted(lambda _: Reply(itertools.chain([ENDLESS_HEAD], itertools.repeat(b"[" * 65536))))
    client = connect(hub.url)
    with pytest.raises(DsxError, match="larger"):
        client.get_manifest("cats") if call == "get_manifest" else client.list_datasets()
    assert len(hub.requests) == 1


def test_endless_problem_is_not_read_to_its_end(connect: Connect, start_scripted: StartScripted) -> None:
    head = format_head(500, {"Content-Type": "application/problem+json"})
    hub = start_scripted(lambda _: Reply(itertools.chain([head], itertools.repeat(b" " * 65536))))
    with pytest.raises(HubError, match="500"):
        connect(hub.url).get_file_bytes("cats", "a")


@pytest.fixture
def elsewhere() -> Iterator[http.server.ThreadingHTTPServer]:
    """Another host; ``seen`` has the headers of the requests that it got."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    seen: list[dict[str, str]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen = seen  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.list_datasets(),
        lambda client: client.get_manifest("cats"),
        lambda client: client.get_file("cats", "a"),
        lambda client: client.get_file_bytes("cats", "a"),
    ],
    ids=["list_datasets", "get_manifest", "get_file", "get_file_bytes"],
)
def test_redirect_is_an_error_and_not_followed(
    connect: Connect,
    start_scripted: StartScripted,
    elsewhere: http.server.ThreadingHTTPServer,
    call: Callable[[DatasetHubClient], object],
    status: int,
) -> None:
    there = f"http://localhost:{elsewhere.server_port}/x"
    hub = start_scripted(lambda _: answer(status, Location=there))
    with pytest.raises(HubError, match=there):
        call(connect(hub.url))
    assert elsewhere.seen == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("location", ["/other", "//host/x", "ftp://host/x", "\x1b[2Jhttp://host/", "http://[", ""])
def test_redirect_to_anywhere_is_an_error(connect: Connect, start_scripted: StartScripted, location: str) -> None:
    hub = start_scripted(lambda _: answer(302, Location=location))
    with pytest.raises(HubError) as caught:
        connect(hub.url).get_file_bytes("cats", "a")
    assert str(caught.value).isprintable()


def test_endless_body_of_a_redirect_is_not_read(connect: Connect, start_scripted: StartScripted) -> None:
    sent: list[int] = []

    def send(_: Request) -> Reply:
        blocks = (sent.append(1) or b" " * 65536 for _ in range(4000))  # type: ignore[func-returns-value]
        return Reply(itertools.chain([format_head(302, {"Location": "http://host/"})], blocks))

    with pytest.raises(HubError):
        connect(start_scripted(send).url).get_file_bytes("cats", "a")
    assert len(sent) < 2000


HEADS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: 20\r\n\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n",
    b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 99 ?\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: br, gzip, x\r\nContent-Length: 2\r\n\r\n[]",
    b"HTTP/1.1 302 Found\r\n\r\n",
    b"HTTP/1.1 503 No\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 No\r\nRetry-After: Fri, 99 Foo 99999 99:99:99 +9999\r\nContent-Length: 0\r\n\r\n",
    b"\0\xff" * 100,
]


@pytest.mark.parametrize("head", HEADS, ids=range(len(HEADS)))
@pytest.mark.parametrize("call", ["get_manifest", "get_file_bytes"])
def test_answer_that_is_hardly_http_is_an_error_that_blames_no_argument(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch, head: bytes, call: str
) -> None:
    monkeypatch.setattr(dsx._manifests, "FIRST_CONTACT_S", 0.1)
    monkeypatch.setattr(dsx._fetch, "FIRST_CONTACT_S", 0.1)
    monkeypatch.setattr(dsx._fetch, "TRANSFER_S", 0.1)
    client = connect(start_scripted(lambda _: Reply(head)).url)
    with pytest.raises(DsxError) as caught:
        client.get_manifest("cats") if call == "get_manifest" else client.get_file_bytes("cats", "a")
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 412, 416, 418, 500, 511])
@pytest.mark.parametrize("code", ["entry_not_found", "internal", "no such code"])
def test_words_of_a_hub_do_nothing_to_a_terminal(
    connect: Connect, start_scripted: StartScripted, status: int, code: str
) -> None:
    evil = "\x1b[2J\x07\r\nINFO all is well\u202e\x9b"
    hub = start_scripted(lambda _: answer_problem(status, code, evil))
    with pytest.raises(DsxError) as caught:
        connect(hub.url).get_file_bytes("cats", "a")
    assert str(caught.value).isprintable()


def test_words_of_a_hub_are_cut(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(lambda _: answer_problem(500, "internal", "x" * 500_000))
    with pytest.raises(HubError) as caught:
        connect(hub.url).get_file_bytes("cats", "a")
    assert len(str(caught.value)) < 5000


def test_cookies_are_not_sent_back(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(lambda _: answer_json([], Set_Cookie="track=me; Path=/"))
    client = connect(hub.url)
    client.list_datasets()
    client.list_datasets()
    assert ["cookie" in request.headers for request in hub.requests] == [False, False]


def test_netrc_does_not_replace_the_key(start_scripted: StartScripted, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    hub = start_scripted(HonestScript(FILES))
    code = """
        import sys
        from dsx import DatasetHubClient
        with DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3]) as hub:
            hub.list_datasets(), hub.get_manifest("cats"), hub.get_file("cats", "a"), hub.get_file_bytes("cats", "b")
    """
    run_python(code, hub.url, KEY, tmp_path / "cache", env={"HOME": str(tmp_path)})
    assert {request.headers["authorization"] for request in hub.requests} == {f"Bearer {KEY}"}
    assert len(hub.requests) == 4


def test_key_is_in_no_file_of_the_cache(connect: Connect, start_scripted: StartScripted, cache_dir: Path) -> None:
    client = connect(start_scripted(HonestScript(FILES)).url)
    client.download_dataset("cats")
    client.close()
    assert [name for name, data in files_below(cache_dir).items() if KEY.encode() in data] == []


def test_key_is_in_no_url(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(HonestScript(FILES))
    connect(hub.url).download_dataset("cats")
    assert [request.target for request in hub.requests if re.search(re.escape(KEY), request.target)] == []


def test_hub_that_speaks_another_protocol_is_an_error(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsx.client.FIRST_CONTACT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(2):
                connection, _address = listener.accept()
                with connection:
                    connection.sendall(b"220 mail ESMTP\r\n")
                    connection.recv(65536)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        with pytest.raises(ConnectionError):
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}").list_datasets()
