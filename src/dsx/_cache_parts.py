"""What one process has open of a cache folder, and which of its files it has not brought to the disk yet."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

from dsx._ledger import Ledger, Record
from dsx._partials import Workshop
from dsx._quota import Quota

SYNC_AFTER_S = 3.0
"""How long, in s, published files wait until they are brought to the disk, in the background."""


class Parts:
    """What one process has open of a cache.

    Attributes:
        ledger: The ledger.
        workshop: The downloads under way.
        quota: Makes room.
        sync_lock: Held while files are brought to the disk.
        room_lock: Held while files are removed that are in the way of others.
        is_syncing: Whether a thread is about to do that.
        is_closed: Whether there is nothing open any more.
        is_gone: Whether somebody has removed the folder.
    """

    def __init__(self, ledger: Ledger, workshop: Workshop, quota: Quota) -> None:
        self.ledger = ledger
        self.workshop = workshop
        self.quota = quota
        self.sync_lock = threading.Lock()
        self.room_lock = threading.Lock()
        self.is_syncing = False
        self.is_closed = False
        self.is_gone = False
        self._unsynced: dict[str, dict[str, int]] = {}
        self._in_sync: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()

    def is_trusted(self, dataset: str, path: str, record: Record, status: os.stat_result) -> bool:
        """Tell whether a file is as this record says, and on the disk or published by this very process."""
        is_same = record.mtime_ns == status.st_mtime_ns and record.size == status.st_size
        return is_same and self.is_vouched(dataset, path, record)

    def is_vouched(self, dataset: str, path: str, record: Record) -> bool:
        """Tell whether a file that is as this record says was verified, and is on the disk or of this very process."""
        return bool(record.digest) and (record.is_synced or self._has_published(dataset, path, record))

    def _has_published(self, dataset: str, path: str, record: Record) -> bool:
        return any(files.get(dataset, {}).get(path) == record.mtime_ns for files in (self._unsynced, self._in_sync))

    def note_unsynced(self, dataset: str, mtimes_ns: Mapping[str, int]) -> None:
        """Note files that have their names."""
        with self._lock:
            self._unsynced.setdefault(dataset, {}).update(mtimes_ns)

    def is_sync_due(self) -> bool:
        """Tell whether the last sync is long ago."""
        return time.monotonic() - self._synced_at > SYNC_AFTER_S

    def begin_sync(self) -> bool:
        """Tell whether there is something to sync, and nobody about to."""
        with self._lock:
            is_wanted = bool(self._unsynced) and not self.is_syncing
            self.is_syncing = self.is_syncing or is_wanted
            return is_wanted

    def take_unsynced(self) -> dict[str, dict[str, int]]:
        """Return what is to be synced, by dataset and path; it stays trusted until `forget_synced`."""
        with self._lock:
            self._in_sync, self._unsynced = self._unsynced, {}
            return self._in_sync

    def forget_synced(self) -> None:
        """Note that the ledger vouches for what was taken."""
        with self._lock:
            self._in_sync = {}
            self._synced_at = time.monotonic()
