"""The stream of a batch: written and read back, cut anywhere, damaged in every way."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsx.errors import IntegrityError
from dsx.protocol.frames import (
    END_BYTES,
    STREAM_HEAD,
    Frame,
    FrameDecoder,
    Piece,
    Status,
    decode_frames,
    encode_crc,
    encode_end,
    encode_frame,
    encode_header,
)

HEAD = b"DSXB\x01\x00\x00\x00"
PAYLOADS = [b"first", b"", b"third" * 10]


def written(index: int, status: int, payload: bytes, *, length: int | None = None) -> bytes:
    """Write a frame as the format's own words have it, with nothing of the code under test."""
    size = len(payload) if length is None else length
    return struct.pack("<IBBBBQ", index, status, 0, 0, 0, size) + payload + struct.pack("<I", zlib.crc32(payload))


def written_end(frames: int) -> bytes:
    return written(0xFFFFFFFF, 255, struct.pack("<Q", frames))


def written_stream(payloads: list[bytes]) -> bytes:
    frames = b"".join(written(index, 0, payload) for index, payload in enumerate(payloads))
    return HEAD + frames + written_end(len(payloads))


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut a stream into blocks."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:stop] for start, stop in itertools.pairwise(edges)]


def read(blocks: Iterable[bytes], caps: list[int], *, held_bytes: int = 1 << 20) -> list[tuple[int, Status, bytes]]:
    """Read a stream to its end, with the pieces of long payloads joined."""
    decoder = FrameDecoder(caps, held_bytes=held_bytes)
    long = bytearray()
    found = []
    for block in blocks:
        for part in decoder.feed(block):
            if isinstance(part, Piece):
                assert (part.start, part.length <= caps[part.index]) == (len(long), True)
                long += part.data
            else:
                found.append((part.index, part.status, bytes(long) if part.payload is None else part.payload))
                long.clear()
    decoder.finish()
    return found


def test_encoder_writes_the_documented_layout() -> None:
    assert STREAM_HEAD == HEAD
    assert encode_frame(7, Status.CHANGED, b"why") == written(7, 2, b"why")
    assert encode_header(2**32 - 2, Status.OK, 2**63) == struct.pack("<IBBBBQ", 2**32 - 2, 0, 0, 0, 0, 2**63)
    assert encode_crc(0xDEADBEEF) == b"\xef\xbe\xad\xde"
    assert encode_end(3) == written_end(3)
    assert len(encode_end(3)) == END_BYTES


def test_statuses_have_the_documented_numbers() -> None:
    assert {status.name: status.value for status in Status} == {
        "OK": 0,
        "NOT_FOUND": 1,
        "CHANGED": 2,
        "UNREADABLE": 3,
        "INVALID": 4,
    }


def test_short_payloads_come_whole() -> None:
    assert list(decode_frames([written_stream(PAYLOADS)], [100, 0, 50])) == [
        Frame(0, Status.OK, b"first"),
        Frame(1, Status.OK, b""),
        Frame(2, Status.OK, b"third" * 10),
    ]


@given(
    frames=st.lists(st.tuples(st.sampled_from(list(Status)), st.binary(max_size=300)), max_size=30),
    places=st.lists(st.integers(min_value=0), max_size=60),
    held_bytes=st.integers(min_value=0, max_value=400),
)
def test_what_was_written_is_read_however_it_is_cut(
    frames: list[tuple[Status, bytes]], places: list[int], held_bytes: int
) -> None:
    parts = [encode_frame(index, status, payload) for index, (status, payload) in enumerate(frames)]
    stream = STREAM_HEAD + b"".join(parts) + encode_end(len(frames))
    caps = [len(payload) for _, payload in frames]
    expected = [(index, *frame) for index, frame in enumerate(frames)]
    assert read(cut(stream, places), caps, held_bytes=held_bytes) == expected
    assert read([bytes([byte]) for byte in stream], caps, held_bytes=held_bytes) == expected


