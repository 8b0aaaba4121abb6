"""The index on disk: one SQLite file in the hub's state folder.

::

    datasets   one row per dataset ever seen, with (device, inode) of its folder when it last held something, what the
               last scan said, and the sums over its living rows; the row without a name is the served folder's
    revisions  one row per published state of a dataset; ``number`` counts up within the dataset, ``asked_ns`` is when a
               client last asked for it by its id
    entries    one row per state of an entry: born in one revision, died in another, or alive (``died`` is null)
    folders    one row per folder of a dataset: a hash over what its listing said when its rows were brought up to
               date, so that an unchanged folder costs one comparison; null when it has to be looked at in detail

An entry's state is (path, size, head hash, mtime). Its inode and ctime may change without a new state (a chmod), so
they are columns that are brought up to date in place. ``racy`` marks a row whose file had just been written when it
was read: a later write may have left equal times, so it is read again at the next scan.

Living rows are what the last scan saw; they run ahead of the newest revision. Rows that were born, or died, in the
number after it are not published yet: a scan that is broken off leaves them, and the next one goes on from there.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sqlite3
from pathlib import Path
from typing import IO

from dsx_server.settings import SettingsError

log = logging.getLogger("dsx.index")

# None on Windows, where SQLite's transactions alone keep two hubs from harming each other.
fcntl = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

FILE_NAME = "index.sqlite"
USER_VERSION = 5

JOURNAL_BYTES = 64 * 1024 * 1024
"""The write-ahead log is cut back to this size, in bytes, when a long read has let it grow."""

_TABLES = """
CREATE TABLE IF NOT EXISTS datasets (
    id             INTEGER PRIMARY KEY,
    name           TEXT    NOT NULL UNIQUE,
    scanned_ns     INTEGER NOT NULL DEFAULT 0,
    scan_s         REAL    NOT NULL DEFAULT 0,
    failure        TEXT,
    left_out       TEXT    NOT NULL DEFAULT '{}',
    device         INTEGER,
    inode          INTEGER,
    entries        INTEGER NOT NULL DEFAULT 0,
    bytes          INTEGER NOT NULL DEFAULT 0,
    row_sum        BLOB    NOT NULL DEFAULT x'',
    digests        INTEGER NOT NULL DEFAULT 0,
    digests_shown  INTEGER NOT NULL DEFAULT 0,
    digest_version INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))
) STRICT;
CREATE TABLE IF NOT EXISTS revisions (
    dataset    INTEGER NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
    number     INTEGER NOT NULL,
    id         TEXT    NOT NULL,
    created_ns INTEGER NOT NULL,
    entries    INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    asked_ns   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (dataset, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    dataset   INTEGER NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
    path      TEXT    NOT NULL,
    born      INTEGER NOT NULL,
    died      INTEGER,
    size      INTEGER NOT NULL,
    mtime_ns  INTEGER NOT NULL,
    ctime_ns  INTEGER NOT NULL,
    inode     INTEGER NOT NULL,
    racy      INTEGER NOT NULL,
    head_hash BLOB    NOT NULL,
    digest    BLOB,
    PRIMARY KEY (dataset, path, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dead ON entries (dataset, died) WHERE died IS NOT NULL;
CREATE TABLE IF NOT EXISTS folders (
    dataset  INTEGER NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
    path     TEXT    NOT NULL,
    inode    INTEGER NOT NULL,
    state    BLOB,
    left_out TEXT    NOT NULL,
    links    INTEGER NOT NULL,
    PRIMARY KEY (dataset, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS linked ON folders (dataset) WHERE links > 0;
"""


def claim_folder(folder: Path) -> IO[bytes]:
    """Make sure that no other hub uses this state folder; the claim lasts until the file that is returned is closed.

    Raises:
        SettingsError: Another hub does.
    """
    file = open(folder / "lock", "ab")  # noqa: SIM115 -- open as long as the hub runs
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise SettingsError(
            f"another hub already uses the state folder {folder}; stop it, or set DSX_STATE_DIR to another folder"
        ) from error
    return file


def open_index(file: Path) -> sqlite3.Connection:
    """Open the index in ``file``, making it when there is none.

    The connection commits only where the code says so, and may be used by one thread at a time. A damaged index
    is set aside and made anew: it holds nothing that a scan does not find again.

    Raises:
        SettingsError: The folder cannot hold an index: it is full, read-only, or on a disk that does not allow it.
    """
    try:
        try:
            return _open(file)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            log.warning("the index %s cannot be read (%s); it is made anew", file, error)
            return open_anew(file)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(
            f"the index {file} cannot be used ({error}); set DSX_STATE_DIR to a writable folder on a local disk "
            "that is not full"
        ) from error


def open_anew(file: Path) -> sqlite3.Connection:
    """Open a new index in the place of a damaged one, which stays beside it; it is never there half made.

    Raises:
        SettingsError: The folder is gone, or cannot be written.
    """
    new, aside = file.with_name(f"{file.name}.new"), file.with_name(f"{file.name}.damaged")
    try:
        new.unlink(missing_ok=True)
        _open(new).close()
        if file.exists():
            file.replace(aside)
        for suffix in ("-wal", "-shm"):  # of the damaged file; the new one's were removed when it was closed
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        new.replace(file)
        return _open(file)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"the index {file} cannot be made anew: {error}") from error


def connect(file: Path, *, may_make: bool = False) -> sqlite3.Connection:
    """Open a connection to an index; only where that is meant is one made that is not there."""
    mode = "rwc" if may_make else "rw"
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=30
    )
    try:
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last scan, never the file
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB: fewer syncs in a first scan
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _open(file: Path) -> sqlite3.Connection:
    connection = connect(file, may_make=True)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, USER_VERSION):
            raise sqlite3.DatabaseError(f"it has version {version}, and this hub makes version {USER_VERSION}")
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {USER_VERSION}; COMMIT;")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
