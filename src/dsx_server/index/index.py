"""The index as the routes see it: ask for a dataset, get what it holds now."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from dsx.errors import DatasetNotFoundError
from dsx.protocol.paths import check_dataset
from dsx.protocol.text import shown
from dsx_server.index.history import (
    Difference,
    PublishedRevision,
    compare_revisions,
    list_revisions,
    prune_revisions,
    read_entry,
    read_revision,
)
from dsx_server.index.mounts import SERVED, forget_folders, note_folder, refuse_unmounted
from dsx_server.index.revisions import RevisionInfo, Row, publish_scan, read_info, read_rows, transaction
from dsx_server.index.scan import scan_dataset
from dsx_server.index.schema import claim_folder, open_index
from dsx_server.storage import Storage

log = logging.getLogger("dsx.index")

PROGRESS_LOGGED_S = 10.0


class Index:
    """What the datasets of one storage hold. Threads may share it; `close` it when done.

    What is asked of the newest revision is answered from a scan that began after the question; who waits for the same
    dataset shares one. Earlier revisions, and `load_newest`, are answered without a look at the disk.
    """

    def __init__(self, state_dir: Path, storage: Storage) -> None:
        self._storage = storage
        self._lock_file = claim_folder(state_dir)
        try:
            self._db = open_index(state_dir)
        except BaseException:
            self._lock_file.close()
            raise
        self._db_lock = threading.Lock()
        self._turns: dict[str, _ScanTurn] = {}
        self._progress: dict[str, _Progress] = {}
        self._served: tuple[list[str], tuple[int, int]] | None = None

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted.

        Raises:
            HubUnavailableError: There is none, and the served folder seems to be one whose disk is not mounted.
        """
        names = self._storage.list_datasets()
        identity = self._storage.identify_folder(None)
        if (names, identity) != self._served:
            with self._db_lock:
                if names:
                    note_folder(self._db, SERVED, identity)
                    forget_folders(self._db, {SERVED, *names})
                else:
                    refuse_unmounted(self._db, SERVED, identity)
            self._served = names, identity
        return names

    def refresh(self, dataset: str) -> RevisionInfo:
        """Scan ``dataset``, publish a revision when it changed, and return the newest.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read.
        """
        return self.load(dataset)[0]

    def load(self, dataset: str) -> tuple[RevisionInfo, list[Row]]:
        """Scan as `refresh` does, and return the newest revision with its rows, sorted by path."""
        asked = time.monotonic()
        turn = self._turn(dataset)
        with turn.lock:
            if turn.began <= asked:
                turn.began = time.monotonic()
                try:
                    self._scan(dataset)
                except BaseException:
                    turn.began = 0.0  # whoever waits for this scan makes one himself
                    raise
            newest = self.load_newest(dataset)
            if newest is None:
                raise RuntimeError(f"dataset {dataset!r} was scanned and has no revision")
            return newest

    def load_newest(self, dataset: str) -> tuple[RevisionInfo, list[Row]] | None:
        """Return the newest revision published and its rows, without a look at the disk; None before the first."""
        with self._db_lock, transaction(self._db):
            info = read_info(self._db, dataset)
            return None if info is None else (info, list(read_rows(self._db, dataset).values()))

    def count_scanned(self, dataset: str) -> int | None:
        """Return how many entries the scan under way has found so far; None when there is none."""
        progress = self._progress.get(dataset)
        return None if progress is None else progress.entries

    def load_revision(self, dataset: str, revision: str) -> list[Row]:
        """Return the rows of one revision, sorted by path, whatever the dataset holds now.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            RevisionNotFoundError: There is no such revision of it.
        """
        self._turn(dataset)
        with self._db_lock:
            return read_revision(self._db, dataset, revision)

    def find_entry(self, dataset: str, revision: str, path: str) -> Row | None:
        """Return one entry as a revision has it, or None when that has none.

        Raises:
            RevisionNotFoundError: There is no such revision.
        """
        with self._db_lock:
            return read_entry(self._db, dataset, revision, path)

    def list_revisions(self, dataset: str) -> list[PublishedRevision]:
        """Return the revisions that are kept, newest first.

        Raises:
            DatasetNotFoundError: There is no such dataset.
        """
        self._turn(dataset)
        with self._db_lock:
            return list_revisions(self._db, dataset)

    def compare(self, dataset: str, a: str, b: str) -> Difference:
        """Return what came, changed and went from revision ``a`` to revision ``b``.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            RevisionNotFoundError: There is no such revision of it.
        """
        self._turn(dataset)
        with self._db_lock:
            return compare_revisions(self._db, dataset, a, b)

    def close(self) -> None:
        """Close the index file."""
        with self._db_lock:
            self._db.close()
            self._lock_file.close()

    def _turn(self, dataset: str) -> _ScanTurn:
        """Return the turn-taking of one dataset; there is one for datasets that exist only."""
        turn = self._turns.get(dataset)
        if turn is None and dataset not in self.list_datasets():
            check_dataset(dataset)
            raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub")
        return turn or self._turns.setdefault(dataset, _ScanTurn())

    def _scan(self, dataset: str) -> None:
        began = time.monotonic()
        with self._db_lock:
            before = read_rows(self._db, dataset)
            old = read_info(self._db, dataset)
        identity = self._storage.identify_folder(dataset)
        progress = self._progress[dataset] = _Progress(dataset)
        try:
            scan = scan_dataset(self._storage, dataset, before, on_progress=progress.note)
        finally:
            del self._progress[dataset]
        with self._db_lock:
            if scan.rows:
                note_folder(self._db, dataset, identity)
            elif not scan.left_out:
                refuse_unmounted(self._db, dataset, identity)
            info = publish_scan(self._db, dataset, scan.rows, scan.left_out)
            if old is None or old.id != info.id:
                prune_revisions(self._db, dataset)
        if old is None or old.id != info.id or old.left_out != info.left_out:
            left_out = ", ".join(f"{count} {reason}" for reason, count in info.left_out.items()) or "nothing"
            log.info(
                "scanned %r in %.2f s: %d entries, %d bytes, revision %s, %d opened, left out: %s",
                dataset, time.monotonic() - began, info.entries, info.bytes, info.id, scan.opened, left_out,
            )  # fmt: skip


class _Progress:
    """How far one scan is; says so in the log now and then."""

    def __init__(self, dataset: str) -> None:
        self.entries = 0
        self._dataset = dataset
        self._said = time.monotonic()

    def note(self, entries: int) -> None:
        self.entries = entries
        if time.monotonic() - self._said > PROGRESS_LOGGED_S:
            self._said = time.monotonic()
            log.info("scanning %r: %d entries so far", self._dataset, entries)


class _ScanTurn:
    """Whose turn it is to scan one dataset, and when (monotonic, s) the last scan began."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.began = 0.0
