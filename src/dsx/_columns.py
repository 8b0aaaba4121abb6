"""A manifest as packed columns: how a million rows fit into 100 MB, and how they are checked in bulk.

One Python object per row and column would take five times the memory, and one call per row longer than the download.
So everything here goes over a whole column at once: ``bytes.fromhex`` checks hashes, ``array`` numbers, and a handful
of substring searches over the joined paths stand for `check_path` on each.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice, pairwise
from operator import lt
from typing import NamedTuple, TypeAlias

from dsx.errors import IntegrityError
from dsx.protocol.paths import MAX_PATH_BYTES, check_path
from dsx.protocol.text import shown

HASH_BYTES = 16
DIGEST_BYTES = 32
NO_DIGEST = bytes(DIGEST_BYTES)
"""Stands for a digest that the hub does not know; no content has this one that anybody could find."""

MARK_ROWS = 64
"""So many rows lie between two marks: a path is looked for among the marks first, then between two of them."""

Numbers: TypeAlias = "array[int]"


class Columns(NamedTuple):
    """The rows of a manifest, sorted by path.

    Attributes:
        revision: Id of the state; empty when unknown.
        blob: All paths as UTF-8, with a NUL between two.
        starts: Where each path begins in ``blob``, in bytes, and at the end where another one would.
        sizes: Sizes in bytes.
        mtimes_ns: Modification times, ns since 1970; None when unknown.
        hashes: Head hashes, `HASH_BYTES` each.
        digests: SHA-256, `DIGEST_BYTES` each, `NO_DIGEST` where unknown; empty when no digest is known.
    """

    revision: str
    blob: bytes
    starts: Numbers
    sizes: Numbers
    mtimes_ns: Numbers | None
    hashes: bytes
    digests: bytes

    def read_row(self, row: int) -> tuple[str, int, str, int | None, str | None]:
        """Return path, size, head hash in hex, modification time and digest of one row."""
        return (
            self.read_path(row).decode(),
            self.sizes[row],
            self.hashes[row * HASH_BYTES : (row + 1) * HASH_BYTES].hex(),
            None if self.mtimes_ns is None else self.mtimes_ns[row],
            self.read_digest(row) if self.digests else None,
        )

    def read_marks(self) -> list[bytes]:
        """Return every `MARK_ROWS`-th path, which is what `find_row` looks into first."""
        return [self.read_path(row) for row in range(0, len(self.sizes), MARK_ROWS)]

    def find_row(self, path: str, marks: list[bytes]) -> int | None:
        """Return the row of a path, given `read_marks`; None when there is none.

        Comparing each of 20 paths in turn, as one bisection over all of them does, takes 6 times as long.
        """
        wanted = path.encode("utf-8", "surrogatepass")  # the order of strings is that of their UTF-8
        mark = bisect_right(marks, wanted) - 1
        if mark < 0 or b"\0" in wanted:
            return None
        row = mark * MARK_ROWS
        if marks[mark] == wanted:
            return row
        start = self.starts[row]
        stop = self.starts[min(row + MARK_ROWS, len(self.sizes))]
        at = self.blob.find(b"\0%b\0" % wanted, start, stop)
        if at < 0 and stop > len(self.blob) and self.blob.endswith(b"\0" + wanted):
            at = len(self.blob) - len(wanted) - 1
        return None if at < start else row + self.blob.count(b"\0", start, at + 1)

    def read_path(self, row: int) -> bytes:
        """Return one path as UTF-8."""
        return self.blob[self.starts[row] : self.starts[row + 1] - 1]

    def read_paths(self, start: int, stop: int) -> list[str]:
        """Return the paths of the rows ``[start, stop)``."""
        if start >= stop:
            return []
        return self.blob[self.starts[start] : self.starts[stop] - 1].decode().split("\0")

    def read_digest(self, row: int) -> str | None:
        """Return one digest in hex; None when it is unknown."""
        digest = self.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES]
        return digest.hex() if digest not in (b"", NO_DIGEST) else None

    def take(self, rows: Sequence[int]) -> Columns:
        """Return these rows, whose numbers rise, as columns of their own."""
        blob = b"\0".join(map(self.read_path, rows))
        mtimes_ns = self.mtimes_ns
        return Columns(
            self.revision,
            blob,
            _find_starts(blob, len(rows)),
            array("q", map(self.sizes.__getitem__, rows)),
            None if mtimes_ns is None else array("q", map(mtimes_ns.__getitem__, rows)),
            b"".join(self.hashes[row * HASH_BYTES : (row + 1) * HASH_BYTES] for row in rows),
            b"".join(self.digests[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES] for row in rows),
        )

    def pack(self) -> tuple[str, bytes, bytes, bytes | None, bytes, bytes]:
        """Return the columns as few and small objects, for a pickle."""
        times = None if self.mtimes_ns is None else zlib.compress(self.mtimes_ns.tobytes(), 1)
        sizes = zlib.compress(self.sizes.tobytes(), 1)
        return self.revision, zlib.compress(self.blob, 1), sizes, times, self.hashes, self.digests


def unpack(revision: str, blob: bytes, sizes: bytes, times: bytes | None, hashes: bytes, digests: bytes) -> Columns:
    """Return what `Columns.pack` packed, on a machine of the same kind."""
    paths, numbers = zlib.decompress(blob), array("q", zlib.decompress(sizes))
    mtimes_ns = None if times is None else array("q", zlib.decompress(times))
    return Columns(revision, paths, _find_starts(paths, len(numbers)), numbers, mtimes_ns, hashes, digests)


def _find_starts(blob: bytes, count: int) -> Numbers:
    lengths = (len(path) + 1 for path in blob.split(b"\0")) if count else ()
    return array("q", accumulate(lengths, initial=0))


def pack_paths(paths: list[str]) -> tuple[bytes, Numbers]:
    """Check and pack a column of paths: ``blob`` and ``starts`` of `Columns`.

    Raises:
        IntegrityError: One is no path that the gate admits, or they are not sorted, or one comes twice.
    """
    try:
        text = "\0".join(paths)
        blob = text.encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise refuse(f"paths: {shown(error)}") from error
    is_ascii = len(text) == len(blob)
    lengths = list(map(len, paths if is_ascii else map(str.encode, paths)))
    starts = array("q", accumulate(map((1).__add__, lengths), initial=0))
    if not _are_admitted(blob, lengths):
        for path in paths:
            check_path(path)
        raise refuse("paths: they are not such as a hub has")
    if not all(map(lt, paths, islice(paths, 1, None))):
        before, after = next(pair for pair in pairwise(paths) if not lt(*pair))
        raise refuse(f"paths: not sorted, or repeated: {shown(before)}, {shown(after)}")
    return blob, starts


def _are_admitted(blob: bytes, lengths: list[int]) -> bool:
    """Tell whether the gate admits all the paths in ``blob``; the same as `check_path` on each."""
    if not lengths:
        return True
    segments = b"\0" + blob.replace(b"/", b"\0") + b"\0"
    return (
        blob.count(b"\0") == len(lengths) - 1
        and b"\\" not in blob
        and not any(bad in segments for bad in (b"\0\0", b"\0.\0", b"\0..\0"))
        and max(lengths) <= MAX_PATH_BYTES
    )


def pack_numbers(name: str, pieces: Iterable[list[int]], *, lowest: int) -> Numbers:
    """Check and pack a column of integers below 2^63.

    Raises:
        IntegrityError: One is no integer, or out of range.
    """
    numbers = array("q")
    for piece in pieces:
        if not set(map(type, piece)) <= {int}:
            raise refuse(f"{name}: there is something that is no integer")
        try:
            numbers.extend(array("q", piece))
        except OverflowError as error:
            raise refuse(f"{name}: a number is out of range") from error
        if piece and min(piece) < lowest:
            raise refuse(f"{name}: a number is out of range")
    return numbers


def pack_hashes(name: str, pieces: Iterable[list[str]], *, length: int) -> bytes:
    """Check and pack a column of lower-case hex strings that stand for ``length`` bytes each.

    Raises:
        IntegrityError: One is none.
    """
    packed = bytearray()
    for piece in pieces:
        try:
            text = "".join(piece)
            part = bytes.fromhex(text)  # which passes over spaces and takes upper case
            is_right = part.hex() == text and set(map(len, piece)) <= {length * 2}
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            raise refuse(f"{name}: there is something that is not {length * 2} hex digits")
        packed += part
    return bytes(packed)


def pack_digests(pieces: Iterable[list[str | None]]) -> tuple[bytes, int]:
    """Check and pack a column of digests, and return it with the number of rows; it is empty when all are null.

    Raises:
        IntegrityError: One is neither a digest nor null.
    """
    packed = bytearray()
    count = known = 0
    unknown = NO_DIGEST.hex()
    for piece in pieces:
        count += len(piece)
        if piece.count(None) == len(piece):
            packed += NO_DIGEST * len(piece)
            continue
        known += 1
        packed += pack_hashes("digests", [[unknown if each is None else each for each in piece]], length=DIGEST_BYTES)
    return bytes(packed) if known else b"", count


def refuse(reason: str) -> IntegrityError:
    """Word what is wrong with a manifest."""
    return IntegrityError(f"the manifest that came is not valid: {reason}; it was thrown away")
