"""Bring one entry from the hub: count it, verify it, go on where it broke off.

Where the bytes go is a `Sink`: memory here, a partial of the cache there. What a transfer is held against: the
declared length, the head hash in ``X-DSX-Hash``, the SHA-256 in ``Repr-Digest`` and in the manifest. The hub sends that
digest with a short entry. Of a long one a HEAD asks for it, while the bytes come, unless the manifest has it.

A short entry is one answer. A long one is fetched in ranges (`dsx._ranges`), of which the first is asked for like a
short entry. Where the hub, or a proxy, knows no ranges, or no strong entity tag, it is one answer too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import NamedTuple

from dsx._digests import Inquiry, read_digest
from dsx._ranges import Begun, Ranges, Version, check_body, check_part
from dsx._retry import FIRST_CONTACT_S, TRANSFER_S, Patience
from dsx._sinks import Sink
from dsx._transport import Answer, Transport
from dsx._wanted import State, Wanted
from dsx.errors import (
    ConflictError,
    DsxError,
    EntryNotFoundError,
    HubError,
    HubUnreachableError,
    IntegrityError,
    RangeError,
)
from dsx.protocol.digests import WANT_SHA256, head_hash, is_strong_tag
from dsx.protocol.text import shown

LONG_BYTES = 8 * 1024**2
"""What is longer than this, in bytes, is fetched in ranges."""

CHANGES_FOLLOWED = 3
"""How often a transfer starts anew because the entry has changed meanwhile."""

LARGEST_BYTES = 2**63 - 1
"""No entry is longer than this, in bytes."""


class Fetched(NamedTuple):
    """What the hub said of an entry whose bytes are complete and verified.

    Attributes:
        is_modified: False when the hub still has the version that the caller named, and sent nothing.
        head_hash: MD5 of the first 1024 bytes, in hex.
        mtime_ns: Modification time on the hub, ns since 1970; None when it did not say.
    """

    is_modified: bool
    head_hash: str = ""
    mtime_ns: int | None = None


class Watch(NamedTuple):
    """How the caller of a fetch takes part in it.

    Attributes:
        stop: Ends the fetch early when it is set.
        on_bytes: Told how many bytes have come, block by block.
        on_kept: Told, when what came has its name, how many bytes of it came now.
    """

    stop: threading.Event | None = None
    on_bytes: Callable[[int], object] = int
    on_kept: Callable[[int], object] = int


UNWATCHED = Watch()


def fetch_entry(
    transport: Transport, wanted: Wanted, *, sink: Sink, watch: Watch = UNWATCHED, unless: str = ""
) -> Fetched:
    """Fetch one entry into ``sink``, whole and verified.

    Args:
        transport: The hub.
        wanted: The entry.
        sink: Where its bytes go; what it has already is kept when the hub still has that version.
        watch: How the caller takes part.
        unless: Entity tag of a version that need not be sent again.

    Raises:
        ConflictError: It has to be of a revision, and has changed since.
        DsxError: The entry did not come; ``sink`` has what can be gone on with.
    """
    patience = Patience(TRANSFER_S if transport.has_answered else FIRST_CONTACT_S, watch.stop)
    transfer = _Transfer(transport, wanted, sink, patience, watch)
    while True:
        try:
            if not transfer.receive(unless):
                return Fetched(is_modified=False)
            return transfer.verify()
        except DsxError as error:
            if isinstance(error, (IntegrityError, ConflictError)):
                transfer.start_anew()
            if isinstance(error, EntryNotFoundError) and wanted.revision and wanted.entry is not None:
                raise wanted.make_conflict("is gone") from error
            transfer.name_in(error)
            patience.wait_after(error)


class _Asked(NamedTuple):
    """Which bytes of an entry are asked for, and of which version.

    Attributes:
        start: First byte.
        stop: First byte not asked for; None for all.
        etag: Version that they have to be of, else all of another one are sent; empty for whichever there is.
    """

    start: int
    stop: int | None
    etag: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say so; none for all bytes of whichever version."""
        if not self.start and self.stop is None:
            return {}
        asked = {"Range": f"bytes={self.start}-{'' if self.stop is None else self.stop - 1}"}
        return asked | ({"If-Range": self.etag} if self.etag else {})


