"""Many reads in few requests: `POST /batch`, asked again for what did not come.

`Batches` makes one request and gives its frames. `Asking` has a result for every read of a list in the end, in order:
bytes, or why there are none. What came of a batch that broke is kept; only the rest is asked for again. Long entries go
by themselves (`dsx._fetch`), because those transfers resume; so does everything where the hub knows no batches.

How long a frame may be: bytes of an entry at most as many as were asked for. For a whole entry no limit can be known,
since it may have grown after any manifest; and none is needed, since one longer than `LONG_BYTES` is not read here.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol

from dsx._fetch import CHANGES_FOLLOWED, LONG_BYTES, Watch, fetch_entry
from dsx._problems import is_problem, parse_problem, word_problem
from dsx._reads import Origin, Read
from dsx._retry import FIRST_CONTACT_S, TRANSFER_S, Patience
from dsx._sinks import MemorySink
from dsx._transport import Answer, Transport, quote_path
from dsx._wanted import Wanted
from dsx.errors import (
    PROBLEMS,
    ConflictError,
    DsxError,
    EntryNotFoundError,
    HubError,
    HubUnreachableError,
    IntegrityError,
    InvalidPathError,
    UnreadableError,
)
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import head_hash
from dsx.protocol.frames import FRAMES_TYPE, MAX_PROBLEM_BYTES, Frame, FrameDecoder, Piece, Status
from dsx.protocol.text import shown

PARALLEL = 3
"""How many requests are under way at once, at most."""

RECOVERY = 0.1
"""After ten requests that a hub has answered, one more at once is tried on it."""

MOST_ENTRIES = 2048
"""How many entries are asked for at once, at most."""

BLOCK_BYTES = 1024 * 1024
"""The most that is taken off the wire at once, in bytes."""

ENTRY_ERRORS = (EntryNotFoundError, InvalidPathError, ConflictError, UnreadableError)
"""What can be wrong with one entry while all is well with the others."""

_BY_STATUS: dict[Status, type[DsxError]] = {
    Status.NOT_FOUND: EntryNotFoundError,
    Status.CHANGED: ConflictError,
    Status.UNREADABLE: UnreadableError,
    Status.INVALID: InvalidPathError,
}
NO_BATCHES = ("route_not_found", "method_not_allowed")
"""What a hub says that has no batches."""

Result = bytes | DsxError
Frames = list[Frame | Piece]


class Batches:
    """Makes batch requests to one hub. Threads may share it.

    Attributes:
        transport: The hub.
        are_known: Whether the hub knows batches, as far as anybody has found out.
        most_entries: How many entries it takes in one.
        parallel: How many requests it takes at once: one less for every time that it was too busy, `RECOVERY` more for
            every one that it answered to its end.
        stand_in: Brings reads in the hub's place; None to ask the hub.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.are_known = True
        self.most_entries = MOST_ENTRIES
        self.parallel: float = PARALLEL
        self.stand_in: Callable[[Origin, Sequence[Read], Outlet, threading.Event], None] | None = None

    def ask(
        self, origin: Origin, reads: Sequence[Read], watch: Callable[[Answer], object]
    ) -> Generator[Frames, None, None]:
        """Send one request, and yield its frames as they come; those yielded are right, whatever comes after them.

        Args:
            origin: Where the reads are from.
            reads: All of whole entries, or all of bytes of entries.
            watch: Is given the answer before its body is read, so that it can be aborted.

        Raises:
            DsxError: The hub refused, or the stream broke or was damaged.
        """
        headers = {"Content-Type": "application/json", "Accept": FRAMES_TYPE, "Accept-Encoding": "identity"}
        url, body = f"/batch/{quote_path(origin.dataset)}", _format_request(reads, origin.revision)
        with self.transport.open("POST", url, headers=headers, body=body) as answer:
            watch(answer)
            _check_type(answer)
            decoder = FrameDecoder([read.most_bytes for read in reads])
            for block in answer.iter_arrivals(BLOCK_BYTES):
                frames: Frames = []
                try:
                    decoder.feed(block, frames)
                except IntegrityError:
                    yield frames
                    raise
                yield frames
        try:
            decoder.finish()
        except IntegrityError as error:  # nothing that came is wrong
            raise HubUnreachableError(str(error)) from error
        self.parallel = min(PARALLEL, self.parallel + RECOVERY)

    def can_ask_otherwise(self, error: DsxError, count: int) -> bool:
        """Tell whether the hub refused a request for its kind, or its ``count`` reads; the next one will be another."""
        if error.code in NO_BATCHES:
            self.are_known = False
            return True
        if error.code == "too_large" and count > 1:
            self.most_entries = count // 2
            return True
        return False


