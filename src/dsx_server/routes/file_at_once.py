"""Answer what needs no waiting: whole short entries, or short ranges, that the system has in memory.

This runs where all requests are answered, so nothing here may block. Whatever is not plain is left to `FileRoute`,
which does it in threads: what is not in memory, what has just changed, what is not there, what may not be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from starlette.types import Scope

from dsx.errors import DsxError
from dsx.protocol.digests import HEAD_BYTES, is_sha256_wanted
from dsx_server.routes.conditions import Verdict, decide
from dsx_server.routes.file_digests import DigestBook
from dsx_server.routes.file_headers import RawHeaders, answer_headers, describe_entry, validators_of
from dsx_server.routes.file_request import WHOLE_BYTES, Target, join_headers, parse_target, refuse
from dsx_server.routes.wire import Answer
from dsx_server.storage import CachedEntry, Identity, Place

KNOWN_ENTRIES = 40_000
"""Of so many entries it is kept what their headers say; about 1.5 KB each."""

KNOWN_BYTES = 1024
"""An entry is not kept when its path, as it was sent, is longer than this: it could be spelled in thousands of ways."""

CONDITIONS = frozenset(
    {b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"}
)
"""The headers on which more than the body of a whole answer depends."""

_WANT = b"want-repr-digest"

FindPlace = Callable[[str, str], Place | None]


class _Known:
    """An entry that was asked for.

    Attributes:
        target: Its dataset and path.
        place: Where it lies.
        identity: The state in which it was read last; None when nobody read it yet.
        headers: Those of a whole answer in that state, with its digest; None when that is unknown.
    """

    __slots__ = ("headers", "identity", "place", "target")

    def __init__(self, target: Target, place: Place) -> None:
        self.target = target
        self.place = place
        self.identity: Identity | None = None
        self.headers: RawHeaders | None = None

    @property
    def is_long(self) -> bool:
        """Whether it was too long to be sent whole at once."""
        return self.identity is not None and self.identity.size > WHOLE_BYTES


class AtOnce:
    """Answers without waiting. For one thread.

    Args:
        find_place: Knows where entries lie.
        digests: Knows their digests, and is told of new ones.
    """

    def __init__(self, find_place: FindPlace, digests: DigestBook) -> None:
        self._find_place = find_place
        self._digests = digests
        self._known: dict[bytes, _Known] = {}

    def answer(self, scope: Scope) -> Answer | None:
        """Return the answer to a request; None when it has to be waited for.

        Raises:
            ProblemError: The entry is not what the request's conditions say.
        """
        if scope["method"] != "GET" or scope["query_string"]:
            return None
        known = self._known.get(scope["raw_path"]) or self._make_known(scope["raw_path"])
        if known is None or not scope["dsx.principal"].may_read(known.target.dataset):
            return None
        headers = dict(scope["headers"])
        is_plain = CONDITIONS.isdisjoint(headers) and len(headers) == len(scope["headers"])
        if is_plain and known.is_long:
            return None
        entry = known.place.open_cached()
        if entry is None:
            return None
        try:
            self._keep(scope["raw_path"], known)
            if is_plain:
                return self._read(known, entry, Verdict(200, 0, entry.identity.size), headers.get(_WANT, b""))
            return self._judge(known, entry, join_headers(scope["headers"]))
        finally:
            entry.close()

    def _make_known(self, raw_path: bytes) -> _Known | None:
        try:
            target = parse_target(raw_path)
        except DsxError:
            return None
        place = self._find_place(*target)
        return None if place is None else _Known(target, place)

    def _keep(self, raw_path: bytes, known: _Known) -> None:
        """Keep an entry that there is; a path of which nobody knows whether it leads anywhere takes no memory."""
        if len(raw_path) <= KNOWN_BYTES and raw_path not in self._known:
            if len(self._known) >= KNOWN_ENTRIES:
                del self._known[next(iter(self._known))]
            self._known[raw_path] = known

    def _judge(self, known: _Known, entry: CachedEntry, headers: Mapping[str, str]) -> Answer | None:
        identity = entry.identity
        verdict = decide("GET", headers, validators_of(identity), identity.size)
        refuse(verdict, known.target, identity)
        if verdict.status == 304:
            return Answer(304, [(b"etag", identity.etag.encode())]) if entry.is_unchanged() else None
        return self._read(known, entry, verdict, headers.get(_WANT.decode(), "").encode("latin-1"))

    def _read(self, known: _Known, entry: CachedEntry, verdict: Verdict, want: bytes) -> Answer | None:
        status, start, stop = verdict
        if stop - start > WHOLE_BYTES:
            known.identity, known.headers = entry.identity, None
            return None
        body = entry.read_cached(start, stop)
        if body is None:
            return None
        if status == 200 and known.headers is not None and known.identity == entry.identity:
            return Answer(200, known.headers, body) if entry.is_unchanged() else None
        whole = body if status == 200 else None
        head = entry.read_cached(0, min(HEAD_BYTES, entry.identity.size)) if whole is None else whole
        if head is None or not entry.is_unchanged():
            return None
        digest = self._find_digest(known.target, entry.identity, whole, want)
        if digest is None:
            return None
        description = describe_entry(known.target.path, entry.identity, head)
        headers = answer_headers(description, verdict, digest)
        if status == 200:
            known.identity = entry.identity
            known.headers = headers if digest and description.is_lasting else None
        return Answer(status, headers, body)

    def _find_digest(
        self, target: Target, identity: Identity, whole: bytes | bytearray | None, want: bytes
    ) -> str | None:
        """Return the entry's digest, empty when it is unknown; None when the index has to be asked."""
        digest = self._digests.recall(*target, identity)
        if digest or whole is None or not (self._digests.learns or is_sha256_wanted(want.decode("latin-1"))):
            return digest
        # As quick as asking the index, and much quicker than a hop to a thread to do so.
        digest = hashlib.sha256(whole).hexdigest()
        self._digests.learn(*target, identity, digest)
        return digest
