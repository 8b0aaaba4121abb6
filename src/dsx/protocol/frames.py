"""The answer of ``/batch``: many entries in one stream of frames, little endian, never compressed::

    stream  = "DSXB" version:u8 = 1, 0 0 0   frame*   end
    frame   = index:u32 status:u8 0 0 0 length:u64  payload[length]  crc32:u32 of the payload
    end     = index 0xFFFFFFFF, status 255, length 8, payload = number of frames : u64, crc32
    status  = 0 ok | 1 not_found | 2 changed | 3 unreadable | 4 invalid      (payload of 1-4: problem JSON)

Frames come in the order of the request: the index counts up from 0, and there is one for every entry asked for. A
stream without its end is a failed transfer, whatever the HTTP status said.

What is here does no I/O. `FrameDecoder` believes nothing: a length is held against what was asked for before a byte of
it is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from dsx.errors import IntegrityError
from dsx.protocol.checksums import crc32

FRAMES_TYPE = "application/vnd.dsx.frames"
"""Media type of the stream."""

VERSION = 1
STREAM_HEAD = b"DSXB" + bytes([VERSION, 0, 0, 0])

HELD_BYTES = 1024 * 1024
"""Payloads up to this size, in bytes, come as one `Frame`; longer ones in pieces."""

MAX_PROBLEM_BYTES = 64 * 1024
"""The most that a payload which is problem JSON may have, in bytes."""

END_INDEX = 0xFFFFFFFF
END_STATUS = 255

# The status and its three zero bytes are read as one number: it is below 256 if and only if they are zero.
_HEADER = struct.Struct("<IIQ")
_CRC = struct.Struct("<I")
_COUNT = struct.Struct("<Q")

HEADER_BYTES = _HEADER.size
CRC_BYTES = _CRC.size


class Status(IntEnum):
    """What became of one entry of a batch."""

    OK = 0
    NOT_FOUND = 1
    CHANGED = 2
    UNREADABLE = 3
    INVALID = 4


@dataclass(slots=True)
class Frame:
    """One entry, whole and checked.

    Attributes:
        index: Its place in the request.
        status: What became of it.
        payload: Its bytes, or problem JSON; None when they were handed out before, as pieces, and have now been found
            to be right.
    """

    index: int
    status: Status
    payload: bytes | None


@dataclass(slots=True)
class Piece:
    """Some bytes of a long payload, not checked yet: that is done when the `Frame` of the same index comes.

    Attributes:
        index: The entry's place in the request.
        start: Where in the payload they belong, in bytes.
        data: The bytes; they are part of the block that was fed, not a copy.
        length: Size of the whole payload, in bytes.
    """

    index: int
    start: int
    data: memoryview
    length: int


def encode_header(index: int, status: Status, length: int) -> bytes:
    """Return what comes before a payload of ``length`` bytes."""
    return _HEADER.pack(index, status, length)


def encode_crc(crc: int) -> bytes:
    """Return what comes after a payload whose CRC-32 is ``crc``."""
    return _CRC.pack(crc)


def encode_frame(index: int, status: Status, payload: bytes) -> bytes:
    """Return one whole frame."""
    return b"".join((_HEADER.pack(index, status, len(payload)), payload, _CRC.pack(crc32(payload))))


def encode_end(frames: int) -> bytes:
    """Return what ends a stream of so many frames."""
    count = _COUNT.pack(frames)
    return b"".join((_HEADER.pack(END_INDEX, END_STATUS, len(count)), count, _CRC.pack(crc32(count))))


END_BYTES = len(encode_end(0))


class FrameDecoder:
    """Reads a stream of frames that comes in blocks of any size. After an error it is of no more use.

    Args:
        caps: For each entry asked for, in order, the most bytes that it may have.
        held_bytes: Longer payloads come in pieces; so much memory is used at most, beside the block that is fed.

    Attributes:
        received: How many frames are whole and checked.
    """

    def __init__(self, caps: Sequence[int], *, held_bytes: int = HELD_BYTES) -> None:
        self.received = 0
        self._caps = caps
        self._held_bytes = max(held_bytes, _COUNT.size)  # an end is never long
        self._held = bytearray()
        self._long: _Long | None = None
        self._position = 0
        self._has_begun = False
        self._is_done = False

    def feed(self, block: bytes, out: list[Frame | Piece] | None = None) -> list[Frame | Piece]:
        """Take the next block of the stream, and return what it completes.

        Args:
            block: Bytes of any number.
            out: Where to put that; after an error there is in it what came before the damage, and is right.

        Raises:
            IntegrityError: The stream is not what was asked for, or was damaged on the way; says what, and where.
        """
        out = [] if out is None else out
        at = 0
        while at < len(block):
            if self._long is not None:
                at = self._take_long(self._long, block, at, out)
            elif self._held or not self._has_begun:
                at = self._take_held(block, at, out)
            else:
                at = self._parse(block, at, out)
                at += self._hold(block, at)
        self._position += len(block)
        return out

    def finish(self) -> None:
        """Make sure that the stream, which brings no more bytes, was whole.

        Raises:
            IntegrityError: It has ended before its end.
        """
        if not self._is_done:
            raise IntegrityError(
                f"the batch ended early: {self.received} of {len(self._caps)} frames, {self._position} bytes came"
            )

    def _parse(self, data: bytes, at: int, out: list[Frame | Piece]) -> int:
        """Parse the frames that lie whole in ``data``, from ``at`` on; return where the first that does not begins."""
        index, caps, held_bytes, size = self.received, self._caps, self._held_bytes, len(data)
        unpack_header, unpack_crc = _HEADER.unpack_from, _CRC.unpack_from
        while at + HEADER_BYTES <= size:
            found, status, length = unpack_header(data, at)
            if found != index or status != 0 or index >= len(caps) or length > caps[index] or self._is_done:
                self._check_header(index, found, status, length)
            start = at + HEADER_BYTES
            stop = start + length
            if length > held_bytes:
                self.received = index
                self._long = _Long(index, _STATUSES[status], length)
                return start
            if stop + CRC_BYTES > size:
                break
            payload = data[start:stop]
            if crc32(payload) != unpack_crc(data, stop)[0]:
                self._refuse(index, "its checksum is wrong")
            if status == END_STATUS:
                self._end(index, payload)
            else:
                out.append(Frame(index, _STATUSES[status], payload))
                index += 1
            at = stop + CRC_BYTES
        self.received = index
        return at

    def _hold(self, block: bytes, at: int) -> int:
        """Keep what is left of a block for the next one; return how many bytes that is."""
        if self._long is not None:
            return 0
        self._held += memoryview(block)[at:]
        if self._is_done and self._held:
            self._refuse(self.received, "there are bytes after the end")
        return len(block) - at

    def _take_held(self, block: bytes, at: int, out: list[Frame | Piece]) -> int:
        """Complete what is held with bytes of ``block`` from ``at`` on; return where they end."""
        wanted = self._count_wanted()
        taken = min(wanted - len(self._held), len(block) - at)
        self._held += memoryview(block)[at : at + taken]
        if len(self._held) < wanted:
            return at + taken
        if not self._has_begun:
            self._check_head()
        elif self._count_wanted() == wanted:
            self._parse(bytes(self._held), 0, out)
            self._held.clear()
        return at + taken

    def _count_wanted(self) -> int:
        """Return how many bytes there must be until what is held can be looked at."""
        if not self._has_begun:
            return len(STREAM_HEAD)
        if len(self._held) < HEADER_BYTES:
            return HEADER_BYTES
        found, status, length = _HEADER.unpack_from(self._held)
        self._check_header(self.received, found, status, length)
        return HEADER_BYTES if self._is_long() else HEADER_BYTES + int(length) + CRC_BYTES

    def _is_long(self) -> bool:
        return bool(_HEADER.unpack_from(self._held)[2] > self._held_bytes)

    def _take_long(self, long: _Long, block: bytes, at: int, out: list[Frame | Piece]) -> int:
        """Hand out bytes of a long payload; behind its last one comes its checksum."""
        if long.came < long.length:
            data = memoryview(block)[at : at + long.length - long.came]
            out.append(Piece(long.index, long.came, data, long.length))
            long.crc = crc32(data, long.crc)
            long.came += len(data)
            return at + len(data)
        taken = block[at : at + CRC_BYTES - len(self._held)]
        self._held += taken
        if len(self._held) == CRC_BYTES:
            if _CRC.unpack(self._held)[0] != long.crc:
                self._refuse(long.index, "its checksum is wrong")
            out.append(Frame(long.index, long.status, None))
            self._held.clear()
            self._long = None
            self.received += 1
        return at + len(taken)

    def _check_head(self) -> None:
        if self._held[:4] != STREAM_HEAD[:4]:
            raise IntegrityError(f"the answer is not a batch: it begins with {bytes(self._held)!r}")
        if self._held != STREAM_HEAD:
            raise IntegrityError(f"the batch is of version {self._held[4]}; this program reads version {VERSION}")
        self._held.clear()
        self._has_begun = True

    def _check_header(self, index: int, found: int, status: int, length: int) -> None:
        """Refuse a header that cannot stand where frame number ``index`` is due."""
        if self._is_done:
            self._refuse(index, "there are bytes after the end")
        if status > 0xFF:
            self._refuse(index, "its reserved bytes are not zero")
        if status == END_STATUS or found == END_INDEX:
            if (found, status, length) != (END_INDEX, END_STATUS, _COUNT.size):
                self._refuse(index, "it is an end that is none")
            return
        if index >= len(self._caps):
            self._refuse(index, f"{len(self._caps)} frames were asked for")
        if found != index:
            self._refuse(index, f"frame {found} is in its place")
        if status >= len(_STATUSES):
            self._refuse(index, f"its status is {status}, which this program does not know")
        cap = self._caps[index] if status == Status.OK else MAX_PROBLEM_BYTES
        if length > cap:
            self._refuse(index, f"it is said to have {length} bytes; {cap} may come")

    def _end(self, index: int, payload: bytes) -> None:
        count = _COUNT.unpack(payload)[0]
        if not index == count == len(self._caps):
            self._refuse(index, f"the end counts {count} frames; {index} came, {len(self._caps)} were asked for")
        self._is_done = True

    def _refuse(self, index: int, why: str) -> NoReturn:
        raise IntegrityError(f"the batch is damaged at frame {index}, after {self._position} bytes or more: {why}")


_STATUSES = tuple(Status)


class _Long:
    """A long payload that is being handed out in pieces."""

    def __init__(self, index: int, status: Status, length: int) -> None:
        self.index = index
        self.status = status
        self.length = length
        self.came = 0
        self.crc = 0


def decode_frames(blocks: Iterable[bytes], caps: Sequence[int]) -> Iterator[Frame | Piece]:
    """Yield the frames of a stream that comes in blocks; see `FrameDecoder`.

    Raises:
        IntegrityError: The stream is damaged, or ended early. Every `Frame` that was yielded before is right.
    """
    decoder = FrameDecoder(caps)
    for block in blocks:
        yield from decoder.feed(block)
    decoder.finish()
