"""``GET, HEAD /file/{dataset}/{path}``: the bytes of one entry, as they lie on the disk.

Plain ASGI, in front of FastAPI. Whatever can block runs in threads. An entry is stat'ed before and after it is read:
when it changed in between, a short answer is tried again, and a long one is broken off before its end. So no client
ever gets a mixture of two contents that looks whole.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import NamedTuple
from urllib.parse import parse_qs, unquote_to_bytes

from starlette.types import Receive, Scope, Send

from dsx.errors import ConflictError, EntryNotFoundError, InvalidPathError
from dsx.protocol.digests import HEAD_BYTES, format_repr_digest, head_hash, is_sha256_wanted
from dsx.protocol.text import shown
from dsx_server.auth import Principal
from dsx_server.index import Index
from dsx_server.problems import ProblemError, raise_no_route
from dsx_server.routes.access import reading
from dsx_server.routes.conditions import Verdict, decide
from dsx_server.routes.file_digests import DigestBook
from dsx_server.routes.file_headers import entry_headers, read_head, validators_of
from dsx_server.storage import OpenEntry, Storage

WHOLE_BYTES = 256 * 1024
"""Answers up to this size, in bytes, are read and sent in one go; longer ones in blocks of `BLOCK_BYTES`."""

BLOCK_BYTES = 1024 * 1024
READ_ATTEMPTS = 3


class FileRoute:
    """The ASGI application of ``/file``.

    Args:
        storage: Where the entries lie.
        index: Knows what they were in earlier revisions.
        digests: Knows their digests, and is told of new ones.
        threads: In which everything runs that may block.
    """

    def __init__(self, storage: Storage, index: Index, digests: DigestBook, threads: ThreadPoolExecutor) -> None:
        self._storage = storage
        self._index = index
        self._digests = digests
        self._threads = threads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise ProblemError("method_not_allowed", "/file takes GET and HEAD", {"Allow": "GET, HEAD"})
        target = parse_target(scope["raw_path"])
        revision = _parse_revision(scope["query_string"])
        request = _Request(scope["method"], target, _join_headers(scope["headers"]), scope["dsx.principal"], revision)
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, request)
        try:
            headers = answer.headers
            if answer.rest is not None and scope["method"] == "HEAD":
                headers = [*headers, *await self._hash_rest(answer.rest, receive)]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if answer.rest is None or scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": answer.body})
            else:
                await self._send_rest(answer.rest, receive, send)
        finally:
            if answer.rest is not None:
                answer.rest.entry.close()

    def _prepare(self, request: _Request) -> _Answer:
        """Open, judge, and read what is short; blocks, so it runs in a thread."""
        target = request.target
        with reading(target.dataset, request.principal, self._index):
            for _ in range(READ_ATTEMPTS):
                entry = self._open(target)
                answer = None
                try:
                    if request.revision is not None:
                        self._check_revision(target, entry, request.revision)
                    answer = self._read(request, entry)
                    if entry.is_unchanged():
                        return answer
                    answer = None
                finally:
                    if answer is None or answer.rest is None:
                        entry.close()
        raise ConflictError(f"{shown(target.path)} is being written on the hub; try again when it is at rest")

    def _open(self, target: _Target) -> OpenEntry:
        try:
            return self._storage.open(target.dataset, target.path)
        except EntryNotFoundError:
            self._index.refuse_unmounted(target.dataset)  # a disk that is missing is no answer to what is on it
            raise

    def _check_revision(self, target: _Target, entry: OpenEntry, revision: str) -> None:
        """Make sure that the entry is what ``revision`` says: as long as size and mtime are, and its first bytes."""
        row = self._index.find_entry(target.dataset, revision, target.path)
        if row is None:
            raise EntryNotFoundError(
                f"revision {shown(revision)} of {shown(target.dataset)} has no {shown(target.path)}"
            )
        state = (entry.identity.size, head_hash(entry.read(0, HEAD_BYTES)), entry.identity.mtime_ns)
        if state != row.state:
            raise ConflictError(f"{shown(target.path)} is no longer what revision {shown(revision)} says")

    def _read(self, request: _Request, entry: OpenEntry) -> _Answer:
        identity = entry.identity
        verdict = decide(request.method, request.headers, validators_of(identity), identity.size)
        _refuse(verdict, request.target, entry)
        if verdict.status == 304:
            return _Answer(304, [(b"etag", identity.etag.encode())])
        is_short = verdict.stop - verdict.start <= WHOLE_BYTES
        is_whole_get = request.method == "GET" and verdict.status == 200
        body = entry.read(verdict.start, verdict.stop) if request.method == "GET" and is_short else b""
        digest = self._find_digest(request, entry, body if is_whole_get and is_short else None)
        headers = entry_headers(request.target.path, entry, verdict, read_head(entry, verdict, body), digest)
        hash_it = verdict.status == 200 and digest is None and (request.wants_digest or self._learns_from(request))
        if is_short or (request.method == "HEAD" and not hash_it):
            return _Answer(verdict.status, headers, body)
        return _Answer(verdict.status, headers, rest=_Rest(entry, request.target, verdict.start, verdict.stop, hash_it))

    def _find_digest(self, request: _Request, entry: OpenEntry, whole: bytes | None) -> str | None:
        """Return the entry's digest if it is known, or wanted and short; a long one is hashed block by block."""
        target = request.target
        known = self._digests.find(*target, entry.identity)
        if known is not None or not (request.wants_digest or self._learns_from(request)):
            return known
        if whole is not None:
            digest = hashlib.sha256(whole).hexdigest()
        elif request.method == "HEAD" and entry.identity.size <= WHOLE_BYTES:
            digest = hashlib.sha256(entry.read(0, WHOLE_BYTES)).hexdigest()
        else:
            return None
        if entry.is_unchanged():
            self._digests.learn(*target, entry.identity, digest)
        return digest

    def _learns_from(self, request: _Request) -> bool:
        """Tell whether what this request reads is hashed, though it does not ask for that."""
        return self._digests.learns and request.method == "GET"

    async def _send_rest(self, rest: _Rest, receive: Receive, send: Send) -> None:
        state = hashlib.sha256() if rest.hash_it else None
        position = rest.start
        async with aclosing(self._read_blocks(rest, receive)) as blocks:
            async for block in blocks:
                position += len(block)
                if state is not None:
                    await asyncio.get_running_loop().run_in_executor(self._threads, state.update, block)
                await send({"type": "http.response.body", "body": block, "more_body": position < rest.stop})
        if state is not None and position == rest.stop:
            self._digests.learn(*rest.target, rest.entry.identity, state.hexdigest())

    async def _hash_rest(self, rest: _Rest, receive: Receive) -> list[tuple[bytes, bytes]]:
        """Return the header with the digest of a long entry; none when the client did not wait for it."""
        state = hashlib.sha256()
        position = rest.start
        async with aclosing(self._read_blocks(rest, receive)) as blocks:
            async for block in blocks:
                position += len(block)
                await asyncio.get_running_loop().run_in_executor(self._threads, state.update, block)
        if position < rest.stop:
            return []
        self._digests.learn(*rest.target, rest.entry.identity, state.hexdigest())
        return [(b"repr-digest", format_repr_digest(state.hexdigest()).encode())]

    async def _read_blocks(self, rest: _Rest, receive: Receive) -> AsyncGenerator[bytes, None]:
        """Yield a long body block by block, until its end or until the client is gone."""
        gone = asyncio.ensure_future(_wait_for_disconnect(receive))
        position = rest.start
        try:
            while position < rest.stop:
                block = await asyncio.get_running_loop().run_in_executor(self._threads, rest.read_block, position)
                if gone.done():
                    return
                position += len(block)
                yield block
        finally:
            gone.cancel()


