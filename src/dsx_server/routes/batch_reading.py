"""From entries to frames. Everything here may block, and runs in threads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from dsx.errors import ConflictError, DsxError, EntryNotFoundError, InvalidPathError, UnreadableError
from dsx.protocol.checksums import crc32
from dsx.protocol.digests import HEAD_BYTES, head_hash
from dsx.protocol.frames import Status, encode_crc, encode_frame, encode_header
from dsx.protocol.text import shown
from dsx_server.index import Index, Row
from dsx_server.problems import describe_error, format_problem
from dsx_server.routes.batch_request import Wanted
from dsx_server.storage import Content, OpenEntry, Read, Reader

WHOLE_BYTES = 1024 * 1024
"""Entries of up to this size, in bytes, are read whole before they are sent; longer ones are sent as they are read."""

FIRST_BYTES = 64 * 1024
"""So much of a long one, in bytes, is read before anything of it is sent: until then it may turn out unreadable."""

_STATUSES: Sequence[tuple[type[DsxError], Status]] = (
    (EntryNotFoundError, Status.NOT_FOUND),
    (ConflictError, Status.CHANGED),
    (UnreadableError, Status.UNREADABLE),
    (InvalidPathError, Status.INVALID),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is asked for, and where it is read."""

    dataset: str
    wanted: Wanted
    reader: Reader
    index: Index


class Block(NamedTuple):
    """Frames that are ready to be sent.

    Attributes:
        data: The frames, joined.
        stop: Number of the first entry that is not among them.
        waited_s: How long a disk was waited for meanwhile, in s.
        long: The entry before ``stop``, if it is too long to be read whole; there are no frames then.
    """

    data: bytes
    stop: int
    waited_s: float
    long: LongEntry | None = None


class Stopwatch:
    """Measures how long a disk is waited for: what passes while this process computes nothing.

    The time alone would not tell. When several batches are read, a thread waits for Python's lock at each call of the
    system, which looks like a slow disk; and more threads, which are the remedy for that, make it worse.
    """

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._computed_s = time.process_time()

    def read_waited_s(self) -> float:
        """Return how long has been waited since the start, in s."""
        return max(0.0, time.perf_counter() - self._began_s - (time.process_time() - self._computed_s))


