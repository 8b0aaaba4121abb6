"""What a scan found to be different, written to the index in batches: a kill loses at most the last one."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable

from dsx.protocol.digests import ROW_SUMS
from dsx_server.index.database import Database
from dsx_server.index.revisions import find_newest_number
from dsx_server.index.rows import Folder, Row

BATCH_ROWS = 5000
BATCH_S = 2.0
"""A batch is written when it has this many rows, or is this old, in s."""


ROWS_AT_ONCE = 100
"""So many rows are in one statement: half again as fast as one by one. SQLite takes 32,766 values."""


class Changes:
    """The changes to the living rows of one dataset; `flush` writes those that are still to be written.

    Args:
        db: The index.
        key: Key of the dataset.
        generation: That of the index file which has this key.
        check: Called before anything is written; raises when what was found is not to be believed.

    Attributes:
        number: Number that the next revision will have: what is born or dies now does so in it.
        states: How many states have come or gone so far.
        entries: How many rows are alive now.
        left_out: How many things are no entries, by reason.
    """

    def __init__(self, db: Database, key: int, *, generation: int, check: Callable[[], object]) -> None:
        self._db = db
        self._key = key
        self._generation = generation
        self._check = check
        with db.read() as reading:
            self.number = find_newest_number(reading, key) + 1
            self.entries, self._bytes, row_sum, left_out = reading.execute(
                "SELECT entries, bytes, row_sum, left_out FROM datasets WHERE id = ?", (key,)
            ).fetchone()
        self._row_sum = int.from_bytes(row_sum, "big")
        self.left_out = Counter(json.loads(left_out))
        self.states = 0
        self._dead: list[Row] = []
        self._born: list[Row] = []
        self._touched: list[Row] = []
        self._folders: list[Folder] = []
        self._gone_folders: list[str] = []
        self._began = time.monotonic()

    def kill(self, row: Row) -> None:
        """End the life of a state."""
        self._dead.append(row)
        self._count(row, -1)

    def bear(self, row: Row) -> None:
        """Begin the life of a state."""
        self._born.append(row)
        self._count(row, 1)

    def touch(self, row: Row) -> None:
        """Note another inode, ctime or raciness of a state that lives on."""
        self._touched.append(row)

    def note_folder(self, folder: Folder, before: Folder | None) -> None:
        """Note what a folder's listing said, in the place of what was known ``before``."""
        self._folders.append(folder)
        self.left_out.update(folder.left_out)
        if before is not None:
            self.left_out.subtract(before.left_out)

    def drop_folder(self, folder: Folder) -> None:
        """Forget a folder that is gone."""
        self._gone_folders.append(folder.path)
        self.left_out.subtract(folder.left_out)

    def flush_when_due(self) -> None:
        """Write the batch if it is large or old."""
        rows = len(self._born) + len(self._dead) + len(self._touched)
        if rows >= BATCH_ROWS or time.monotonic() - self._began > BATCH_S:
            self.flush()

    def flush(self) -> None:
        """Write all that is not written yet, in one transaction."""
        if self._folders or self._gone_folders or self._dead or self._born or self._touched:
            self._check()
            with self._db.write(self._generation) as db:
                self._write_rows(db)
                self._write_folders(db)
                self._write_sums(db)
        for batch in (self._dead, self._born, self._touched, self._folders, self._gone_folders):
            batch.clear()
        self._began = time.monotonic()

    def _count(self, row: Row, sign: int) -> None:
        self.states += 1
        self.entries += sign
        self._bytes += sign * row.identity.size
        self._row_sum += sign * row.hash

    def _write_rows(self, db: sqlite3.Connection) -> None:
        key = self._key
        ended = "SELECT count(digest) FROM entries WHERE dataset = ? AND path = ? AND born = ?"
        touched = ended + " AND (ctime_ns, inode) <> (?, ?)"
        lost = sum(db.execute(ended, (key, row.path, row.born)).fetchone()[0] for row in self._dead)
        stale = sum(
            db.execute(touched, (key, row.path, row.born, row.identity.ctime_ns, row.identity.inode)).fetchone()[0]
            for row in self._touched
        )
        # A state that no revision has seen leaves no trace.
        db.executemany(
            "DELETE FROM entries WHERE dataset = ? AND path = ? AND born = ?",
            ((key, row.path, row.born) for row in self._dead if row.born == self.number),
        )
        db.executemany(
            "UPDATE entries SET died = ? WHERE dataset = ? AND path = ? AND born = ?",
            ((self.number, key, row.path, row.born) for row in self._dead if row.born != self.number),
        )
        for start in range(0, len(self._born), ROWS_AT_ONCE):
            rows = self._born[start : start + ROWS_AT_ONCE]
            db.execute(
                "INSERT INTO entries (dataset, path, size, mtime_ns, ctime_ns, inode, head_hash, racy, born) VALUES "
                + ",".join(["(?,?,?,?,?,?,?,?,?)"] * len(rows)),
                [
                    value
                    for path, identity, head, racy, born, _ in rows
                    for value in (key, path, *identity, bytes.fromhex(head), racy, born)
                ],
            )
        db.executemany(
            "UPDATE entries SET digest = CASE WHEN (ctime_ns, inode) = (?2, ?3) THEN digest END, ctime_ns = ?2,"
            " inode = ?3, racy = ?4 WHERE dataset = ?1 AND path = ?5 AND born = ?6",
            ((key, row.identity.ctime_ns, row.identity.inode, row.racy, row.path, row.born) for row in self._touched),
        )
        db.execute(
            "UPDATE datasets SET digests = digests - ?1, digests_shown = min(digests_shown, digests - ?1),"
            " digest_version = digest_version + ?2 WHERE id = ?3",
            (lost + stale, lost + stale > 0, key),
        )

    def _write_folders(self, db: sqlite3.Connection) -> None:
        db.executemany(
            "INSERT INTO folders (dataset, path, inode, state, left_out, links) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET inode = excluded.inode, state = excluded.state, left_out = excluded.left_out,"
            " links = excluded.links",
            ((self._key, *each[:3], json.dumps(each.left_out), each.links) for each in self._folders),
        )
        db.executemany(
            "DELETE FROM folders WHERE dataset = ? AND path = ?", ((self._key, path) for path in self._gone_folders)
        )

    def _write_sums(self, db: sqlite3.Connection) -> None:
        left_out = json.dumps(dict(sorted((+self.left_out).items())))
        db.execute(
            "UPDATE datasets SET entries = ?, bytes = ?, row_sum = ?, left_out = ? WHERE id = ?",
            (self.entries, self._bytes, (self._row_sum % ROW_SUMS).to_bytes(32, "big"), left_out, self._key),
        )