class _Target(NamedTuple):
    """Which entry a request names."""

    dataset: str
    path: str


class _Request(NamedTuple):
    """What a request for an entry says."""

    method: str
    target: _Target
    headers: Mapping[str, str]
    principal: Principal
    revision: str | None

    @property
    def wants_digest(self) -> bool:
        return is_sha256_wanted(self.headers.get("want-repr-digest", ""))


class _Rest(NamedTuple):
    """A long body that is still to be sent: bytes ``[start, stop)`` of an open entry."""

    entry: OpenEntry
    target: _Target
    start: int
    stop: int
    hash_it: bool

    def read_block(self, position: int) -> bytes:
        """Read the next block; the last look at the entry's state comes before its last byte is sent."""
        block = self.entry.read(position, min(position + BLOCK_BYTES, self.stop))
        if not block or not self.entry.is_unchanged():
            raise ConflictError(f"{shown(self.target.path)} changed on the hub while it was being sent")
        return block


class _Answer(NamedTuple):
    """Status, headers, and either a short body or the rest to be sent in blocks."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    rest: _Rest | None = None


def parse_target(raw_path: bytes) -> _Target:
    """Read dataset and path out of the request's path, percent-decoding each once.

    Raises:
        InvalidPathError: What comes out is not UTF-8.
        ProblemError: It is not of the form ``/file/{dataset}/{path}``.
    """
    parts = raw_path.split(b"/", 3)
    if len(parts) != 4 or unquote_to_bytes(parts[1]) != b"file" or not parts[2] or not parts[3]:
        raise_no_route(raw_path.decode("latin-1"))
    try:
        return _Target(unquote_to_bytes(parts[2]).decode(), unquote_to_bytes(parts[3]).decode())
    except UnicodeDecodeError as error:
        raise InvalidPathError("the path is not UTF-8 once its percent-encoding is undone") from error


def _parse_revision(query: bytes) -> str | None:
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("revision")
    return None if values is None else values[-1]


def _refuse(verdict: Verdict, target: _Target, entry: OpenEntry) -> None:
    if verdict.status == 412:
        detail = f"{shown(target.path)} is no longer the version that the request asked for"
        raise ProblemError("precondition_failed", detail, {"ETag": entry.identity.etag})
    if verdict.status == 416:
        size = entry.identity.size
        detail = f"the range starts past the end of {shown(target.path)}, which has {size} bytes"
        raise ProblemError("range_not_satisfiable", detail, {"Content-Range": f"bytes */{size}"})


def _join_headers(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Make one value of repeated headers, as RFC 9110, section 5.3, has it."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
