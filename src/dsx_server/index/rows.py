"""Rows of the index as Python sees them, and the columns that they come from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dsx.protocol.digests import hash_row
from dsx_server.storage import Identity

ALIVE_AT = "born <= :number AND (died IS NULL OR died > :number)"
"""Condition for the rows of revision ``:number``."""

_COLUMNS = "path, size, mtime_ns, ctime_ns, inode, head_hash, racy, born, digest"

# Any text is less than any blob.
NO_END = b""


class Row(NamedTuple):
    """One state of an entry as the index knows it.

    Attributes:
        path: Its path.
        identity: What the storage knew it by.
        head_hash: In hex.
        racy: Whether it had just been written when it was read.
        born: Number of the first revision that has it.
        digest: SHA-256 of the whole entry in hex; None when unknown.
    """

    path: str
    identity: Identity
    head_hash: str
    racy: bool
    born: int
    digest: str | None = None

    @property
    def state(self) -> tuple[int, str, int]:
        """What, with the path, makes a revision: size, head hash, mtime."""
        return self.identity.size, self.head_hash, self.identity.mtime_ns

    @property
    def hash(self) -> int:
        """What it contributes to the sum that makes a revision."""
        return hash_row(self.path, self.identity[0], self.head_hash, self.identity[1])


class Folder(NamedTuple):
    """What the index knows of one folder of a dataset; see `schema`."""

    path: str
    inode: int
    state: bytes | None
    left_out: dict[str, int]
    links: int


def make_row(values: tuple[object, ...]) -> Row:
    """Make a row of the columns."""
    path, size, mtime_ns, ctime_ns, inode, head, racy, born, digest = values
    identity = Identity(size, mtime_ns, ctime_ns, inode)  # type: ignore[arg-type]  # -- the table is STRICT
    return Row(path, identity, head.hex(), bool(racy), born, digest and digest.hex())  # type: ignore[arg-type, attr-defined]  # -- the same


def end_of(folder: str) -> str | bytes:
    """Return what comes after every path below ``folder``, for a comparison in SQL."""
    return folder[:-1] + "0" if folder else NO_END  # "0" comes after "/"


def read_living(db: sqlite3.Connection, key: int, folder: str) -> Iterator[Row]:
    """Yield the living rows that lie directly in ``folder``, sorted by path."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE dataset = ? AND path > ? AND path < ? AND died IS NULL"
        " AND instr(substr(path, ?), '/') = 0 ORDER BY path",
        (key, folder, end_of(folder), len(folder) + 1),
    )
    return map(make_row, rows)


def read_row_of(db: sqlite3.Connection, key: int, number: int, path: str) -> Row | None:
    """Return one entry as revision ``number`` has it, or None when that has none."""
    found = db.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE dataset = :key AND path = :path AND {ALIVE_AT}",
        {"key": key, "path": path, "number": number},
    ).fetchone()
    return None if found is None else make_row(found)


def read_rows_of(db: sqlite3.Connection, key: int, number: int, paths: Sequence[str]) -> dict[str, Row]:
    """Return those of many entries that revision ``number`` has, by path; one query, whatever their number."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM entries WHERE dataset = :key AND path IN (SELECT value FROM json_each(:paths))"
        f" AND {ALIVE_AT}",
        {"key": key, "paths": json.dumps(paths), "number": number},
    )
    return {row.path: row for row in map(make_row, rows)}


def read_folders(db: sqlite3.Connection, key: int, folder: str = "", *, after: str | None = None) -> Iterator[Folder]:
    """Yield what is known of ``folder`` and of every folder below it, sorted by path; only those after ``after``."""
    rows = db.execute(
        "SELECT path, inode, state, left_out, links FROM folders WHERE dataset = ?1 AND path >= ?2 AND path < ?3"
        " AND (?4 IS NULL OR path > ?4) ORDER BY path",
        (key, folder if after is None else max(folder, after), end_of(folder), after),
    )
    return map(_make_folder, rows)


def read_folder(db: sqlite3.Connection, key: int, folder: str) -> Folder | None:
    """Return what is known of one folder; None when nothing is."""
    row = db.execute(
        "SELECT path, inode, state, left_out, links FROM folders WHERE dataset = ? AND path = ?", (key, folder)
    ).fetchone()
    return None if row is None else _make_folder(row)


def has_linked_folders(db: sqlite3.Connection, key: int) -> bool:
    """Tell whether there is a link in any folder of the dataset."""
    return db.execute("SELECT 1 FROM folders WHERE dataset = ? AND links > 0 LIMIT 1", (key,)).fetchone() is not None


def _make_folder(values: tuple[str, int, bytes | None, str, int]) -> Folder:
    path, inode, state, left_out, links = values
    return Folder(path, inode, state, json.loads(left_out), links)


def read_known_below(db: sqlite3.Connection, key: int, folder: str) -> dict[str, int]:
    """Return the inodes of the folders known directly in ``folder``, by path."""
    rows = db.execute(
        "SELECT path, inode FROM folders WHERE dataset = ? AND path > ? AND path < ?"
        " AND instr(substr(path, ?), '/') = length(path) - ? ORDER BY path",
        (key, folder, end_of(folder), len(folder) + 1, len(folder)),
    )
    return dict(rows.fetchall())