class _Transfer:
    """One entry on its way; `receive` may be called until it returns."""

    def __init__(self, transport: Transport, wanted: Wanted, sink: Sink, patience: Patience, watch: Watch) -> None:
        self._transport = transport
        self._wanted = wanted
        self._name = wanted.name
        self._sink = sink
        self._patience = patience
        self._watch = watch
        self._url = wanted.url
        self._headers: Mapping[str, str] = {}
        self._inquiry: Inquiry | None = None
        self._takes_ranges = True
        self._furthest = 0
        self._changes = 0

    def receive(self, unless: str) -> bool:
        """Receive what is missing; return False when the hub still has version ``unless``."""
        sink = self._sink
        if sink.etag and sink.offset == sink.size:
            return True  # broken off after the last byte; verify() asks for what is needed
        asked = self._plan()
        headers = {"Want-Repr-Digest": WANT_SHA256, "Accept-Encoding": "identity"} | asked.headers
        if unless and not asked.start:
            headers["If-None-Match"] = unless
        with ExitStack() as opened:
            try:
                answer = opened.enter_context(self._transport.open("GET", self._url, headers=headers))
            except RangeError as error:  # the manifest is of an entry that was not empty
                if asked.stop is None:
                    raise
                raise self._give_up_ranges("is shorter than it was") from error
            if answer.status == 304 and "If-None-Match" in headers:
                return False
            self._headers = answer.headers
            stop = self._check_start(answer, asked)
            if stop < sink.size or self._may_be_cut(answer, asked):
                self._receive_ranges(Begun(answer, opened.pop_all(), stop))
            else:
                for block in answer.iter_blocks():
                    self._take(block)
        if sink.offset != sink.size:
            raise HubUnreachableError(f"{self._name} broke off after {sink.offset} of {sink.size} bytes")
        return True

    def _plan(self) -> _Asked:
        """Say which bytes to ask for: the first range of a long entry, else all that is missing."""
        sink, entry = self._sink, self._wanted.entry
        start = sink.offset if sink.etag else 0
        size = sink.size if sink.etag else (0 if entry is None else entry.size)
        is_long = self._takes_ranges and size - start > LONG_BYTES
        return _Asked(start, start + self._transport.link.range_bytes if is_long else None, sink.etag if start else "")

    def _may_be_cut(self, answer: Answer, asked: _Asked) -> bool:
        """Tell whether an answer that brings all of a long entry may be left for ranges."""
        is_long = answer.status == 200 and self._sink.size > LONG_BYTES and self._sink.etag != ""
        takes_ranges = answer.headers.get("Accept-Ranges") == "bytes" and (asked.stop is None or asked.etag != "")
        return self._takes_ranges and takes_ranges and is_long

    def _receive_ranges(self, begun: Begun) -> None:
        """Receive what is missing in ranges, of which the first has begun to come."""
        sink = self._sink
        if begun.answer.status == 200:
            begun = begun._replace(stop=min(self._transport.link.range_bytes, sink.size))
        self._inquire()
        version = Version(self._url, self._name, sink.etag, sink.size)
        ranges = Ranges(self._transport, version, TRANSFER_S, self._watch.stop or threading.Event())
        try:
            with closing(ranges.iter_blocks(sink.offset, begun)) as blocks:
                for block in blocks:
                    self._take(block)
        except IntegrityError:
            self._takes_ranges = False
            raise
        except ConflictError as error:
            self._follow_change(error)
            raise

    def verify(self) -> Fetched:
        """Hold the complete entry against all that the hub and the manifest say of it."""
        sink, digest = self._sink, self._sink.digest
        state = State.read(self._headers, size=sink.size)
        is_known = not sink.size or state.digest is not None or self._is_vouched_for(state, digest)
        if not self._headers or not is_known:
            state = State.read(self._ask_for_digest(), size=sink.size)
        computed = head_hash(sink.head)
        if state.head_hash is None:
            raise HubError(f"{self._name} came without an X-DSX-Hash to verify it against; is that a DSX hub?")
        if state.head_hash != computed:
            raise IntegrityError(f"{self._name} came with other first bytes than its head hash says; thrown away")
        if state.digest not in (None, digest):
            raise IntegrityError(f"{self._name} came with other bytes than its digest says; thrown away")
        self._hold_against_manifest(state, digest)
        return Fetched(True, computed, state.mtime_ns)

    def _is_vouched_for(self, state: State, digest: str) -> bool:
        """Tell whether the manifest names the very entry that came, and its digest."""
        entry = self._wanted.entry
        return entry is not None and entry.digest == digest and self._wanted.is_entry(state)

    def _hold_against_manifest(self, state: State, digest: str) -> None:
        """Hold what came, which is what the hub has, against what the manifest says that it had.

        Where the hub says another digest than the manifest, the entry was rewritten since, in place and with its old
        time of modification: a conflict of a revision, and right for whoever wants what there is.
        """
        wanted = self._wanted
        wanted.check_pinned(state)
        if wanted.is_entry(state) and not wanted.is_entry(state._replace(digest=digest)):
            raise IntegrityError(
                f"{self._name} came with other bytes than the manifest's digest says; thrown away; "
                "if it was changed on purpose, get_manifest() has its new digest"
            )

    def _inquire(self) -> None:
        """Ask for the digest of what has begun to come, if nobody has said it."""
        entry, sink = self._wanted.entry, self._sink
        is_known = "Repr-Digest" in self._headers or (entry is not None and entry.digest is not None)
        if not is_known and self._inquiry is None:
            transport, wanted, size, etag = self._transport, self._wanted, sink.size, sink.etag
            self._inquiry = Inquiry(lambda: read_digest(transport, wanted, size=size, etag=etag))

    def _ask_for_digest(self) -> Mapping[str, str]:
        inquiry, self._inquiry = self._inquiry, None
        said = None if inquiry is None else inquiry.wait(self._patience)
        if said is not None:
            return said
        try:
            return read_digest(self._transport, self._wanted, size=self._sink.size, etag=self._sink.etag)
        except ConflictError as error:
            self._follow_change(error)
            raise

    def _follow_change(self, error: ConflictError) -> None:
        """Let a transfer start anew when the entry is another than it was, unless that happens again and again."""
        if error.code != "conflict":  # which says that it is not of the revision, or never at rest
            self._changes += 1
            error.retryable = self._changes < CHANGES_FOLLOWED

    def _give_up_ranges(self, why: str) -> ConflictError:
        self._takes_ranges = False
        error = ConflictError(f"{self._name} {why}")
        error.retryable = True
        return error

    def name_in(self, error: DsxError) -> None:
        """Make an error say which entry it is about."""
        if shown(self._wanted.path) not in str(error) and self._name not in str(error):
            error.args = (f"{self._name}: {error}",)

    def start_anew(self) -> None:
        """Throw away what has come: it is wrong, or of a version that is gone."""
        self._sink.begin("", 0)
        self._headers = {}
        self._inquiry = None

    def _check_start(self, answer: Answer, asked: _Asked) -> int:
        """Make sure that the body is what was asked for, before a byte of it is used; return where it ends."""
        sink, etag = self._sink, answer.headers.get("ETag", "")
        size = stop = check_body(answer, self._name)
        if answer.status == 206 and asked.headers:
            start, stop, size = check_part(answer, self._name)
            if not is_strong_tag(etag):
                raise self._give_up_ranges("came without an ETag to know its other parts by")
            if (start, stop) != (asked.start, size if asked.stop is None else min(asked.stop, size)) or (
                asked.etag and (etag, size) != (asked.etag, sink.size)
            ):
                raise IntegrityError(f"{self._name} came from another place than was asked for")
        elif answer.status != 200:
            raise IntegrityError(f"{self._name} came with status {answer.status}")
        if size > LARGEST_BYTES:
            raise IntegrityError(f"{self._name} came with a length of {size} bytes, which no file has")
        if answer.status == 200 or not sink.etag:
            sink.begin(etag if is_strong_tag(etag) else "", size)
            self._inquiry = None
        state = State.read(answer.headers, size=sink.size)
        if state.head_hash is not None:
            self._wanted.check_pinned(state)
        return stop

    def _take(self, block: bytes) -> None:
        if self._sink.offset + len(block) > self._sink.size:
            raise IntegrityError(f"{self._name} came longer than the {self._sink.size} bytes declared")
        self._sink.write(block)
        if self._sink.offset > self._furthest:  # a transfer that breaks at the same place again and again makes none
            self._furthest = self._sink.offset
            self._patience.note_progress(TRANSFER_S)
        self._watch.on_bytes(len(block))
        if self._patience.is_stopped:
            raise HubUnreachableError(f"{self._name} was stopped")
