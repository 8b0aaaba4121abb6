"""Earlier states of datasets: list them, read one, compare two, forget what nobody needs.

An entry's row is part of revision ``n`` if ``born <= n`` and it had not ``died`` by then. So an earlier revision is a
query, and costs only the rows that changed since.
"""

from __future__ import annotations

import sqlite3
import time
from typing import NamedTuple

from dsx.errors import RevisionNotFoundError
from dsx.protocol.text import shown
from dsx_server.index.revisions import Row, read_rows_of
from dsx_server.storage import Identity

KEPT_REVISIONS = 10
KEPT_ASKED_NS = 30 * 24 * 3600 * 10**9
"""A revision that a client asked for is kept this long after the last time (ns): 30 days."""


class PublishedRevision(NamedTuple):
    """One revision in the list of a dataset's revisions."""

    id: str
    created_ns: int
    entries: int
    bytes: int


class Difference(NamedTuple):
    """What two revisions differ in: paths, sorted."""

    added: list[str]
    changed: list[str]
    removed: list[str]


def list_revisions(db: sqlite3.Connection, dataset: str) -> list[PublishedRevision]:
    """Return the revisions that are kept, newest first."""
    rows = db.execute(
        "SELECT r.id, r.created_ns, r.entries, r.bytes FROM revisions r JOIN datasets d ON d.id = r.dataset"
        " WHERE d.name = ? ORDER BY r.number DESC",
        (dataset,),
    )
    return [PublishedRevision._make(row) for row in rows]


def find_revision(db: sqlite3.Connection, dataset: str, revision: str) -> tuple[int, int]:
    """Return dataset key and number of a revision; of a state that came back, the latest.

    Raises:
        RevisionNotFoundError: There is none of this id, or it is no longer kept.
    """
    row = db.execute(
        "SELECT r.dataset, r.number FROM revisions r JOIN datasets d ON d.id = r.dataset"
        " WHERE d.name = ? AND r.id = ? ORDER BY r.number DESC LIMIT 1",
        (dataset, revision),
    ).fetchone()
    if row is None:
        raise RevisionNotFoundError(
            f"dataset {shown(dataset)} has no revision {shown(revision)}; list_revisions() or "
            f"GET /datasets/{{dataset}}/revisions lists those that are kept"
        )
    return row[0], row[1]


def read_revision(db: sqlite3.Connection, dataset: str, revision: str) -> list[Row]:
    """Return the rows of one revision, sorted by path, and note that it was asked for."""
    key, number = find_revision(db, dataset, revision)
    db.execute("UPDATE revisions SET asked_ns = ? WHERE dataset = ? AND number = ?", (time.time_ns(), key, number))
    return list(read_rows_of(db, key, number))


def read_entry(db: sqlite3.Connection, dataset: str, revision: str, path: str) -> Row | None:
    """Return one entry as a revision has it, or None when it has none."""
    key, number = find_revision(db, dataset, revision)
    row = db.execute(
        "SELECT path, size, mtime_ns, ctime_ns, inode, head_hash, racy FROM entries"
        " WHERE dataset = ? AND path = ? AND born <= ? AND (died IS NULL OR died > ?)",
        (key, path, number, number),
    ).fetchone()
    return None if row is None else Row(row[0], Identity(*row[1:5]), row[5].hex(), bool(row[6]))


def compare_revisions(db: sqlite3.Connection, dataset: str, a: str, b: str) -> Difference:
    """Return what came, changed and went from revision ``a`` to revision ``b``."""
    key, first = find_revision(db, dataset, a)
    _, second = find_revision(db, dataset, b)
    states = (
        "SELECT path, size, head_hash, mtime_ns FROM entries"
        " WHERE dataset = :key AND born <= :{0} AND (died IS NULL OR died > :{0})"
    )
    values = {"key": key, "a": first, "b": second}
    came = db.execute(f"{states.format('b')} EXCEPT {states.format('a')}", values)
    new = {row[0] for row in came}
    went = db.execute(f"{states.format('a')} EXCEPT {states.format('b')}", values)
    old = {row[0] for row in went}
    return Difference(sorted(new - old), sorted(new & old), sorted(old - new))


def prune_revisions(db: sqlite3.Connection, dataset: str) -> None:
    """Forget the revisions that are neither among the last `KEPT_REVISIONS` nor lately asked for, and their rows."""
    db.execute(
        "DELETE FROM revisions WHERE dataset = (SELECT id FROM datasets WHERE name = ?) AND asked_ns < ?"
        " AND number NOT IN (SELECT n.number FROM revisions n WHERE n.dataset = revisions.dataset"
        " ORDER BY n.number DESC LIMIT ?)",
        (dataset, time.time_ns() - KEPT_ASKED_NS, KEPT_REVISIONS),
    )
    db.execute(
        "DELETE FROM entries WHERE dataset = (SELECT id FROM datasets WHERE name = ?) AND died IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM revisions r WHERE r.dataset = entries.dataset"
        " AND r.number >= entries.born AND r.number < entries.died)",
        (dataset,),
    )
