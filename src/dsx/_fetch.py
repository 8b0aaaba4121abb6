"""Bring one entry from the hub: count it, verify it, go on where it broke off.

Where the bytes go is a `Sink`: memory here, a partial of the cache there. What a transfer is held against: the
declared length, the head hash in ``X-DSX-Hash``, the SHA-256 in ``Repr-Digest`` and in the manifest. The hub sends that
digest with a short entry; of a long one it has computed it by the end of the transfer, and a HEAD asks for it, unless
the manifest has it.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from dsx._retry import FIRST_CONTACT_S, TRANSFER_S, Patience
from dsx._transport import READ_TIMEOUT_S, Answer, Transport, quote_path
from dsx.errors import (
    ConflictError,
    DsxError,
    EntryNotFoundError,
    HubError,
    HubUnreachableError,
    IntegrityError,
)
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import HEAD_BYTES, WANT_SHA256, head_hash, is_strong_tag, parse_repr_digest
from dsx.protocol.paths import check_dataset, check_path
from dsx.protocol.text import shown

HASHING_BYTES_PER_S = 20e6
"""Slowest disk of a hub that a digest is waited for."""

CHANGES_FOLLOWED = 3
"""How often a transfer starts anew because the entry has changed meanwhile."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class Sink(Protocol):
    """Where the bytes of one entry go.

    Attributes:
        etag: Version that the bytes so far are of; empty when there are none.
        size: Size of that version, in bytes.
        offset: How many bytes are there.
    """

    etag: str
    size: int
    offset: int

    @property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` of the bytes that are there."""

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes that are there, in hex."""

    def begin(self, etag: str, size: int) -> None:
        """Start from nothing with another version."""

    def write(self, block: bytes) -> None:
        """Append a block."""


class State(NamedTuple):
    """What the hub says of the entry that it has.

    Attributes:
        size: Size in bytes.
        head_hash: MD5 of the first 1024 bytes, in hex; None when it did not say.
        mtime_ns: Modification time on the hub, ns since 1970; None when it did not say.
        digest: SHA-256 of the whole entry, in hex; None when it did not say.
    """

    size: int
    head_hash: str | None
    mtime_ns: int | None
    digest: str | None

    @classmethod
    def read(cls, headers: Mapping[str, str], *, size: int) -> State:
        """Read it from the headers of an answer about an entry of ``size`` bytes."""
        mtime_ns = _parse_mtime(headers.get("X-DSX-Mtime-Ns", ""))
        return cls(size, headers.get("X-DSX-Hash"), mtime_ns, parse_repr_digest(headers.get("Repr-Digest", "")))


class Wanted(NamedTuple):
    """An entry, and what is known of it before it is asked for.

    Attributes:
        dataset: Name of its dataset.
        path: Its path.
        entry: What a manifest says of it; None when no manifest is known.
        revision: The revision of that manifest when the entry has to be of it; empty for whatever the hub has.
    """

    dataset: str
    path: str
    entry: ManifestEntry | None = None
    revision: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return shown(f"{self.dataset}/{self.path}")

    @property
    def url(self) -> str:
        """Path and query of its URL.

        Raises:
            InvalidPathError: The gate does not admit the names.
        """
        query = f"?revision={self.revision}" if self.revision else ""
        return "/file/" + quote_path(check_dataset(self.dataset), check_path(self.path)) + query

    def is_entry(self, state: State) -> bool:
        """Tell whether what the hub has is what the manifest names; a digest counts when both have one."""
        entry = self.entry
        if entry is None:
            return False
        is_same = (state.size, state.head_hash) == (entry.size, entry.hash) and entry.mtime_ns in (None, state.mtime_ns)
        return is_same and (state.digest is None or entry.digest in (None, state.digest))

    def check_pinned(self, state: State) -> None:
        """Raise ConflictError when it has to be of a revision and what the hub has is not."""
        if self.revision and not self.is_entry(state):
            raise self.make_conflict("has changed")

    def make_conflict(self, what: str) -> ConflictError:
        """Word that the hub no longer has it as it was in the revision."""
        return ConflictError(
            f"{self.name} {what} since revision {self.revision}, so that it cannot be read as it was then; "
            f"hub.diff({shown(self.dataset)}, ...) says what else has changed"
        )


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
    """

    stop: threading.Event | None = None
    on_bytes: Callable[[int], object] = int


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
    transfer = _Transfer(transport, wanted, sink, patience, watch.on_bytes)
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


def read_digest(transport: Transport, wanted: Wanted, *, size: int, etag: str = "") -> Mapping[str, str]:
    """Ask for the headers of an entry, with the SHA-256 of its content.

    Args:
        transport: The hub.
        wanted: The entry.
        size: Its size in bytes, as far as known: the hub may have to read as much.
        etag: The version meant; another one is a `ConflictError`. Empty means whichever there is.
    """
    headers = {"Want-Repr-Digest": WANT_SHA256, "Accept-Encoding": "identity"} | ({"If-Match": etag} if etag else {})
    timeout_s = READ_TIMEOUT_S + size / HASHING_BYTES_PER_S
    with transport.open("HEAD", wanted.url, headers=headers, timeout_s=timeout_s) as answer:
        return answer.headers


class MemorySink:
    """Keeps an entry in memory."""

    def __init__(self) -> None:
        self.begin("", 0)

    def begin(self, etag: str, size: int) -> None:
        """Start from nothing with another version."""
        self.etag, self.size, self.offset = etag, size, 0
        self._blocks: list[bytes] = []

    def write(self, block: bytes) -> None:
        """Append a block."""
        self._blocks.append(block)
        self.offset += len(block)

    @property
    def data(self) -> bytes:
        """The bytes that are there."""
        if len(self._blocks) != 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    @property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` of them."""
        return self.data[:HEAD_BYTES]

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes that are there, in hex."""
        return hashlib.sha256(self.data).hexdigest()


