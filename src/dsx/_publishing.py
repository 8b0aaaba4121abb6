"""Many small entries get their names as a group: few system calls for each, one transaction for all.

In this order: the bytes are verified before they come here; written to temporary files; noted in the ledger as the
SDK's own; renamed; noted as not yet on the disk. Whatever happens between two steps, no file has a wrong byte, none of
somebody else's is replaced, and what lies there is known as the SDK's own. Whatever is not plain, like a file where a
folder has to be or a name that the file system takes for another, is left to the careful way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dsx._cache import Cache
from dsx._disk import (
    cache_errors,
    is_anything_at,
    is_same_file,
    make_folders,
    move_file,
    write_new_file,
)
from dsx._ledger import Record
from dsx.errors import CacheError, DsxError
from dsx.manifest import ManifestEntry
from dsx.protocol.paths import fold_path

FOLDERS_KEPT = 100_000
"""How many folders are remembered to be there."""


class Arrival(NamedTuple):
    """An entry that has come, whole and verified.

    Attributes:
        entry: What the manifest says of it.
        data: Its bytes.
        digest: Their SHA-256, in hex.
    """

    entry: ManifestEntry
    data: bytes
    digest: str


class Published(NamedTuple):
    """What became of a group.

    Attributes:
        placed: Those that have their names.
        failures: What is wrong with the folder, by path.
        unclear: Those that need the careful way.
    """

    placed: list[ManifestEntry]
    failures: dict[str, DsxError]
    unclear: list[ManifestEntry]


class Publisher:
    """Publishes entries of one dataset in a folder. For one thread.

    Args:
        cache: The folder.
        dataset: Name of the dataset.
    """

    def __init__(self, cache: Cache, dataset: str) -> None:
        self._cache = cache
        self._dataset = dataset
        self._prefix = cache.layout.find_prefix(cache.root, dataset)
        self._folders: set[str] = set()

    def publish(self, arrivals: Sequence[Arrival]) -> Published:
        """Give entries their names.

        Raises:
            CacheError: The folder cannot be used at all.
        """
        published = Published([], {}, [])
        with cache_errors(self._cache.root):
            ready = self._pick_plain(arrivals, published)
            with self._cache.workshop.scratch_many(len(ready)) as names:
                temporaries = self._write(ready, names, published)
                self._move(temporaries, names, published)
        return published

    def _pick_plain(self, arrivals: Sequence[Arrival], published: Published) -> list[Arrival]:
        """Make the folders, and return the entries that nothing is in the way of."""
        cache, dataset, prefix = self._cache, self._dataset, self._prefix
        paths = [arrival.entry.path for arrival in arrivals]
        # Looked for before the records: whoever publishes writes the record first.
        there = {path for path in paths if is_anything_at(prefix + path)}
        records = cache.ledger.get_many(dataset, list(there)) if there else {}
        folded = {path for path, _ in cache.ledger.list_folded(dataset, paths)} | _find_folded(paths)
        ready = []
        for arrival in arrivals:
            path = arrival.entry.path
            is_free = path not in there or (_is_ours(records.get(path)) and self._is_plain_file(path))
            if is_free and path not in folded and self._has_folder(path):
                ready.append(arrival)
            else:
                published.unclear.append(arrival.entry)
        return ready

    def _has_folder(self, path: str) -> bool:
        """Make the folder of an entry, unless it is there; tell whether that can be."""
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            try:
                make_folders(Path(self._prefix + folder))
            except OSError:
                return False
            if len(self._folders) >= FOLDERS_KEPT:
                self._folders.clear()
            self._folders.add(folder)
        return True

    def _is_plain_file(self, path: str) -> bool:
        """Tell whether there is a regular file, and no link leads to it."""
        file = Path(self._prefix + path)
        try:
            return stat.S_ISREG(file.lstat().st_mode) and self._cache.is_below(file)
        except OSError:
            return False

    def _write(
        self, ready: Sequence[Arrival], names: Sequence[str], published: Published
    ) -> list[tuple[str, Arrival, int]]:
        """Write temporary files; return each with its entry and its time of modification, ns."""
        written = []
        for name, arrival in zip(names, ready, strict=True):
            try:
                with_time = name, arrival, write_new_file(name, arrival.data)
            except OSError as error:
                published.failures[arrival.entry.path] = self._word(error, arrival.entry.path)
            else:
                written.append(with_time)
        return written

    def _word(self, error: OSError, path: str) -> DsxError:
        try:
            with cache_errors(Path(self._prefix + path)):
                raise error
        except CacheError as worded:
            return worded

    def _move(self, temporaries: Sequence[tuple[str, Arrival, int]], names: list[str], published: Published) -> None:
        """Note temporary files in the ledger, then give them their names."""
        cache, dataset, prefix = self._cache, self._dataset, self._prefix
        records = {arrival.entry.path: _make_record(arrival, mtime_ns) for _, arrival, mtime_ns in temporaries}
        try:
            published.failures.update(cache.enter(dataset, records))
        except OSError as error:  # the ledger finds no room: nothing may get a name that it does not know
            published.failures.update({path: self._word(error, path) for path in records})
        moved: dict[str, Record] = {}
        entries: list[ManifestEntry] = []
        gone: set[str] = set()
        try:
            for name, arrival, _ in temporaries:
                path = arrival.entry.path
                if path in published.failures or not self._rename(name, prefix + path):
                    if path not in published.failures:
                        published.unclear.append(arrival.entry)
                else:
                    gone.add(name)
                    moved[path] = records[path]
                    entries.append(arrival.entry)
            names[:] = [name for name in names if name not in gone]
        finally:
            cache.note_moved(dataset, moved)
        taken_back = self._take_back_folded(moved)
        for entry in entries:
            (published.unclear if entry.path in taken_back else published.placed).append(entry)

    def _rename(self, name: str, target: str) -> bool:
        """Give a file its name; return False where that is not plain."""
        try:
            os.replace(name, target)  # noqa: PTH105 -- a Path for each would take longer than the system does
        except FileNotFoundError:  # somebody has removed the folder since it was made
            self._folders.clear()
        except OSError:
            pass
        else:
            return True
        try:
            make_folders(Path(target).parent)
            move_file(Path(name), Path(target))
        except OSError:
            return False
        return True

    def _take_back_folded(self, moved: dict[str, Record]) -> set[str]:
        """Take back those that the file system took for another: two that came at the same time."""
        taken_back = set()
        for path, other in self._cache.ledger.list_folded(self._dataset, moved):
            if is_same_file(Path(self._prefix + path), Path(self._prefix + other)):
                taken_back.add(path)
        for path in taken_back:
            Path(self._prefix + path).unlink()
        return taken_back


def _find_folded(paths: Sequence[str]) -> set[str]:
    """Return the paths of a group that some file system takes for an earlier one of them."""
    first: dict[str, str] = {}
    return {path for path in paths if first.setdefault(fold_path(path), path) != path}


def _is_ours(record: Record | None) -> bool:
    return record is not None and record.is_ours


def _make_record(arrival: Arrival, mtime_ns: int) -> Record:
    entry = arrival.entry
    return Record(
        size=entry.size,
        mtime_ns=mtime_ns,
        head_hash=entry.hash,
        digest=arrival.digest,
        hub_mtime_ns=entry.mtime_ns,
        etag="",
        is_ours=True,
        is_synced=False,
    )
