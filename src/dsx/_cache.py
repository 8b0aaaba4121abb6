"""The cache folder: what lies where, what may be trusted, what may be deleted.

::

    <cache>/
    ├── cats_manifest.json       the contract's manifest, a plain array
    ├── cats/train/1.png         an entry: complete and verified, or not there
    └── .dsx/
        ├── ledger.sqlite        what the SDK published; see `_ledger`
        ├── manifests/           manifests as columns, the newest and pinned ones; see `_manifest_files`
        └── tmp/                 downloads under way; see `_partials`

Three rules. A file gets its final name by one atomic rename, when it is complete and verified. It is used without a
request only while the ledger vouches for it. Only what the ledger lists as the SDK's own is ever replaced or deleted; a
file that a person put there is used when it verifies, and is otherwise in the way, which is an error.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dsx._disk import (
    cache_errors,
    hash_file,
    is_same_file,
    make_folders,
    move_file,
    remove_empty_folders,
    stat_file,
    sync_files,
)
from dsx._ledger import UNVERIFIED, Ledger, Record
from dsx._manifest_files import MANIFEST_SUFFIX, PINNED_SUFFIX, list_named_files, read_rows_file
from dsx._partials import Partial, Workshop
from dsx._process import PerProcess
from dsx.errors import CacheError, InvalidPathError
from dsx.protocol.paths import check_dataset, check_local, check_path
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

SYNC_FILES = 256
SYNC_AFTER_S = 2.0


class Cache:
    """One cache folder. Threads may share it; it is made on first use, and anew in each process.

    Args:
        root: The cache folder; made when something is first put into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private = root / ".dsx"
        self.manifests = self.private / "manifests"
        self._opened = PerProcess(self._open)

    def _open(self) -> _Parts:
        with cache_errors(self.root):
            make_folders(self.private)
            seeds = functools.partial(list_named_files, self.root, self.manifests)
            return _Parts(Ledger(self.private, seeds), Workshop(self.private / "tmp"))

    def open(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            CacheError: It cannot be made.
        """
        self._opened.get()

    @property
    def _parts(self) -> _Parts:
        """What this process has open; anew when somebody has removed the folder meanwhile."""
        if self._opened.has() and not self.private.is_dir() and (gone := self._opened.pop()) is not None:
            gone.ledger.close()
        return self._opened.get()

    @property
    def ledger(self) -> Ledger:
        """The ledger, open in this process."""
        return self._parts.ledger

    @property
    def workshop(self) -> Workshop:
        """The downloads under way, as this process sees them."""
        return self._parts.workshop

    def target(self, dataset: str, path: str) -> Path:
        """Return where an entry lies, whether or not it is there.

        Raises:
            InvalidPathError: The gate does not admit the name, or this system cannot hold it.
        """
        check_cacheable(dataset)
        check_local(check_path(path), windows=os.name == "nt")
        return self.root.joinpath(dataset, *path.split("/"))

    def manifest_file(self, dataset: str) -> Path:
        """Return where the contract's manifest of ``dataset`` lies."""
        check_cacheable(dataset)
        return self.root / f"{dataset}{MANIFEST_SUFFIX}"

    def columns_file(self, dataset: str) -> Path:
        """Return where the SDK keeps the newest manifest of ``dataset`` for itself."""
        check_cacheable(dataset)
        return self.manifests / f"{dataset}.json"

    def pinned_file(self, dataset: str, revision: str) -> Path:
        """Return where the SDK keeps the manifest of one revision of ``dataset``."""
        check_cacheable(dataset)
        return self.manifests / f"{dataset}@{revision}.json"

    def find(self, dataset: str, path: str) -> Record | None:
        """Return the record of an entry when the ledger vouches for the file on the disk, else None.

        A file that was touched, or whose bytes may not have reached the disk before a power cut, is hashed and compared
        with what the ledger knows of it.
        """
        target = self.target(dataset, path)
        with cache_errors(target):
            status = stat_file(target)
            record = None if status is None else self.ledger.get(dataset, path)
            if status is None or record is None or record.size != status.st_size or not record.digest:
                return None
            is_of_this_process = self._parts.unsynced.get((dataset, path)) == record.mtime_ns
            if record.mtime_ns == status.st_mtime_ns and (record.is_synced or is_of_this_process):
                return record
            if hash_file(target) != record.digest:
                return None
            sync_files([target])
        record = record._replace(mtime_ns=status.st_mtime_ns, is_synced=True)
        self.ledger.put(dataset, path, record)
        return record

    def check_free(self, dataset: str, path: str) -> None:
        """Make sure that publishing ``path`` would not destroy anything that the SDK did not put there.

        Raises:
            CacheError: A file of somebody else's is in the way, or another entry that this file system takes for the
            same.
        """
        target = self.target(dataset, path)
        self._check_collision(dataset, path)
        is_there = os.path.lexists(target)  # looked for before its record: publish() writes that first
        record = self.ledger.get(dataset, path)
        if is_there and not (record is not None and record.is_ours):
            raise CacheError(
                f"{target} is in the way: dsx did not put it there, and it is not the hub's {shown(path)}; "
                "move it away, or use another cache_dir"
            )

    def _check_collision(self, dataset: str, path: str) -> None:
        for other in self.ledger.list_folded(dataset, path):
            if is_same_file(self.target(dataset, path), self.target(dataset, other)):
                raise CacheError(
                    f"{shown(path)} and {shown(other)} of dataset {shown(dataset)} would be one file in {self.root}: "
                    "its file system takes their names for the same; read one of them with get_file_bytes()"
                )

    def adopt(self, dataset: str, path: str, record: Record) -> None:
        """Vouch from now on for a file that somebody else put there and that was verified; it stays theirs."""
        self.ledger.adopt(dataset, path, record)

    @contextmanager
    def download(self, dataset: str, path: str) -> Iterator[Partial]:
        """Give a file to download an entry into; what is not published is kept for the next try, if worth it."""
        with cache_errors(self.root):
            workshop = self.workshop
            partial = workshop.claim(dataset, path)
            try:
                yield partial
            finally:
                workshop.release(partial, dataset, path)

    def publish(self, dataset: str, path: str, partial: Partial, record: Record) -> Path:
        """Give a complete and verified download its name; ``record`` is what is known of it but for its local times."""
        self.check_free(dataset, path)
        target = self.target(dataset, path)
        with cache_errors(target):
            temporary = partial.finish()
            mtime_ns = temporary.stat().st_mtime_ns
            # The record comes first: whatever happens between the two, the file is known as the SDK's own.
            self.ledger.put(dataset, path, record._replace(mtime_ns=mtime_ns, is_ours=True, is_synced=False))
            self._make_room(dataset, path)
            make_folders(target.parent)
            move_file(temporary, target)
            try:
                self._check_collision(dataset, path)
            except CacheError:
                target.unlink()  # two came at the same time: neither may stand for the other
                raise
            self._parts.note_unsynced(dataset, path, mtime_ns)
            if self._parts.is_sync_due():
                self.sync()
        return target

    def _make_room(self, dataset: str, path: str) -> None:
        """Remove files of our own that lie where a folder has to be, or in the folder where the file has to be."""
        above = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        below = self.ledger.list_ours_below(dataset, path) if self.target(dataset, path).is_dir() else []
        for old in [*above, *below]:
            file = self.target(dataset, old)
            record = self.ledger.get(dataset, old)
            if record is not None and record.is_ours and stat_file(file) is not None:
                file.unlink()
                self.ledger.forget(dataset, [old])
                if old in below:
                    remove_empty_folders(file.parent, below=self.root)

    def write_document(self, file: Path, parts: Iterable[bytes], *, revision: str = "") -> None:
        """Write a manifest in one atomic step. A file of somebody else's that has its name is moved aside, not lost."""
        known = self.ledger.get("", file.name)  # opens the ledger: it must be there before the first manifest is
        with cache_errors(file), self.workshop.scratch(file.name) as temporary:
            if known is None and file.parent == self.root and file.exists() and read_rows_file(file) is None:
                aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.bak")
                file.rename(aside)
                log.warning("%s is no manifest; it was moved to %s", file, aside.name)
            make_folders(file.parent)
            with open(temporary, "wb") as opened:
                opened.writelines(parts)
            status = temporary.stat()
            move_file(temporary, file)
        if file.parent == self.root:
            record = UNVERIFIED._replace(size=status.st_size, mtime_ns=status.st_mtime_ns, etag=revision)
            self.ledger.put("", file.name, record)

    def is_as_written(self, file: Path, revision: str) -> bool:
        """Tell whether a manifest in the cache folder is as `write_document` left it, and of this revision."""
        with cache_errors(file):
            status, record = stat_file(file), self.ledger.get("", file.name)
        return (
            status is not None
            and record is not None
            and (status.st_size, status.st_mtime_ns, revision) == (record.size, record.mtime_ns, record.etag)
        )

    def sync(self) -> None:
        """Bring what was published to the disk, as a group, and let the ledger vouch for it after a power cut too."""
        self._sync(self._parts)

    def close(self) -> None:
        """Sync, then close this process's ledger."""
        parts = self._opened.pop()
        if parts is not None:
            self._sync(parts)
            parts.ledger.close()

    def _sync(self, parts: _Parts) -> None:
        files = parts.take_unsynced()
        if files:
            with cache_errors(self.root):
                sync_files([self.target(dataset, path) for dataset, path, _ in files])
            parts.ledger.mark_synced(files)


class _Parts:
    """What one process has open of a cache."""

    def __init__(self, ledger: Ledger, workshop: Workshop) -> None:
        self.ledger = ledger
        self.workshop = workshop
        self.unsynced: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()

    def note_unsynced(self, dataset: str, path: str, mtime_ns: int) -> None:
        with self._lock:
            self.unsynced[dataset, path] = mtime_ns

    def is_sync_due(self) -> bool:
        return len(self.unsynced) >= SYNC_FILES or time.monotonic() - self._synced_at > SYNC_AFTER_S

    def take_unsynced(self) -> list[tuple[str, str, int]]:
        with self._lock:
            files = [(dataset, path, mtime_ns) for (dataset, path), mtime_ns in self.unsynced.items()]
            self.unsynced.clear()
            self._synced_at = time.monotonic()
            return files


def check_cacheable(dataset: str) -> str:
    """Return ``dataset`` unchanged when its folder in the cache cannot be taken for anything else.

    Raises:
        InvalidPathError: It is no dataset name, this system cannot hold it, or it looks like another's manifest.
    """
    check_local(check_dataset(dataset), windows=os.name == "nt")
    if dataset.endswith(MANIFEST_SUFFIX):
        raise InvalidPathError(
            f"dataset {shown(dataset)} cannot be cached: its folder would have the name of another dataset's manifest; "
            "read it with get_file_bytes()"
        )
    if PINNED_SUFFIX.search(dataset):
        raise InvalidPathError(
            f"dataset {shown(dataset)} cannot be cached: its name looks like a revision of another dataset; "
            "read it with get_file_bytes()"
        )
    return dataset
