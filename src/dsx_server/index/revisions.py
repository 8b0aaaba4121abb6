"""Published states of datasets: which rows are alive, and what one more scan makes of them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dsx.protocol.digests import compute_revision
from dsx_server.storage import Identity


class Row(NamedTuple):
    """One entry as the index knows it."""

    path: str
    identity: Identity
    head_hash: str
    racy: bool

    @property
    def state(self) -> tuple[int, str, int]:
        """What, with the path, makes a revision: size, head hash, mtime."""
        return self.identity.size, self.head_hash, self.identity.mtime_ns


class RevisionInfo(NamedTuple):
    """One published state of a dataset, and when its folder was last read."""

    id: str
    entries: int
    bytes: int
    scanned_ns: int
    left_out: dict[str, int]


def read_rows(db: sqlite3.Connection, dataset: str) -> dict[str, Row]:
    """Return the rows of the newest revision by path, sorted by path; empty for a dataset never published."""
    rows = db.execute(
        "SELECT path, size, mtime_ns, ctime_ns, inode, head_hash, racy FROM entries"
        " WHERE dataset = (SELECT id FROM datasets WHERE name = ?) AND died IS NULL ORDER BY path",
        (dataset,),
    )
    return {path: Row(path, Identity(*identity), head.hex(), bool(racy)) for path, *identity, head, racy in rows}


def read_rows_of(db: sqlite3.Connection, key: int, number: int) -> Iterator[Row]:
    """Yield the rows of one revision of the dataset ``key``, sorted by path."""
    rows = db.execute(
        "SELECT path, size, mtime_ns, ctime_ns, inode, head_hash, racy FROM entries"
        " WHERE dataset = ? AND born <= ? AND (died IS NULL OR died > ?) ORDER BY path",
        (key, number, number),
    )
    for path, *identity, head, racy in rows:
        yield Row(path, Identity(*identity), head.hex(), bool(racy))


def read_info(db: sqlite3.Connection, dataset: str) -> RevisionInfo | None:
    """Return the newest revision of ``dataset``, or None when none was published."""
    row = db.execute(
        "SELECT r.id, r.entries, r.bytes, d.scanned_ns, d.left_out FROM datasets d JOIN revisions r ON r.dataset = d.id"
        " WHERE d.name = ? ORDER BY r.number DESC LIMIT 1",
        (dataset,),
    ).fetchone()
    return None if row is None else RevisionInfo._make([*row[:4], json.loads(row[4])])


def publish_scan(
    db: sqlite3.Connection,
    dataset: str,
    rows: Sequence[Row],
    left_out: Mapping[str, int],
) -> RevisionInfo:
    """Bring the index to ``rows`` in one transaction; a new revision is made only when a state changed.

    Args:
        db: The index.
        dataset: Name of the dataset.
        rows: What the scan found, sorted by path.
        left_out: What it left out, by reason.
    """
    with transaction(db):
        key = _dataset_key(db, dataset)
        # What is there now, not what was there before the scan: the difference is written against these very rows.
        before = read_rows(db, dataset)
        db.execute(
            "UPDATE datasets SET scanned_ns = ?, left_out = ? WHERE id = ?", (time.time_ns(), json.dumps(left_out), key)
        )
        now = {row.path: row for row in rows}
        gone = [path for path, row in before.items() if path not in now or now[path].state != row.state]
        new = [row for row in rows if row.path not in before or before[row.path].state != row.state]
        fresh = {row.path for row in new}
        touched = [row for row in rows if row.path not in fresh and row != before[row.path]]
        number = db.execute("SELECT coalesce(max(number), 0) FROM revisions WHERE dataset = ?", (key,)).fetchone()[0]
        if gone or new or number == 0:
            number += 1
            _insert_revision(db, key, number, rows)
        _write_rows(db, key, number, gone, new)
        _touch_rows(db, key, touched)
    info = read_info(db, dataset)
    if info is None:
        raise RuntimeError(f"the revision of {dataset!r} that was just published is not in the index")
    return info


def _insert_revision(db: sqlite3.Connection, key: int, number: int, rows: Sequence[Row]) -> None:
    revision = compute_revision((row.path, *row.state) for row in rows)
    total = sum(row.identity.size for row in rows)
    db.execute(
        "INSERT INTO revisions (dataset, number, id, created_ns, entries, bytes) VALUES (?, ?, ?, ?, ?, ?)",
        (key, number, revision, time.time_ns(), len(rows), total),
    )


def _write_rows(db: sqlite3.Connection, key: int, number: int, gone: Sequence[str], new: Sequence[Row]) -> None:
    db.executemany(
        "UPDATE entries SET died = ? WHERE dataset = ? AND path = ? AND died IS NULL",
        ((number, key, path) for path in gone),
    )
    db.executemany(
        "INSERT INTO entries (dataset, path, born, size, mtime_ns, ctime_ns, inode, head_hash, racy)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((key, row.path, number, *row.identity, bytes.fromhex(row.head_hash), int(row.racy)) for row in new),
    )


def _touch_rows(db: sqlite3.Connection, key: int, rows: Sequence[Row]) -> None:
    db.executemany(
        "UPDATE entries SET ctime_ns = ?, inode = ?, racy = ? WHERE dataset = ? AND path = ? AND died IS NULL",
        ((row.identity.ctime_ns, row.identity.inode, int(row.racy), key, row.path) for row in rows),
    )


def _dataset_key(db: sqlite3.Connection, dataset: str) -> int:
    db.execute("INSERT INTO datasets (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (dataset,))
    key: int = db.execute("SELECT id FROM datasets WHERE name = ?", (dataset,)).fetchone()[0]
    return key


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do what the body does as one, or not at all."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
