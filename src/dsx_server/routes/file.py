"""``GET, HEAD /file/{dataset}/{path}``: the bytes of one entry, as they lie on the disk.

Plain ASGI, in front of FastAPI. What is in memory is answered at once (`file_at_once`); whatever can block runs in
threads. An entry is stat'ed before and after it is read: when it changed in between, a short answer is tried again, and
a long one is broken off before its end. So no client ever gets a mixture of two contents that looks whole.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from dsx.errors import ConflictError, EntryNotFoundError
from dsx.protocol.digests import HEAD_BYTES, format_repr_digest, head_hash
from dsx.protocol.text import shown
from dsx_server.index import Index
from dsx_server.problems import ProblemError
from dsx_server.routes.access import reading
from dsx_server.routes.conditions import Verdict, decide
from dsx_server.routes.file_at_once import AtOnce
from dsx_server.routes.file_blocks import Blocks, Rest, Traffic
from dsx_server.routes.file_digests import DigestBook
from dsx_server.routes.file_headers import answer_headers, describe_entry, validators_of
from dsx_server.routes.file_request import (
    WHOLE_BYTES,
    FileRequest,
    Target,
    join_headers,
    parse_revision,
    parse_target,
    refuse,
)
from dsx_server.routes.wire import Answer, Wire, send_answer
from dsx_server.storage import OpenEntry, Storage

READ_ATTEMPTS = 3


class _Prepared(NamedTuple):
    """An answer, and what comes behind its headers when that is long, or to be hashed first."""

    answer: Answer
    rest: Rest | None = None


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
        self._traffic = Traffic()
        # Asked of the class: what only stands before another storage may not pass this on.
        find_place = getattr(type(storage), "find_place", None)
        self._at_once = None if find_place is None else AtOnce(find_place.__get__(storage), digests)

    def answer_at_once(self, scope: Scope) -> Answer | None:
        """Answer a request without waiting for anything; None when that cannot be done.

        Raises:
            ProblemError: The entry is not what the request's conditions say.
        """
        return None if self._at_once is None else self._at_once.answer(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise ProblemError("method_not_allowed", "/file takes GET and HEAD", {"Allow": "GET, HEAD"})
        target = parse_target(scope["raw_path"])
        revision = parse_revision(scope["query_string"])
        request = FileRequest(scope["method"], target, join_headers(scope["headers"]), scope["dsx.principal"], revision)
        answer, rest = await asyncio.get_running_loop().run_in_executor(self._threads, self._prepare, request)
        if rest is None:
            await send_answer(send, answer)
            return
        blocks = Blocks(rest, self._threads, self._traffic)
        with self._traffic, closing(blocks), closing(Wire(send, receive)) as wire:
            if request.method == "HEAD":
                digest = await self._hash(rest, blocks, wire)
                await send_answer(send, answer._replace(headers=[*answer.headers, *digest]))
            else:
                await wire.start(answer.status, answer.headers)
                await self._send(rest, blocks, wire)

    def _prepare(self, request: FileRequest) -> _Prepared:
        """Open, judge, and read what is short; blocks, so it runs in a thread."""
        target = request.target
        with reading(target.dataset, request.principal, self._index):
            for _ in range(READ_ATTEMPTS):
                entry = self._open(target)
                prepared = None
                try:
                    if request.revision is not None:
                        self._check_revision(target, entry, request.revision)
                    prepared = self._read(request, entry)
                    if entry.is_unchanged():
                        return prepared
                    prepared = None
                finally:
                    if prepared is None or prepared.rest is None:
                        entry.close()
        raise ConflictError(f"{shown(target.path)} is being written on the hub; try again when it is at rest")

    def _open(self, target: Target) -> OpenEntry:
        try:
            return self._storage.open(target.dataset, target.path)
        except EntryNotFoundError:
            self._index.refuse_unmounted(target.dataset)  # a disk that is missing is no answer to what is on it
            raise

    def _check_revision(self, target: Target, entry: OpenEntry, revision: str) -> None:
        """Make sure that the entry is what ``revision`` says: as long as size and mtime are, and its first bytes."""
        row = self._index.find_entry(target.dataset, revision, target.path)
        if row is None:
            raise EntryNotFoundError(
                f"revision {shown(revision)} of {shown(target.dataset)} has no {shown(target.path)}"
            )
        state = (entry.identity.size, head_hash(entry.read(0, HEAD_BYTES)), entry.identity.mtime_ns)
        if state != row.state:
            raise ConflictError(f"{shown(target.path)} is no longer what revision {shown(revision)} says")

    def _read(self, request: FileRequest, entry: OpenEntry) -> _Prepared:
        identity = entry.identity
        verdict = decide(request.method, request.headers, validators_of(identity), identity.size)
        refuse(verdict, request.target, identity)
        if verdict.status == 304:
            return _Prepared(Answer(304, [(b"etag", identity.etag.encode())]))
        is_short = verdict.stop - verdict.start <= WHOLE_BYTES
        is_whole_get = request.method == "GET" and verdict.status == 200
        body = entry.read(verdict.start, verdict.stop) if request.method == "GET" and is_short else b""
        digest = self._find_digest(request, entry, body if is_whole_get and is_short else None)
        description = describe_entry(request.target.path, identity, _read_head(entry, verdict, body))
        headers = answer_headers(description, verdict, digest)
        hash_it = verdict.status == 200 and digest is None and (request.wants_digest or self._learns_from(request))
        if is_short or (request.method == "HEAD" and not hash_it):
            return _Prepared(Answer(verdict.status, headers, body))
        rest = Rest(entry, request.target, verdict.start, verdict.stop, hash_it)
        return _Prepared(Answer(verdict.status, headers), rest)

    def _find_digest(self, request: FileRequest, entry: OpenEntry, whole: bytes | None) -> str | None:
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

    def _learns_from(self, request: FileRequest) -> bool:
        """Tell whether what this request reads is hashed, though it does not ask for that."""
        return self._digests.learns and request.method == "GET"

    async def _send(self, rest: Rest, blocks: Blocks, wire: Wire) -> None:
        """Send a long body, and hash it, if that is to be, in a thread while blocks are sent."""
        state = hashlib.sha256() if rest.hash_it else None
        hashing: asyncio.Future[None] | None = None
        while blocks.has_more():
            block = await blocks.read()
            if wire.is_gone:
                return
            is_last = not blocks.has_more()
            if state is not None:
                if hashing is not None:
                    await hashing
                hashing = asyncio.get_running_loop().run_in_executor(self._threads, state.update, block)
                if is_last:  # who has the last byte may ask for the digest: it is known before
                    await hashing
                    self._digests.learn(*rest.target, rest.entry.identity, state.hexdigest())
            await wire.send(block, is_last=is_last)

    async def _hash(self, rest: Rest, blocks: Blocks, wire: Wire) -> list[tuple[bytes, bytes]]:
        """Return the header with the digest of a long entry; none when the client did not wait for it."""
        state = hashlib.sha256()
        while blocks.has_more():
            block = await blocks.read()
            if wire.is_gone:
                return []
            await asyncio.get_running_loop().run_in_executor(self._threads, state.update, block)
        self._digests.learn(*rest.target, rest.entry.identity, state.hexdigest())
        return [(b"repr-digest", format_repr_digest(state.hexdigest()).encode())]


def _read_head(entry: OpenEntry, verdict: Verdict, body: bytes) -> bytes:
    """Return the bytes that the head hash covers, out of ``body`` where it has them."""
    wanted = min(HEAD_BYTES, entry.identity.size)
    if verdict.start == 0 and len(body) >= wanted:
        return body[:wanted]
    return entry.read(0, wanted)
