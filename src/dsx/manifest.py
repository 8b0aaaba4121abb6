"""A manifest in the SDK's hands: the sorted list of a dataset's entries, kept as columns."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

from dsx._columns import HASH_BYTES, Columns, unpack
from dsx._columns_json import parse_columns_json, parse_rows_json
from dsx.errors import InvalidRequestError
from dsx.protocol.globs import Patterns, make_filter

ROWS_AT_ONCE = 1024
"""How many rows are unpacked at once while somebody goes through a manifest."""


class ManifestEntry(NamedTuple):
    """One entry as a manifest names it.

    Attributes:
        path: POSIX path relative to the dataset.
        size: Size in bytes.
        hash: MD5 of the first 1024 bytes, in hex.
        mtime_ns: Modification time on the hub, ns since 1970; None when the manifest does not say.
        digest: SHA-256 of the whole entry in hex; None when the hub did not know it.
    """

    path: str
    size: int
    hash: str
    mtime_ns: int | None
    digest: str | None


class Manifest(Sequence[ManifestEntry]):
    """All entries of one state of a dataset, or a selection of them, sorted by path.

    A sequence that takes about 100 bytes per entry: a `ManifestEntry` is made when it is asked for. It never changes,
    and pickles small.

    Attributes:
        revision: Id of that state; empty for a manifest that was read from the contract's plain array.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.revision = columns.revision

    def __len__(self) -> int:
        return len(self._columns.sizes)

    @overload
    def __getitem__(self, index: int) -> ManifestEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Manifest: ...
    def __getitem__(self, index: int | slice) -> ManifestEntry | Manifest:
        rows = range(len(self))[index]
        if isinstance(rows, int):
            return ManifestEntry._make(self._columns.read_row(rows))
        if rows.step < 0:
            raise InvalidRequestError("a manifest is sorted by path, so that no slice turns it round; use reversed()")
        return Manifest(self._columns.take(rows))

    def __iter__(self) -> Iterator[ManifestEntry]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self._iter_rows(start, min(start + ROWS_AT_ONCE, len(self)))

    def __contains__(self, value: object) -> bool:
        """Tell whether this entry, or an entry of this path, is in the manifest."""
        if isinstance(value, str):
            return self.find(value) is not None
        return isinstance(value, ManifestEntry) and self.find(value.path) == value

    def __eq__(self, other: object) -> bool:
        return self._columns == other._columns if isinstance(other, Manifest) else NotImplemented

    def __repr__(self) -> str:
        return f"<Manifest: {len(self)} entries, {self.total_bytes} bytes, revision {self.revision or 'unknown'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, self._columns.pack()

    @property
    def paths(self) -> Sequence[str]:
        """Every path, sorted; each is made when it is asked for."""
        return _Paths(self)

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes, in bytes."""
        return sum(self._columns.sizes)

    def find(self, path: str) -> ManifestEntry | None:
        """Return the entry at ``path``, or None when the manifest has none."""
        row = self.find_row(path)
        return None if row is None else ManifestEntry._make(self._columns.read_row(row))

    def find_row(self, path: str) -> int | None:
        """Return the place of the entry at ``path`` in the manifest, or None when the manifest has none."""
        return self._columns.find_row(path, self._marks)

    @functools.cached_property
    def _marks(self) -> list[bytes]:
        return self._columns.read_marks()

    def select(self, include: Patterns | None = None, exclude: Patterns | None = None) -> Manifest:
        """Return the entries whose paths match, as a manifest of the same revision.

        ``*`` stays within a folder, ``**`` crosses folders, ``?`` and ``[a-z]`` are one character. A pattern without
        ``/`` is for the file name at any depth.

        Args:
            include: One pattern or several, of which a path has to match one; None takes all.
            exclude: One pattern or several, of which a path must match none.

        Raises:
            InvalidRequestError: Something is no pattern.
        """
        is_wanted = make_filter(include, exclude)
        rows = array("q", (row for row, path in enumerate(self.paths) if is_wanted(path)))
        return Manifest(self._columns.take(rows))

    def to_rows(self) -> list[dict[str, str | int]]:
        """Return the contract's list of dictionaries with ``path``, ``size`` and ``hash``."""
        return [{"path": entry.path, "size": entry.size, "hash": entry.hash} for entry in self]

    def _iter_rows(self, start: int, stop: int) -> Iterator[ManifestEntry]:
        """Unpack the rows ``[start, stop)``, column by column."""
        columns = self._columns
        heads = columns.hashes[start * HASH_BYTES : stop * HASH_BYTES].hex(",", -HASH_BYTES).split(",")
        times = [None] * (stop - start) if columns.mtimes_ns is None else columns.mtimes_ns[start:stop]
        digests = map(columns.read_digest, range(start, stop))
        rows = zip(columns.read_paths(start, stop), columns.sizes[start:stop], heads, times, digests, strict=True)
        return map(ManifestEntry._make, rows)


class _Paths(Sequence[str]):
    """The paths of a manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._columns = manifest._columns

    def __len__(self) -> int:
        return len(self._columns.sizes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        rows = range(len(self))[index]
        if isinstance(rows, int):
            return self._columns.read_path(rows).decode()
        return [self._columns.read_path(row).decode() for row in rows]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self._columns.read_paths(start, min(start + ROWS_AT_ONCE, len(self)))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._manifest.find_row(path) is not None

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (_Paths, list)) else NotImplemented

    def __repr__(self) -> str:
        return f"<{len(self)} paths>"


def columns_of(manifest: Manifest) -> Columns:
    """Return the rows as they are packed, for those who go by their numbers."""
    return manifest._columns


def parse_columns(data: bytes) -> Manifest:
    """Read what ``GET /manifest/{dataset}?format=columns`` answers.

    Every path passes the gate, and every size, time and hash is one. Up to 100,000 rows are held against the revision
    that the manifest names; with more, that would take longer than all else, and the CRC-32 of the transfer's gzip and
    the SHA-256 of the file in the cache stand in.

    Raises:
        IntegrityError: It is no manifest, or its rows do not add up to its revision.
    """
    return Manifest(parse_columns_json(data))


def parse_rows(data: bytes) -> Manifest:
    """Read the contract's plain array, as the cache keeps it.

    Raises:
        IntegrityError: It is no manifest.
    """
    return Manifest(parse_rows_json(data))


def _unpickle(*packed: Any) -> Manifest:
    return Manifest(unpack(*packed))