class LongEntry:
    """An entry that is sent as it is read; `close` it when done.

    Attributes:
        first: Its header, and the first bytes of it.
        position: Where the next bytes are, in bytes from its start.
        stop: Where the last ones end.
    """

    def __init__(self, entry: OpenEntry, number: int, read: Read) -> None:
        path, start, stop = read
        self._entry = entry
        self._path = path
        self._crc = 0
        self.stop = min(stop, entry.identity.size)
        self.position = min(start, self.stop)
        length = self.stop - self.position
        self.first = encode_header(number, Status.OK, length) + self.read_block(FIRST_BYTES)

    def read_block(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or what is left, with the checksum behind the last of them.

        Raises:
            ConflictError: The entry has changed since it was opened.
            UnreadableError: The disk did not give it.
        """
        wanted = min(size, self.stop - self.position)
        data = self._entry.read(self.position, self.position + wanted)
        if len(data) < wanted or not self._entry.is_unchanged():
            raise ConflictError(f"{shown(self._path)} changed on the hub while it was being sent")
        self._crc = crc32(data, self._crc)
        self.position += wanted
        return data if self.position < self.stop else data + encode_crc(self._crc)

    def close(self) -> None:
        """Let go of the entry; may be called twice."""
        self._entry.close()


def read_block(batch: Batch, start: int, stop: int) -> Block:
    """Read the entries ``[start, stop)``, or as many of them as make a block of `WHOLE_BYTES`.

    Raises:
        HubUnavailableError: The disk of the dataset is missing, or the hub has too many open files.
    """
    watch = Stopwatch()
    reads = batch.wanted.slice(start, stop)
    results = batch.reader.read_many(reads, limit=WHOLE_BYTES)
    if not results:
        return _open_long(batch, start, reads[0], watch)
    if any(isinstance(result, EntryNotFoundError) for result in results):
        batch.index.refuse_unmounted(batch.dataset)  # a disk that is missing is no answer to what is on it
    if batch.wanted.revision is not None:
        results = _hold_against_revision(batch, reads, results)
    parts: list[bytes] = []
    for number, result in enumerate(results, start):
        if isinstance(result, Content):
            data = result.data
            parts += (encode_header(number, Status.OK, len(data)), data, encode_crc(crc32(data)))
        else:
            parts.append(_encode_problem(number, result))
    return Block(b"".join(parts), start + len(results), watch.read_waited_s())


def _open_long(batch: Batch, number: int, read: Read, watch: Stopwatch) -> Block:
    """Open an entry that is too long to be read whole."""
    with ExitStack() as stack:
        try:
            entry = stack.enter_context(batch.reader.open(read[0]))
            if batch.wanted.revision is not None:
                rows = batch.index.find_entries(batch.dataset, batch.wanted.revision, [read[0]])
                _check_entry(batch, read[0], rows, entry)
            long = LongEntry(entry, number, read)
        except DsxError as error:
            return Block(_encode_problem(number, error), number + 1, watch.read_waited_s())
        stack.pop_all()
    return Block(b"", number + 1, watch.read_waited_s(), long)


def _hold_against_revision(
    batch: Batch, reads: Sequence[Read], results: Sequence[Content | DsxError]
) -> list[Content | DsxError]:
    """Put an error in the place of each entry that is not what the revision says."""
    revision = batch.wanted.revision or ""
    pairs = list(zip(reads, results, strict=False))
    paths = [read[0] for read, result in pairs if isinstance(result, Content)]
    gone = [read[0] for read, result in pairs if isinstance(result, EntryNotFoundError)]
    rows = batch.index.find_entries(batch.dataset, revision, paths + gone)
    return [_hold_one(batch, read, rows, result) for read, result in pairs]


def _hold_one(batch: Batch, read: Read, rows: Mapping[str, Row], result: Content | DsxError) -> Content | DsxError:
    if isinstance(result, Content):
        return _check_content(batch, read, rows, result)
    if isinstance(result, EntryNotFoundError) and read[0] in rows:
        return _make_conflict(batch, read[0])  # the revision has it
    return result


def _make_conflict(batch: Batch, path: str) -> ConflictError:
    return ConflictError(f"{shown(path)} is no longer what revision {shown(batch.wanted.revision)} says")


def _check_content(batch: Batch, read: Read, rows: Mapping[str, Row], content: Content) -> Content | DsxError:
    path = read[0]
    row = rows.get(path)
    if row is not None and row.identity == content.identity and not row.racy:
        return content
    try:
        with batch.reader.open(path) as entry:
            _check_entry(batch, path, rows, entry)
            if entry.identity != content.identity:
                raise ConflictError(f"{shown(path)} is being written on the hub; try again when it is at rest")
            return content
    except DsxError as error:
        return error


def _check_entry(batch: Batch, path: str, rows: Mapping[str, Row], entry: OpenEntry) -> None:
    """Make sure that an open entry is what the revision says: as long as size and mtime are, and its first bytes."""
    revision = shown(batch.wanted.revision)
    row = rows.get(path)
    if row is None:
        raise EntryNotFoundError(f"revision {revision} of {shown(batch.dataset)} has no {shown(path)}")
    state = (entry.identity.size, head_hash(entry.read(0, HEAD_BYTES)), entry.identity.mtime_ns)
    if state != row.state or not entry.is_unchanged():
        raise _make_conflict(batch, path)


def _encode_problem(number: int, error: DsxError) -> bytes:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        raise error
    code, detail, _ = describe_error(error)
    return encode_frame(number, status, format_problem(code, detail, None)[1])
