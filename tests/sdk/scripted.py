"""A hub that answers what a test scripts, on a real socket, and records what it was asked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

FIRST_MTIME_NS = 1_700_000_000_000_000_000


class Request(NamedTuple):
    """One request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path, decoded, without the query."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))


class Reply(NamedTuple):
    """Bytes to send as they are, and what becomes of the connection after them."""

    data: bytes | Iterable[bytes]
    end: Literal["close", "reset", "hang"] = "close"


Script = Callable[[Request], Reply]


class ScriptedHub:
    """Gives every request to ``script``, one thread per connection; a connection carries one request."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    def of(self, method: str, prefix: str = "/") -> list[Request]:
        """Return the requests of one method whose path begins with ``prefix``."""
        return [request for request in self.requests if request.method == method and request.path.startswith(prefix)]

    def stop(self) -> None:
        """End everything, also what hangs."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(20)

    def _spawn(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                connection, _ = self._listener.accept()
                self._open.add(connection)
                self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = read_request(connection)
            if request is not None:
                self.requests.append(request)
                self._send(connection, self.script(request))
        self._open.discard(connection)

    def _send(self, connection: socket.socket, reply: Reply) -> None:
        for block in [reply.data] if isinstance(reply.data, bytes) else reply.data:
            if self._stopped.is_set():
                return
            connection.sendall(block)
        if reply.end == "hang":
            self._stopped.wait(60)
        elif reply.end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_request(connection: socket.socket) -> Request | None:
    """Read the head of a request; None when the client went away without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        block = connection.recv(65536)
        if not block:
            return None
        received += block
    head, _, body = received.partition(b"\r\n\r\n")
    request = parse_request(head)
    while len(body) < int(request.headers.get("content-length", "0")):
        block = connection.recv(65536)
        if not block:
            return None
        body += block
    return request._replace(body=body)


def parse_request(head: bytes) -> Request:
    """Read the lines of a request's head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    return Request(method, target, {name.lower(): value.strip() for name, _, value in pairs})


def format_head(status: int, headers: Mapping[str, str]) -> bytes:
    """Write the head of an answer after which the connection ends; header names in lower case, as the hub's are."""
    lines = [
        f"HTTP/1.1 {status} X",
        "connection: close",
        *(f"{name.lower()}: {value}" for name, value in headers.items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer(status: int, body: bytes = b"", **headers: str) -> Reply:
    """Answer with a body of declared length; ``_`` in a header's name stands for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(format_head(status, {"Content-Length": str(len(body))} | named) + body)


def answer_json(value: object, status: int = 200, **headers: str) -> Reply:
    """Answer with a JSON document."""
    return answer(status, json.dumps(value).encode(), **({"Content_Type": "application/json"} | headers))


def answer_problem(status: int, code: str, detail: str, **headers: str) -> Reply:
    """Answer with a problem, as the hub does."""
    problem = {"title": "X", "status": status, "detail": detail, "code": code}
    return answer_json(problem, status, **({"Content_Type": "application/problem+json"} | headers))


def mtime_of(data: bytes) -> int:
    """Give another content another time of change, in ns."""
    return FIRST_MTIME_NS + zlib.crc32(data)


def md5_of_head(data: bytes) -> str:
    """Compute the contract's ``hash``."""
    return hashlib.md5(data[:1024]).hexdigest()


def columns_of(files: Mapping[str, bytes], **changes: object) -> dict[str, object]:
    """Build the manifest of ``files`` as columns; its revision is right even if ``changes`` make it otherwise wrong."""
    paths = sorted(files)
    columns: dict[str, object] = {
        "paths": paths,
        "sizes": [len(files[path]) for path in paths],
        "mtimes_ns": [mtime_of(files[path]) for path in paths],
        "hashes": [md5_of_head(files[path]) for path in paths],
        "digests": [None] * len(paths),
    } | changes
    rows = zip(*(columns[name] for name in ("paths", "sizes", "hashes", "mtimes_ns")), strict=False)  # type: ignore[call-overload]
    return {"revision": revision_of(rows)} | columns


def revision_of(rows: Iterable[tuple[object, ...]]) -> str:
    """Compute a revision as ``docs/http-api.md`` says."""
    hashes = [hashlib.sha256("\0".join(map(str, row)).encode("utf-8", "replace")).hexdigest() for row in rows]
    total = sum(int(each, 16) for each in hashes) & (1 << 256) - 1
    return hashlib.sha256(b"%d\0%064x" % (len(hashes), total)).hexdigest()[:32]


def digests_of(files: Mapping[str, bytes]) -> list[str]:
    """Compute the column of digests."""
    return [hashlib.sha256(files[path]).hexdigest() for path in sorted(files)]


class HonestScript:
    """Does what the hub does, for one dataset ``cats``: what a test overrides is the one thing that is wrong.

    Args:
        files: Content of each entry; may be changed at any time.

    Attributes:
        states: Content of each entry, by revision that `keep` was called for.
        changes: What the columns have to say instead of the truth.
        knows_batches: Whether it has the route for them.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.states: dict[str, dict[str, bytes]] = {}
        self.changes: dict[str, object] = {}
        self.knows_batches = True

    def __call__(self, request: Request) -> Reply:
        if request.path == "/datasets":
            return answer_json(["cats"])
        if request.path.startswith("/datasets/cats"):
            return self.send_about(request)
        if not set(request.query.values()) - {"columns"} <= set(self.states):
            return answer_problem(
                404, "revision_not_found", "no such revision; GET /datasets/cats/revisions lists them"
            )
        if request.path == "/manifest/cats":
            return self.send_manifest(request)
        if request.path == "/batch/cats" and not self.knows_batches:
            return answer_problem(404, "route_not_found", "no such route")
        if request.path == "/batch/cats":
            return self.send_batch(request)
        path = request.path.removeprefix("/file/cats/")
        data = self.files.get(path)
        if "revision" in request.query and (then := self.states[request.query["revision"]].get(path)) is not None:
            return (
                self.send_entry(request, data) if data == then else answer_problem(409, "conflict", f"{path} changed")
            )
        if data is None or "revision" in request.query:
            return answer_problem(404, "entry_not_found", f"no {request.path} here")
        return self.send_entry(request, data)

    def keep(self) -> str:
        """Keep the present state as a revision, and return its id."""
        revision = str(columns_of(self.files)["revision"])
        self.states[revision] = dict(self.files)
        return revision

    def send_about(self, request: Request) -> Reply:
        """Answer with what there is to say of the dataset and its revisions."""
        if request.path == "/datasets/cats":
            total = sum(map(len, self.files.values()))
            known = {"name": "cats", "entries": len(self.files), "bytes": total, "revision": self.keep()}
            return answer_json(known | {"scanned_at": "2024-01-01T00:00:00+00:00", "scanning": False, "left_out": {}})
        if request.path == "/datasets/cats/revisions":
            rows = [(revision, len(files), sum(map(len, files.values()))) for revision, files in self.states.items()]
            names = ("revision", "entries", "bytes", "created_at")
            return answer_json([dict(zip(names, (*row, "2024"), strict=True)) for row in reversed(rows)])
        try:
            a, b = (self.states[request.query[name]] for name in ("from", "to"))
        except KeyError:
            return answer_problem(404, "revision_not_found", "no such revision")
        parts = {"added": b.keys() - a.keys(), "removed": a.keys() - b.keys()}
        parts |= {"changed": {path for path in a.keys() & b.keys() if a[path] != b[path]}}
        return answer_json(request.query | {name: sorted(paths) for name, paths in parts.items()})

    def send_manifest(self, request: Request) -> Reply:
        """Answer with the manifest, or that it is still right."""
        columns = columns_of(self.states.get(request.query.get("revision", ""), self.files), **self.changes)
        number = zlib.crc32(json.dumps(columns["digests"]).encode())
        etag = f'W/"{columns["revision"]}.{number}"'
        if request.headers.get("if-none-match") == etag:
            return Reply(format_head(304, {"ETag": etag}))
        return answer_json(columns, ETag=etag)

    def send_batch(self, request: Request) -> Reply:
        """Answer with a frame for every entry that is asked for, or part of an entry."""
        frames = [self.write_frame(index, *read) for index, read in enumerate(reads_of(request))]
        return answer_frames(b"DSXB\x01\0\0\0" + b"".join(frames) + write_end(len(frames)))

    def write_frame(self, index: int, path: str, start: int, stop: int) -> bytes:
        """Write the frame of one of them."""
        if path not in self.files:
            return write_problem(index, 1, "entry_not_found", f"no {path} here")
        return write_frame(index, 0, self.files[path][start:stop])

    def send_entry(self, request: Request, data: bytes) -> Reply:
        """Answer with an entry, or a range of it."""
        headers = describe(data) | {"Accept-Ranges": "bytes"}
        wanted = request.headers
        if wanted.get("if-none-match") == headers["ETag"]:
            return Reply(format_head(304, {"ETag": headers["ETag"]}))
        if "if-match" in wanted and wanted["if-match"] != headers["ETag"]:
            return answer_problem(412, "precondition_failed", "it is another version now")
        start, stop, status = 0, len(data), 200
        if "range" in wanted and wanted.get("if-range", headers["ETag"]) == headers["ETag"]:
            start, stop = range_of(request, len(data))
            if start >= len(data):
                return answer_problem(416, "range_not_satisfiable", "the range starts past the end")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        headers["Content-Length"] = str(stop - start)
        return Reply(format_head(status, headers) + (b"" if request.method == "HEAD" else data[start:stop]))


def range_of(request: Request, size: int) -> tuple[int, int]:
    """Return which bytes ``[start, stop)`` of an entry of ``size`` bytes are asked for: all without a range."""
    first, _, last = request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, size) if last else size


def reads_of(request: Request) -> list[tuple[str, int, int]]:
    """Return what a batch asks for, as path, start and stop."""
    wanted = json.loads(request.body)
    if "paths" in wanted:
        return [(path, 0, 2**63) for path in wanted["paths"]]
    return [(path, start, stop) for path, start, stop in wanted["reads"]]


def paths_of(request: Request) -> list[str]:
    """Return the paths that a batch asks for."""
    return [path for path, _, _ in reads_of(request)]


def answer_frames(stream: bytes, **headers: str) -> Reply:
    """Answer with a stream of frames."""
    return answer(200, stream, **({"Content_Type": "application/vnd.dsx.frames"} | headers))


def write_frame(index: int, status: int, payload: bytes, *, length: int | None = None) -> bytes:
    """Write a frame as the format's own words have it."""
    size = len(payload) if length is None else length
    return struct.pack("<IBBBBQ", index, status, 0, 0, 0, size) + payload + struct.pack("<I", zlib.crc32(payload))


def write_problem(index: int, status: int, code: str, detail: str) -> bytes:
    """Write a frame that says why there are no bytes."""
    return write_frame(index, status, json.dumps({"title": "X", "code": code, "detail": detail}).encode())


def write_end(count: int) -> bytes:
    """Write the end of a stream of so many frames."""
    return write_frame(0xFFFFFFFF, 255, struct.pack("<Q", count))


def describe(data: bytes) -> dict[str, str]:
    """Write the headers that say what an entry is."""
    digest = hashlib.sha256(data)
    return {
        "Content-Length": str(len(data)),
        "ETag": f'"{digest.hexdigest()[:32]}"',
        "X-DSX-Hash": md5_of_head(data),
        "X-DSX-Mtime-Ns": str(mtime_of(data)),
        "Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
    }


def forget_query(script: Script) -> Script:
    """Serve entries as a hub does that has not heard of revisions."""

    def send(request: Request) -> Reply:
        is_file = request.path.startswith("/file")
        return script(request._replace(target=request.target.partition("?")[0]) if is_file else request)

    return send