class _Transfer:
    """One entry on its way; `receive` may be called until it returns."""

    def __init__(
        self, transport: Transport, wanted: Wanted, sink: Sink, patience: Patience, on_bytes: Callable[[int], object]
    ) -> None:
        self._transport = transport
        self._wanted = wanted
        self._name = wanted.name
        self._sink = sink
        self._patience = patience
        self._on_bytes = on_bytes
        self._url = wanted.url
        self._headers: Mapping[str, str] = {}
        self._furthest = 0
        self._changes = 0

    def receive(self, unless: str) -> bool:
        """Receive what is missing; return False when the hub still has version ``unless``."""
        sink = self._sink
        if sink.etag and sink.offset == sink.size:
            return True  # broken off after the last byte; verify() asks for what is needed
        headers = {"Want-Repr-Digest": WANT_SHA256, "Accept-Encoding": "identity"}
        if sink.etag and sink.offset:
            headers |= {"Range": f"bytes={sink.offset}-", "If-Range": sink.etag}
        elif unless:
            headers |= {"If-None-Match": unless}
        with self._transport.open("GET", self._url, headers=headers) as answer:
            if answer.status == 304 and "If-None-Match" in headers:
                return False
            self._headers = answer.headers
            self._check_start(answer)
            for block in answer.iter_blocks():
                self._take(block)
        if sink.offset != sink.size:
            raise HubUnreachableError(f"{self._name} broke off after {sink.offset} of {sink.size} bytes")
        return True

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

    def _ask_for_digest(self) -> Mapping[str, str]:
        try:
            return read_digest(self._transport, self._wanted, size=self._sink.size, etag=self._sink.etag)
        except ConflictError as error:
            self._changes += 1
            error.retryable = self._changes < CHANGES_FOLLOWED
            raise

    def name_in(self, error: DsxError) -> None:
        """Make an error say which entry it is about."""
        if shown(self._wanted.path) not in str(error) and self._name not in str(error):
            error.args = (f"{self._name}: {error}",)

    def start_anew(self) -> None:
        """Throw away what has come: it is wrong, or of a version that is gone."""
        self._sink.begin("", 0)
        self._headers = {}

    def _check_start(self, answer: Answer) -> None:
        """Make sure that the body is what was asked for, before a byte of it is used."""
        sink = self._sink
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise IntegrityError(f"{self._name} came compressed, which was not asked for; is there a proxy between?")
        etag = answer.headers.get("ETag", "")
        if answer.length is None:
            raise IntegrityError(f"{self._name} came without a Content-Length, so that it cannot be counted")
        if answer.status == 206:
            span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            wanted = (sink.offset, sink.size - 1, sink.size)
            if etag != sink.etag or span is None or tuple(map(int, span.groups())) != wanted:
                raise IntegrityError(f"{self._name} came from another place than was asked for")
        elif answer.status == 200:
            sink.begin(etag if is_strong_tag(etag) else "", answer.length)
        else:
            raise IntegrityError(f"{self._name} came with status {answer.status}")
        state = State.read(answer.headers, size=sink.size)
        if state.head_hash is not None:
            self._wanted.check_pinned(state)

    def _take(self, block: bytes) -> None:
        if self._sink.offset + len(block) > self._sink.size:
            raise IntegrityError(f"{self._name} came longer than the {self._sink.size} bytes declared")
        self._sink.write(block)
        if self._sink.offset > self._furthest:  # a transfer that breaks at the same place again and again makes none
            self._furthest = self._sink.offset
            self._patience.note_progress(TRANSFER_S)
        self._on_bytes(len(block))
        if self._patience.is_stopped:
            raise HubUnreachableError(f"{self._name} was stopped")


def _parse_mtime(text: str) -> int | None:
    """Read ``X-DSX-Mtime-Ns``; None when it is no time that a file can have."""
    return int(text) if re.fullmatch(r"-?\d{1,19}", text, re.ASCII) and -(2**63) <= int(text) < 2**63 else None