@given(places=st.lists(st.integers(min_value=0), max_size=10), at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_wrong_bit_anywhere_but_in_a_status_is_found(places: list[int], at: int, bit: int) -> None:
    stream = bytearray(written_stream(PAYLOADS))
    statuses = {12, 12 + 25, 12 + 25 + 20}  # tests/sdk/test_batch_fetch.py says what becomes of those
    assume(at % len(stream) not in statuses)
    stream[at % len(stream)] ^= 1 << bit
    for held_bytes in (8, 1000):
        with pytest.raises(IntegrityError):
            read(cut(bytes(stream), places), [100, 100, 100], held_bytes=held_bytes)


@pytest.mark.parametrize("held_bytes", [0, 1000])
def test_truncation_at_every_byte_is_found(held_bytes: int) -> None:
    stream = written_stream(PAYLOADS)
    for size in range(len(stream)):
        decoder = FrameDecoder([100] * 3, held_bytes=held_bytes)
        decoder.feed(stream[:size])
        with pytest.raises(IntegrityError, match=f"{decoder.received} of 3 frames, {size} bytes"):
            decoder.finish()


FIRST = written(0, 0, b"first")


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        (b"HTTP" + HEAD[4:], "not a batch"),
        (b"DSXB\x02\0\0\0", "version 2"),
        (b"DSXB\x01\0\x01\0", "version"),
        (HEAD + written(1, 0, b""), "frame 0.*frame 1 is in its place"),
        (HEAD + FIRST + FIRST, "frame 1.*frame 0 is in its place"),
        (HEAD + FIRST + written(2, 0, b""), "frame 1.*frame 2"),
        (HEAD + FIRST + written(1, 0, b"") + written(2, 0, b""), "frame 2.*2 frames were asked for"),
        (HEAD + FIRST + written(2**31, 0, b""), "frame 1"),
        (HEAD + struct.pack("<IBBBBQ", 0, 0, 1, 0, 0, 0), "frame 0.*reserved"),
        (HEAD + struct.pack("<IBBBBQ", 0, 0, 0, 0, 128, 0), "frame 0.*reserved"),
        (HEAD + struct.pack("<IBBBBQ", 0xFFFFFFFF, 255, 0, 1, 0, 8), "reserved"),
        (HEAD + written(0, 5, b""), "frame 0.*status is 5"),
        (HEAD + written(0, 254, b""), "frame 0.*status is 254"),
        (HEAD + written(0, 255, b"12345678"), "frame 0.*end that is none"),
        (HEAD + written(0xFFFFFFFF, 0, b""), "frame 0.*end that is none"),
        (HEAD + written(0xFFFFFFFF, 255, b"123"), "frame 0.*end that is none"),
        (HEAD + written(0, 0, b"x" * 11), "frame 0.*11 bytes; 10 may come"),
        (HEAD + written(0, 0, b"", length=2**64 - 1), "frame 0.*bytes; 10 may come"),
        (HEAD + written(0, 1, b"", length=2**20), "frame 0.*65536 may come"),
        (HEAD + FIRST[:-1] + b"\0", "frame 0.*checksum"),
        (HEAD + FIRST + written(1, 0, b"") + written_end(1), "counts 1 frames; 2 came"),
        (HEAD + FIRST + written_end(2), "counts 2 frames; 1 came, 2 were asked for"),
        (HEAD + FIRST + written_end(1), "1 came, 2 were asked for"),
        (HEAD + written_end(0), "0 came, 2 were asked for"),
        (HEAD + FIRST + written(1, 0, b"") + written_end(2)[:-1] + b"\0", "checksum"),
        (HEAD + FIRST + written(1, 0, b"") + written_end(2) + b"\0", "after the end"),
        (HEAD + FIRST + written(1, 0, b"") + written_end(2) * 2, "after the end"),
        (HEAD + FIRST + written(1, 0, b"") + written_end(2) + FIRST, "after the end"),
    ],
)
def test_stream_that_is_not_what_was_asked_for_is_refused(stream: bytes, says: str) -> None:
    for blocks in ([stream], [bytes([byte]) for byte in stream]):
        with pytest.raises(IntegrityError, match=says):
            read(blocks, [10, 10])


def test_bytes_in_a_later_block_than_the_end_are_refused() -> None:
    decoder = FrameDecoder([])
    assert decoder.feed(HEAD + written_end(0)) == []
    decoder.finish()
    assert decoder.feed(b"") == []
    with pytest.raises(IntegrityError, match="after the end"):
        decoder.feed(b"\0")


def test_empty_batch_is_whole() -> None:
    assert list(decode_frames([HEAD + written_end(0)], [])) == []


def test_problem_may_be_longer_than_the_entry() -> None:
    stream = HEAD + written(0, 1, b"x" * 65536) + written_end(1)
    assert read([stream], [0]) == [(0, Status.NOT_FOUND, b"x" * 65536)]


def test_wrong_checksum_of_a_long_payload_is_found() -> None:
    stream = HEAD + written(0, 0, b"x" * 2000)[:-1] + b"\0"
    with pytest.raises(IntegrityError, match=r"frame 0.*checksum"):
        read([stream], [2000], held_bytes=1000)


def test_pieces_are_parts_of_the_block_and_not_copies() -> None:
    block = HEAD + encode_header(0, Status.OK, 5000) + bytes(3000)
    (piece,) = FrameDecoder([5000], held_bytes=1000).feed(block)
    assert isinstance(piece, Piece)
    assert piece.data.obj is block
    assert (piece.index, piece.start, len(piece.data), piece.length) == (0, 0, 3000, 5000)


@pytest.mark.parametrize("length", [2**20, 2**40, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("cap", [10, 2**70])
def test_hostile_length_allocates_nothing(length: int, cap: int) -> None:
    stream = HEAD + struct.pack("<IBBBBQ", 0, 0, 0, 0, 0, length) + b"x" * 100
    decoder = FrameDecoder([cap])
    tracemalloc.start()
    try:
        for byte in stream:
            decoder.feed(bytes([byte]))
    except IntegrityError:
        assert cap == 10
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100_000


def test_long_payload_is_read_in_bounded_memory() -> None:
    block = bytes(64 * 1024)
    decoder = FrameDecoder([2**40])
    decoder.feed(HEAD + encode_header(0, Status.OK, 2**40))
    tracemalloc.start()
    for _ in range(200):
        decoder.feed(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_error_says_how_far_the_stream_came() -> None:
    decoder = FrameDecoder([10, 10])
    decoder.feed(HEAD + FIRST)
    with pytest.raises(IntegrityError, match="1 of 2 frames, 33 bytes"):
        decoder.finish()