class Outlet(Protocol):
    """Who takes the results of an `Asking`; either call raises `Stopped` when nobody wants them any more."""

    def watch(self, answer: Answer | None) -> None:
        """Take note of the answer that is being read, None for none, to abort it if need be."""

    def reserve(self, size: int) -> None:
        """Wait until there is room for ``size`` bytes that will be part of the next result."""

    def deliver(self, results: list[Result]) -> None:
        """Take the next results, as soon as there is room for them."""

    def note_request(self, seconds: float) -> None:
        """Take note of a request that took so long, in s, whatever came of it."""

    def note_retry(self) -> None:
        """Take note that what did not come is asked for again."""


class Stopped(Exception):  # noqa: N818 -- not an error: it ends a thread
    """Nobody wants the results any more."""


class Asking:
    """Brings a result for each of some reads.

    Args:
        batches: Makes the requests.
        origin: Where the reads are from.
        reads: What is wanted.
        outlet: Takes the results, in order.
        stop: Ends every wait when it is set.
    """

    def __init__(
        self, batches: Batches, origin: Origin, reads: Sequence[Read], outlet: Outlet, stop: threading.Event
    ) -> None:
        self._batches = batches
        self._origin = origin
        self._reads = reads
        self._outlet = outlet
        self._stop = stop
        self._done = 0
        self._long_bytes: int | None = None
        self._pieces: list[memoryview] = []
        self._furthest = 0
        self._is_held_here = False  # whether entries are held against the revision here, and not by the hub
        self._start_patience()

    def run(self) -> None:
        """Deliver all results.

        Raises:
            DsxError: What is wrong with the hub, the way to it or the whole request.
            Stopped: Nobody wants them any more.
        """
        while self._done < len(self._reads):
            read = self._reads[self._done]
            if read.refusal is not None:
                self._deliver([read.refusal])
            elif self._is_long(read) or not self._batches.are_known:
                self._deliver([self._fetch_alone(read)])
            else:
                self._ask_for_run()

    def _is_long(self, read: Read) -> bool:
        size = self._long_bytes if self._long_bytes is not None else read.expected_bytes
        return read.span is None and size is not None and size > LONG_BYTES

    def _ask_for_run(self) -> None:
        """Ask for the next reads, as far as they go together, and deliver what comes of them."""
        first = stop = self._done
        while stop < min(len(self._reads), first + self._batches.most_entries):
            read = self._reads[stop]
            if read.refusal is not None or (stop > first and self._is_long(read)):
                break
            stop += 1
        try:
            self._receive(self._reads[first:stop])
        except DsxError as error:
            if self._done == stop:
                return  # all came, and each was held against its checksum
            if self._batches.can_ask_otherwise(error, stop - first):
                return
            if error.code == "busy":
                self._batches.parallel = max(1, self._batches.parallel - 1)
            self._name_in(error)
            try:
                self._wait_after(error)
            except ConflictError as final:
                if not self._changes:
                    raise  # it is not of this entry
                self._deliver([final])
        finally:
            self._outlet.watch(None)

    def _receive(self, reads: Sequence[Read]) -> None:
        """Take the frames of one request; return early when the next entry is one to be fetched by itself."""
        self._pieces = []
        began = time.monotonic()
        try:
            origin = self._origin.without_revision_if(all(read.is_told for read in reads))
            self._is_held_here = origin != self._origin
            with closing(self._batches.ask(origin, reads, self._outlet.watch)) as stream:
                for frames in stream:
                    if not self._take_frames(reads, frames):
                        return
        finally:
            self._outlet.note_request(time.monotonic() - began)

    def _take_frames(self, reads: Sequence[Read], frames: Frames) -> bool:
        """Deliver what frames hold, up to the first that is not usable; tell whether to go on with the stream."""
        results: list[Result] = []
        try:
            for frame in frames:
                if isinstance(frame, Frame):
                    results.append(self._read_frame(reads[frame.index], frame))
                elif not frame.start and not self._begin_long(reads[frame.index], frame, results):
                    return False
                else:
                    self._take_piece(frame)
        finally:
            self._deliver(results)
        return True

    def _read_frame(self, read: Read, frame: Frame) -> Result:
        """Return what a frame holds; raise its error when it may be another one at the next try."""
        if frame.status is Status.OK:
            data = frame.payload
            if data is None:
                data, self._pieces = b"".join(self._pieces), []
            return data if read.entry is None and data[:1] != b"{" else self._verify(read, data)
        error = _read_error(frame)
        if self._is_held_here and isinstance(error, EntryNotFoundError):
            return self._want(read).make_conflict("is gone")
        self._name_in(error, read)
        is_pinned = self._origin.revision and not self._is_held_here
        if isinstance(error, ConflictError) and not is_pinned:  # it is being written: at rest in a moment
            self._changes += 1
            error.retryable = self._changes < CHANGES_FOLLOWED
            if error.retryable:
                raise error
        return error

    def _verify(self, read: Read, data: bytes) -> Result:
        """Hold an entry that seems to be what the manifest names against its digest.

        One that differs was damaged, or rewritten with its size and its first bytes as they were. By itself it comes
        with what the hub says of it, which tells. So does one that reads like a problem: a frame's checksum is of its
        payload, and one bit of its status would make the words of an error the bytes of an entry.
        """
        entry = read.entry
        if data[:1] == b"{" and b'"code"' in data[:MAX_PROBLEM_BYTES] and is_problem(data):
            return self._fetch_alone(read)
        if read.span is not None or entry is None or read.is_held_later:
            return data
        if self._is_held_here:
            return data if _is_entry(entry, data) else self._fetch_alone(read)
        if entry.digest is None or len(data) != entry.size:
            return data
        if hashlib.sha256(data).hexdigest() == entry.digest or head_hash(data) != entry.hash:
            return data
        return self._fetch_alone(read)

    def _begin_long(self, read: Read, piece: Piece, results: list[Result]) -> bool:
        """Make room for a payload that comes in pieces; return False when it is one to be fetched by itself."""
        self._deliver(results)
        results.clear()
        if read.span is None and piece.length > LONG_BYTES:
            self._long_bytes = piece.length
            return False
        self._outlet.reserve(piece.length)
        return True

    def _take_piece(self, piece: Piece) -> None:
        self._pieces.append(piece.data)
        came = piece.start + len(piece.data)
        if came > self._furthest:
            self._furthest = came
            if self._patience is not None:
                self._patience.note_progress(TRANSFER_S)

    def _fetch_alone(self, read: Read) -> Result:
        """Fetch an entry by itself: with resuming, tries again and all that the hub says of it."""
        size = self._long_bytes or read.expected_bytes
        if size is not None:
            self._outlet.reserve(size)
        sink = MemorySink()
        began = time.monotonic()
        try:
            fetch_entry(self._batches.transport, self._want(read), sink=sink, watch=Watch(self._stop))
        except ENTRY_ERRORS as error:
            return error
        finally:
            self._outlet.note_request(time.monotonic() - began)
        return sink.data if read.span is None else sink.data[slice(*read.span)]

    def _want(self, read: Read) -> Wanted:
        return Wanted(self._origin.dataset, read.path, read.entry, self._origin.revision)

    def _deliver(self, results: list[Result]) -> None:
        if results:
            self._outlet.deliver(results)
            self._done += len(results)
            self._long_bytes = None
            self._furthest = 0
            self._start_patience()

    def _start_patience(self) -> None:
        """Begin anew to count tries: every read has its own."""
        self._patience: Patience | None = None
        self._changes = 0

    def _wait_after(self, error: DsxError) -> None:
        """Wait before the next try, or raise ``error`` when there shall be none."""
        if self._stop.is_set():
            raise Stopped
        if self._patience is None:
            seconds = TRANSFER_S if self._batches.transport.has_answered else FIRST_CONTACT_S
            self._patience = Patience(seconds, self._stop)
        self._patience.wait_after(error)
        self._outlet.note_retry()

    def _name_in(self, error: DsxError, read: Read | None = None) -> None:
        """Make an error say which entry it is about: by default the first that has not come."""
        path = self._reads[self._done].path if read is None else read.path
        name = f"{self._origin.dataset}/{path}"
        if shown(path) not in str(error) and name not in str(error):
            error.args = (f"{shown(name)}: {error}",)


