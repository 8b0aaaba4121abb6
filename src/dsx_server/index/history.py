"""Earlier states of datasets: list them, read one, compare two, forget what nobody needs.

An entry's row is part of revision ``n`` if ``born <= n`` and it had not ``died`` by then. So an earlier revision is a
query, and costs only the rows that changed since.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from dsx.errors import RevisionNotFoundError
from dsx.protocol.text import shown
from dsx_server.index.rows import Row, read_row_of, read_rows_of

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


def find_revision(db: sqlite3.Connection, dataset: str, revision: str | None) -> tuple[int, int, str]:
    """Return dataset key, number and id of a revision, or of the newest; of a state that came back, the latest.

    Raises:
        RevisionNotFoundError: There is none of this id, or it is no longer kept.
    """
    row = db.execute(
        "SELECT r.dataset, r.number, r.id FROM revisions r JOIN datasets d ON d.id = r.dataset"
        " WHERE d.name = ?1 AND (?2 IS NULL OR r.id = ?2) ORDER BY r.number DESC LIMIT 1",
        (dataset, revision),
    ).fetchone()
    if row is None:
        raise RevisionNotFoundError(
            f"dataset {shown(dataset)} has no revision {shown(revision)}; list_revisions() or "
            f"GET /datasets/{{dataset}}/revisions lists those that are kept"
        )
    return row[0], row[1], row[2]


def note_asked(db: sqlite3.Connection, dataset: str, revision: str) -> None:
    """Note that a client has asked for a revision, so that it is kept.

    Raises:
        RevisionNotFoundError: There is none of this id.
    """
    key, number, _ = find_revision(db, dataset, revision)
    db.execute("UPDATE revisions SET asked_ns = ? WHERE dataset = ? AND number = ?", (time.time_ns(), key, number))


def read_entry(db: sqlite3.Connection, dataset: str, revision: str, path: str) -> Row | None:
    """Return one entry as a revision has it, or None when it has none."""
    key, number, _ = find_revision(db, dataset, revision)
    return read_row_of(db, key, number, path)


def read_entries(db: sqlite3.Connection, dataset: str, revision: str, paths: Sequence[str]) -> dict[str, Row]:
    """Return those of many entries that a revision has, by path."""
    key, number, _ = find_revision(db, dataset, revision)
    return read_rows_of(db, key, number, paths)


def compare_revisions(db: sqlite3.Connection, dataset: str, a: str, b: str) -> Difference:
    """Return what came, changed and went from revision ``a`` to revision ``b``."""
    key, first, _ = find_revision(db, dataset, a)
    _, second, _ = find_revision(db, dataset, b)
    if first > second:
        back = compare_revisions(db, dataset, b, a)
        return Difference(back.removed, back.changed, back.added)
    states = "SELECT path, size, head_hash, mtime_ns FROM entries WHERE dataset = :key"
    values = {"key": key, "a": first, "b": second}
    went = set(db.execute(f"{states} AND born <= :a AND died > :a AND died <= :b", values))
    came = set(db.execute(f"{states} AND born > :a AND born <= :b AND (died IS NULL OR died > :b)", values))
    old = {row[0] for row in went - came}
    new = {row[0] for row in came - went}
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
