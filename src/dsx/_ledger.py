"""What the SDK itself has published into a cache folder, and what it knows of each file.

One SQLite file, ``.dsx/ledger.sqlite``. It is a memory, never a lock: losing it costs verification, not correctness.
Where it cannot be kept (a read-only folder, a network disk) or is damaged, an empty one takes its place, seeded with
what the cached manifests name, as files that are the SDK's own and not yet verified.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dsx._disk import is_network_disk
from dsx._ledger_file import connect, connect_sound, transact
from dsx._process import before_fork, quiet
from dsx.manifest import ManifestEntry
from dsx.protocol.paths import fold_path

log = logging.getLogger("dsx")

USER_VERSION = 1
QUERY_PATHS = 500
"""How many paths one query asks for; SQLite allows 999 parameters where it is old."""

_RECORDS = (
    "SELECT path, size, mtime_ns, head_hash, digest, hub_mtime_ns, etag, is_ours, is_synced FROM files WHERE path"
)
_OWNERS = "SELECT path, is_ours FROM files WHERE path"
_FOLDED = "SELECT fold, path FROM files WHERE fold"

_HAND_OVER = (
    "UPDATE files SET is_ours = 1 WHERE dataset = ? AND path = ?"
    " AND digest = (SELECT digest FROM files WHERE dataset = ? AND path = ?)"
)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)

T = TypeVar("T")

_all: weakref.WeakSet[Ledger] = weakref.WeakSet()


class Record(NamedTuple):
    """What the ledger says of one file.

    Attributes:
        size: Size in bytes.
        mtime_ns: Modification time of the local file, ns; with the size it tells whether somebody touched it.
        head_hash: MD5 of the first 1024 bytes, in hex.
        digest: SHA-256 of the whole file in hex; empty when it was never verified.
        hub_mtime_ns: Modification time of the entry on the hub, ns, if the hub said it.
        etag: The hub's entity tag of this content; empty when unknown.
        is_ours: Whether the SDK put the file there; only such files are ever replaced or deleted.
        is_synced: Whether the bytes were known to be on the disk when this was written.
    """

    size: int
    mtime_ns: int
    head_hash: str
    digest: str
    hub_mtime_ns: int | None
    etag: str
    is_ours: bool
    is_synced: bool

    def is_entry(self, entry: ManifestEntry) -> bool:
        """Tell whether this is of what a manifest names; a digest counts when both have one, a time when it says it."""
        return (
            (self.size, self.head_hash) == (entry.size, entry.hash)
            and entry.mtime_ns in (None, self.hub_mtime_ns)
            and entry.digest in (None, self.digest)
        )


UNVERIFIED = Record(-1, 0, "", "", None, "", is_ours=True, is_synced=False)
"""A file that a cached manifest names, of which nothing else is known."""


class OverLimitError(Exception):
    """Records were not entered, because the files that the SDK has published would be more than they may.

    Attributes:
        excess: By how many bytes.
    """

    def __init__(self, excess: int) -> None:
        super().__init__(excess)
        self.excess = excess


class Ledger:
    """The records of one cache folder, for one process. Threads may share it.

    Args:
        folder: The cache's ``.dsx`` folder.
        seeds: Gives ``(dataset, path)`` of everything that the cached manifests name; asked when there is no ledger.

    Attributes:
        is_in_memory: Whether it cannot be kept, and ends with this process.
        is_full: Whether that is because the disk is full; nothing new is entered then.
    """

    def __init__(self, folder: Path, seeds: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._file = folder / "ledger.sqlite"
        self._seeds = seeds
        self.is_in_memory = False
        self.is_full = False
        self._kept: sqlite3.Connection | None = None
        with quiet:
            self._db()
        _all.add(self)

    def get(self, dataset: str, path: str) -> Record | None:
        """Return what is known of one file."""
        sql = f"{_RECORDS} = ? AND dataset = ?"
        row = self._run(lambda db: db.execute(sql, (path, dataset)).fetchone())
        return None if row is None else Record._make([*row[1:7], bool(row[7]), bool(row[8])])

    def get_many(self, dataset: str, paths: Sequence[str]) -> dict[str, Record]:
        """Return what is known of many files; those of which nothing is known are left out."""
        rows = self._run(lambda db: list(_select(db, _RECORDS, dataset, paths)))
        return {row[0]: Record(*row[1:]) for row in rows}

    def put(self, dataset: str, path: str, record: Record) -> None:
        """Write one record over what was known."""
        self._run(lambda db: _put(db, [(dataset, path, record)]))

    def enter(
        self, dataset: str, records: Mapping[str, Record], *, is_shared: bool, limit: int | None = None
    ) -> dict[str, str]:
        """Write the records of files that are about to get their names, in one transaction.

        Args:
            dataset: Name of their dataset.
            records: What is known of each, by path.
            is_shared: Whether files of other datasets may have the same names. Of two that are written at the same time
                only one gets it.
            limit: How many bytes all files that the SDK published may have with these; None for any number.

        Returns:
            The paths that another dataset has, with its name; their records were not written.

        Raises:
            OverLimitError: They would have more; no record was written.
            OSError: The disk is full; what only memory knows would be somebody else's the next time.
        """
        if self.is_full:  # there may be room again
            self.is_in_memory = self.is_full = False
            self.close()

        def work(db: sqlite3.Connection) -> dict[str, str]:
            db.execute("BEGIN IMMEDIATE")  # nobody writes between the look and the entry
            taken: dict[str, str] = {}
            for other in _list_others(db, dataset) if is_shared else ():
                taken |= {path: other for path, is_ours in _select(db, _OWNERS, other, list(records)) if is_ours}
            _put(db, ((dataset, path, record) for path, record in records.items() if path not in taken))
            if limit is not None and (excess := _count_bytes(db) - limit) > 0:
                raise OverLimitError(excess)
            return taken

        taken = self._run(work)
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return taken

    def adopt(self, dataset: str, records: Mapping[str, Record]) -> None:
        """Write what is known of files that were found and verified; whose they are stays as it was."""

        def work(db: sqlite3.Connection) -> None:
            found = [(dataset, path, record._replace(is_ours=False)) for path, record in records.items()]
            _put(db, found, verb="INSERT OR IGNORE")
            db.executemany(
                "UPDATE files SET size = ?, mtime_ns = ?, head_hash = ?, digest = ?, hub_mtime_ns = ?, etag = ?,"
                " is_synced = ? WHERE dataset = ? AND path = ?",
                [(*record[:6], int(record.is_synced), dataset, path) for path, record in records.items()],
            )

        self._run(work)

    def mark_synced(self, files: Iterable[tuple[str, str, int]]) -> None:
        """Note that the bytes of ``(dataset, path, mtime_ns)`` are on the disk."""
        rows = list(files)
        sql = "UPDATE files SET is_synced = 1 WHERE dataset = ? AND path = ? AND mtime_ns = ?"
        self._run(lambda db: db.executemany(sql, rows))

    def forget(self, dataset: str, paths: Iterable[str]) -> None:
        """Drop the records of files that are no longer there."""
        rows = [(dataset, path) for path in paths]
        self._run(lambda db: db.executemany("DELETE FROM files WHERE dataset = ? AND path = ?", rows))

    def forget_unless_renewed(self, dataset: str, records: Mapping[str, Record]) -> None:
        """Drop the records of files that were removed, by path; not of those that somebody has put there anew since."""
        rows = [(dataset, path, record.mtime_ns) for path, record in records.items()]
        sql = "DELETE FROM files WHERE dataset = ? AND path = ? AND mtime_ns = ?"
        self._run(lambda db: db.executemany(sql, rows))

    def hand_over(self, dataset: str, paths: Sequence[str]) -> set[str]:
        """Make files that another dataset knows too its own, if it knows the same bytes; return their paths."""

        def work(db: sqlite3.Connection) -> set[str]:
            found: set[str] = set()
            for other in _list_others(db, dataset):
                shared = [path for path, _ in _select(db, _OWNERS, other, paths) if path not in found]
                found.update(shared)
                db.executemany(_HAND_OVER, [(other, path, dataset, path) for path in shared])
            return found

        return self._run(work)

    def forget_dataset(self, dataset: str) -> None:
        """Drop all records of one dataset."""
        self._run(lambda db: db.execute("DELETE FROM files WHERE dataset = ?", (dataset,)))

    def list_ours(self, dataset: str) -> list[str]:
        """Return the paths of the files that the SDK published for ``dataset``, sorted."""
        sql = "SELECT path FROM files WHERE dataset = ? AND is_ours ORDER BY path"
        return [row[0] for row in self._run(lambda db: db.execute(sql, (dataset,)).fetchall())]

    def list_all_ours(self) -> list[tuple[str, str, Record]]:
        """Return dataset, path and record of every file that the SDK published, sorted."""
        sql = _RECORDS.replace("path,", "dataset, path,", 1).replace(
            "WHERE path", "WHERE is_ours ORDER BY dataset, path"
        )
        return [(row[0], row[1], Record(*row[2:])) for row in self._run(lambda db: db.execute(sql).fetchall())]

    def restore(self, rows: Iterable[tuple[str, str, Record]]) -> None:
        """Write records of which nothing better is known."""
        self._run(lambda db: _put(db, rows, verb="INSERT OR IGNORE"))

    def count_bytes(self) -> int:
        """Return how many bytes the entries have that the SDK published, of all datasets."""
        return self._run(_count_bytes)

    def list_some_ours(self, after: tuple[str, str], count: int) -> list[tuple[str, str, int, int]]:
        """Return dataset, path, size and local mtime, ns, of the next ``count`` published entries, in order."""
        sql = (
            "SELECT dataset, path, size, mtime_ns FROM files"
            " WHERE (dataset, path) > (?, ?) AND dataset != '' AND is_ours ORDER BY dataset, path LIMIT ?"
        )
        return self._run(lambda db: db.execute(sql, (*after, count)).fetchall())

    def doubt(self, files: Iterable[tuple[str, str, int]]) -> None:
        """Vouch no longer for the published files ``(dataset, path, mtime_ns)``."""
        rows = list(files)
        sql = "UPDATE files SET digest = '' WHERE dataset = ? AND path = ? AND mtime_ns = ? AND is_ours"
        self._run(lambda db: db.executemany(sql, rows))

    def remove_doubted(
        self, files: Sequence[tuple[str, str, int]], remove: Callable[[str, str, int], bool]
    ) -> list[tuple[str, str, int]]:
        """Have files removed and drop their records, while nobody can enter one of them.

        Args:
            files: ``(dataset, path, mtime_ns)`` of each.
            remove: Removes one that is still doubted, and tells whether it did.

        Returns those that are gone.
        """
        still = "SELECT 1 FROM files WHERE dataset = ? AND path = ? AND mtime_ns = ? AND is_ours AND digest = ''"

        def work(db: sqlite3.Connection) -> list[tuple[str, str, int]]:
            db.execute("BEGIN IMMEDIATE")
            gone = [file for file in files if db.execute(still, file).fetchone() and remove(*file)]
            db.executemany("DELETE FROM files WHERE dataset = ? AND path = ? AND mtime_ns = ?", gone)
            return gone

        return self._run(work)

    def list_ours_below(self, dataset: str, folder: str) -> list[str]:
        """Return the paths of the files that the SDK published in a folder of ``dataset``, at any depth."""
        sql = "SELECT path FROM files WHERE dataset = ? AND path > ? AND path < ? AND is_ours ORDER BY path"
        between = (dataset, folder + "/", folder + chr(ord("/") + 1))
        return [row[0] for row in self._run(lambda db: db.execute(sql, between).fetchall())]

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets with records."""
        return [row[0] for row in self._run(lambda db: db.execute("SELECT DISTINCT dataset FROM files").fetchall())]

    def list_folded(self, dataset: str, paths: Iterable[str]) -> list[tuple[str, str]]:
        """Return pairs of a path and another that a file system without case or Unicode form takes for it."""
        by_fold: dict[str, list[str]] = {}
        for path in paths:
            by_fold.setdefault(fold_path(path), []).append(path)
        rows = self._run(lambda db: list(_select(db, _FOLDED, dataset, list(by_fold))))
        return [(path, other) for fold, other in rows for path in by_fold[fold] if path != other]

    def close(self) -> None:
        """Close the file."""
        with quiet:
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def rest(self) -> None:
        """Close the file until it is next needed: SQLite does not carry an open one over a fork."""
        if not self.is_in_memory:
            self.close()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in one transaction; a ledger that fails is replaced, and the work done again."""
        with quiet:
            try:
                return transact(self._db(), work)
            except sqlite3.Error as error:
                self.close()
                self._kept = self._recover(error)
                return transact(self._kept, work)

    def _db(self) -> sqlite3.Connection:
        if self._kept is None:
            self._kept = self._open()
        return self._kept

    def _open(self) -> sqlite3.Connection:
        if is_network_disk(self._file.parent):
            return self._open_in_memory("it is on a network disk")
        try:
            db = connect(self._file)
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._seed(db)
                db.execute(f"PRAGMA user_version = {USER_VERSION}")
        except sqlite3.Error as error:
            return self._recover(error)
        return db

    def _recover(self, error: sqlite3.Error) -> sqlite3.Connection:
        """Set a damaged ledger aside and begin a new one; where it just cannot be used, keep it in memory."""
        if isinstance(error, sqlite3.OperationalError):
            self.is_full = getattr(error, "sqlite_errorcode", None) in _NO_ROOM
            return self._open_in_memory(str(error))
        try:
            return connect_sound(self._file)  # another process may have mended it meanwhile
        except sqlite3.Error:
            pass
        try:
            for suffix in ("", "-wal", "-shm"):
                damaged = self._file.with_name(self._file.name + suffix)
                if damaged.exists():
                    damaged.replace(self._file.with_name(f"ledger.damaged{suffix}"))
            log.warning("the cache's ledger %s was damaged (%s); its files are verified again", self._file, error)
            db = connect(self._file)
            self._seed(db)
            db.execute(f"PRAGMA user_version = {USER_VERSION}")
        except (OSError, sqlite3.Error) as again:
            return self._open_in_memory(str(again))
        return db

    def _open_in_memory(self, reason: str) -> sqlite3.Connection:
        log.warning("the cache's ledger %s cannot be used (%s); files are verified when asked for", self._file, reason)
        self.is_in_memory = True
        db = connect(":memory:")
        self._seed(db)
        return db

    def _seed(self, db: sqlite3.Connection) -> None:
        with db:  # what another process has written meanwhile is better
            _put(db, ((dataset, path, UNVERIFIED) for dataset, path in self._seeds()), verb="INSERT OR IGNORE")


def _rest_all() -> None:
    for ledger in list(_all):
        ledger.rest()


before_fork.append(_rest_all)


def _select(db: sqlite3.Connection, what: str, dataset: str, values: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of ``dataset`` for many values."""
    for start in range(0, len(values), QUERY_PATHS):
        some = values[start : start + QUERY_PATHS]
        yield from db.execute(f"{what} IN ({', '.join('?' * len(some))}) AND dataset = ?", (*some, dataset))


def _count_bytes(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT bytes FROM totals").fetchone()[0])


def _list_others(db: sqlite3.Connection, dataset: str) -> list[str]:
    """Return the other datasets that have records; one step in the index for each."""
    found: list[str] = []
    last = ""
    while (last := db.execute("SELECT min(dataset) FROM files WHERE dataset > ?", (last,)).fetchone()[0]) is not None:
        found.append(last)
    return [name for name in found if name != dataset]


def _put(db: sqlite3.Connection, rows: Iterable[tuple[str, str, Record]], *, verb: str = "INSERT OR REPLACE") -> None:
    db.executemany(
        f"{verb} INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (dataset, path, fold_path(path), *record[:6], int(record.is_ours), int(record.is_synced))
            for dataset, path, record in rows
        ),
    )