def _format_request(reads: Sequence[Read], revision: str) -> bytes:
    spans = [(read.path, *read.span) for read in reads if read.span is not None]
    wanted: dict[str, object] = {"reads": spans} if spans else {"paths": [read.path for read in reads]}
    if revision:
        wanted["revision"] = revision
    return json.dumps(wanted, ensure_ascii=False, separators=(",", ":")).encode()


def _is_entry(entry: ManifestEntry, data: bytes) -> bool:
    """Tell whether these bytes are what a manifest names, which tells all of them: see `Read.is_told`."""
    if len(data) != entry.size:
        return False
    return head_hash(data) == entry.hash if entry.digest is None else hashlib.sha256(data).hexdigest() == entry.digest


def _check_type(answer: Answer) -> None:
    """Make sure that the body is a stream of frames, before a byte of it is used."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise IntegrityError("a batch came compressed, which was not asked for; is there a proxy between?")
    if answer.status != 200 or kind != FRAMES_TYPE:
        raise HubError(f"a batch came with status {answer.status} as {shown(kind)}; is that a DSX hub?")


def _read_error(frame: Frame) -> DsxError:
    """Build the error that a frame which is a problem stands for."""
    kind = _BY_STATUS[frame.status]
    payload = frame.payload or b""
    if not is_problem(payload):
        raise IntegrityError(f"the batch is damaged at frame {frame.index}: it is a problem that says nothing")
    problem = parse_problem(payload)
    error = kind(word_problem(problem) or f"the hub says of it: {frame.status.name.lower()}")
    code = str(problem.get("code"))
    error.code = code if code in PROBLEMS and PROBLEMS[code].error is kind else ""
    return error
