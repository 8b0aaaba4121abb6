"""What of a manifest is in a folder already: many entries at a time, with few questions to the ledger and the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from dsx._cache import Cache
from dsx._disk import FileHashes, cache_errors, hash_files
from dsx._layout import CacheLayout
from dsx._ledger import Ledger, Record
from dsx.errors import InvalidPathError
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import HEAD_BYTES

READ_BYTES = 8 * 1024 * 1024
"""Files longer than this, in bytes, are not read here; with them the careful way is as quick, and can be stopped."""


class Found(NamedTuple):
    """What became of some entries.

    Attributes:
        placed: Those that lie where they belong, and are what the manifest names.
        missing: Those to be fetched: nothing is there, or a file of our own that is not the entry.
        unclear: Those that need the careful way: only the hub knows, or somebody else's file is in the way.
    """

    placed: list[ManifestEntry]
    missing: list[ManifestEntry]
    unclear: list[ManifestEntry]


class _Doubt(NamedTuple):
    """A file that has to be read."""

    entry: ManifestEntry
    record: Record | None
    status: os.stat_result


class Look:
    """A folder's ledger for somebody who only looks: nothing is made, noted or swept.

    What a process that was killed has noted, SQLite brings into its file.

    Args:
        cache: The folder, which need not be there.
    """

    def __init__(self, cache: Cache) -> None:
        is_there = (cache.private / "ledger.sqlite").is_file()
        self._ledger = Ledger(cache.private, tuple) if is_there else None

    def get_many(self, dataset: str, paths: Sequence[str]) -> dict[str, Record]:
        """Return what is known of many files; those of which nothing is known are left out."""
        return {} if self._ledger is None else self._ledger.get_many(dataset, paths)

    def is_trusted(self, _dataset: str, _path: str, record: Record, status: os.stat_result) -> bool:
        """Tell whether a file is as this record says, and on the disk."""
        is_same = (record.mtime_ns, record.size) == (status.st_mtime_ns, status.st_size)
        return is_same and record.is_synced and bool(record.digest)

    def list_ours(self, dataset: str) -> list[str]:
        """Return the paths of the files that the SDK published for ``dataset``, sorted."""
        return [] if self._ledger is None else self._ledger.list_ours(dataset)

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger is not None:
            self._ledger.close()


class Inventory:
    """Looks for the entries of one dataset.

    Args:
        cache: The folder.
        dataset: Name of the dataset.
        is_full: Whether every file is read, or only those that the ledger does not vouch for.
        look: The ledger, when what is found must not be noted; None to note it.
    """

    def __init__(self, cache: Cache, dataset: str, *, is_full: bool, look: Look | None = None) -> None:
        self._cache = cache
        self._dataset = dataset
        self._is_full = is_full
        self._look = look
        self._prefix = cache.layout.find_prefix(cache.root, dataset)

    def check(self, entries: Sequence[ManifestEntry]) -> Found:
        """Look for some entries.

        Raises:
            CacheError: The folder cannot be used.
        """
        found = Found([], [], [])
        doubts: list[_Doubt] = []
        dataset, prefix, layout = self._dataset, self._prefix, self._cache.layout
        is_checked = layout.is_shared or os.name == "nt"  # elsewhere the gate, which a manifest has passed, is all
        known = self._look or self._cache.parts
        ledger = known if isinstance(known, Look) else known.ledger
        records = ledger.get_many(dataset, [entry.path for entry in entries])
        for entry in entries:
            path = entry.path
            if is_checked and not _is_admitted(layout, path):
                found.unclear.append(entry)
                continue
            try:
                status = os.lstat(prefix + path)
            except (FileNotFoundError, NotADirectoryError):
                found.missing.append(entry)
                continue
            except (OSError, ValueError):  # it will happen again, and is said then
                found.unclear.append(entry)
                continue
            record = records.get(path)
            if not stat.S_ISREG(status.st_mode):
                found.unclear.append(entry)
            elif not self._is_full and record is not None and known.is_trusted(dataset, path, record, status):
                self._place(entry, record, found)
            elif status.st_size > READ_BYTES:
                found.unclear.append(entry)
            else:
                doubts.append(_Doubt(entry, record, status))
        if doubts:
            with cache_errors(self._cache.root):
                self._settle(doubts, found)
        return found

    def _place(self, entry: ManifestEntry, record: Record, found: Found) -> None:
        """Sort an entry of whose file everything is known."""
        if record.is_entry(entry):
            found.placed.append(entry)
        else:
            (found.missing if record.is_ours else found.unclear).append(entry)

    def _settle(self, doubts: Sequence[_Doubt], found: Found) -> None:
        """Read files, and let the ledger vouch for those that are right."""
        right: dict[str, Record] = {}
        sizes = [doubt.status.st_size for doubt in doubts]
        all_hashes = hash_files([self._prefix + doubt.entry.path for doubt in doubts], sum(sizes))
        for (entry, record, status), hashes in zip(doubts, all_hashes, strict=True):
            is_ours = record is not None and record.is_ours
            if hashes is None:
                found.unclear.append(entry)
            elif record is not None and record.digest == hashes.digest:
                right[entry.path] = record._replace(mtime_ns=status.st_mtime_ns, is_synced=False)
                self._place(entry, record, found)
            elif _is_told(entry, hashes):
                right[entry.path] = _make_record(entry, hashes, status)
                found.placed.append(entry)
            elif is_ours and ((record is not None and record.digest) or _is_other(entry, hashes)):
                found.missing.append(entry)
            else:
                found.unclear.append(entry)
        if right and self._look is None:
            self._cache.adopt(self._dataset, right)


def _is_admitted(layout: CacheLayout, path: str) -> bool:
    try:
        layout.check_path(path)
    except InvalidPathError:
        return False
    return True


def _is_told(entry: ManifestEntry, hashes: FileHashes) -> bool:
    """Tell whether the manifest itself says that these are the bytes of the entry."""
    if _is_other(entry, hashes):
        return False
    return entry.digest == hashes.digest or entry.size <= HEAD_BYTES  # a short one's head is all there is


def _is_other(entry: ManifestEntry, hashes: FileHashes) -> bool:
    """Tell whether the manifest itself says that these are other bytes."""
    return (hashes.size, hashes.head_hash) != (entry.size, entry.hash) or entry.digest not in (None, hashes.digest)


def _make_record(entry: ManifestEntry, hashes: FileHashes, status: os.stat_result) -> Record:
    return Record(
        size=entry.size,
        mtime_ns=status.st_mtime_ns,
        head_hash=entry.hash,
        digest=hashes.digest,
        hub_mtime_ns=entry.mtime_ns,
        etag="",
        is_ours=False,
        is_synced=False,
    )
