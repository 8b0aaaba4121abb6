"""The ledger's SQLite file: its tables, how it is opened, and how a process waits for another that holds it."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

BUSY_TIMEOUT_S = 10.0

_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    dataset   TEXT    NOT NULL,
    path      TEXT    NOT NULL,
    fold      TEXT    NOT NULL,
    size      INTEGER NOT NULL,
    mtime_ns  INTEGER NOT NULL,
    head_hash TEXT    NOT NULL,
    digest    TEXT    NOT NULL,
    hub_mtime_ns INTEGER,
    etag      TEXT    NOT NULL,
    is_ours   INTEGER NOT NULL,
    is_synced INTEGER NOT NULL,
    PRIMARY KEY (dataset, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_fold ON files (dataset, fold);
CREATE TABLE IF NOT EXISTS totals (bytes INTEGER NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS files_inserted AFTER INSERT ON files
    WHEN NEW.is_ours AND NEW.size > 0 AND NEW.dataset != ''
    BEGIN UPDATE totals SET bytes = bytes + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS files_deleted AFTER DELETE ON files
    WHEN OLD.is_ours AND OLD.size > 0 AND OLD.dataset != ''
    BEGIN UPDATE totals SET bytes = bytes - OLD.size; END;
CREATE TRIGGER IF NOT EXISTS files_updated AFTER UPDATE OF size, is_ours ON files
    WHEN NEW.dataset != ''
    BEGIN UPDATE totals SET bytes = bytes - OLD.is_ours * max(OLD.size, 0) + NEW.is_ours * max(NEW.size, 0); END;
"""
_FIRST_TOTAL = (
    "INSERT INTO totals"
    " SELECT (SELECT coalesce(sum(size), 0) FROM files WHERE is_ours AND size > 0 AND dataset != '')"
    " WHERE NOT EXISTS (SELECT 1 FROM totals)"
)

T = TypeVar("T")


def transact(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do ``work`` in one transaction; while another process holds the file, try again."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            with db:
                return work(db)
        except sqlite3.OperationalError as error:
            # Some steps of SQLite, like the change to WAL, do not wait as long as the timeout says.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.05))  # noqa: S311 -- jitter


def connect(file: Path | str) -> sqlite3.Connection:
    """Open a ledger; what it lacks is made."""
    # check_same_thread: the lock `quiet` keeps threads apart.
    db = sqlite3.connect(file, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        return transact(db, _prepare)
    except sqlite3.Error:
        db.close()
        raise


def _prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last records; their files are verified
    db.execute("PRAGMA recursive_triggers = ON")  # what a REPLACE deletes is counted too
    db.executescript(_TABLES)
    if db.execute("SELECT 1 FROM totals").fetchone() is None:
        db.execute("BEGIN IMMEDIATE")
        db.execute(_FIRST_TOTAL)
    return db


def connect_sound(file: Path) -> sqlite3.Connection:
    """Open a ledger and have SQLite look it over.

    Raises:
        sqlite3.DatabaseError: It is damaged.
    """
    db = connect(file)
    said = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if said != "ok":
        db.close()
        raise sqlite3.DatabaseError(said)
    return db
