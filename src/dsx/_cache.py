"""The cache folder: what lies where, what may be trusted, what may be deleted.

::

    <cache>/
    ├── cats_manifest.json       the contract's manifest, a plain array
    ├── cats/train/1.png         an entry: complete and verified, or not there
    └── .dsx/
        ├── ledger.sqlite        what the SDK published; see `_ledger`
        ├── manifests/cats.json  the manifest as columns, with its validator; see `_manifests`
        └── tmp/                 downloads under way; see `_partials`

Three rules. A file gets its final name by one atomic rename, when it is complete and verified. It is used without a
request only while the ledger vouches for it. Only what the ledger lists as the SDK's own is ever replaced or deleted; a
file that a person put there is used when it verifies, and is otherwise in the way, which is an error.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsx._durable import sync_files
from dsx._ledger import UNVERIFIED, Ledger, Record
from dsx._manifest_files import MANIFEST_SUFFIX, list_named_files, read_rows_file
from dsx._partials import Partial, Workshop
from dsx._process import PerProcess
from dsx.errors import CacheError, DsxError, InvalidPathError
from dsx.protocol.paths import check_dataset, check_local, check_path
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

SYNC_FILES = 256
SYNC_AFTER_S = 2.0
HASH_BLOCK_BYTES = 1024**2


class Cache:
    """One cache folder. Threads may share it; it is made on first use, and anew in each process.

    Args:
        root: The cache folder; made when something is first put into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private = root / ".dsx"
        self._parts = PerProcess(self._open)

    def _open(self) -> _Parts:
        with cache_errors(self.root):
            self.private.mkdir(parents=True, exist_ok=True)
            seeds = functools.partial(list_named_files, self.root, self.private / "manifests")
            return _Parts(Ledger(self.private, seeds), Workshop(self.private / "tmp"))

    @property
    def ledger(self) -> Ledger:
        """The ledger, open in this process."""
        return self._parts.get().ledger

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
        """Return where the SDK keeps the manifest of ``dataset`` for itself."""
        check_cacheable(dataset)
        return self.private / "manifests" / f"{dataset}.json"

    def find(self, dataset: str, path: str) -> Record | None:
        """Return the record of an entry when the ledger vouches for the file on the disk, else None.

        A file that was touched, or whose bytes may not have reached the disk before a power cut, is hashed and compared
        with what the ledger knows of it.
        """
        target = self.target(dataset, path)
        status = _stat_file(target)
        record = self.ledger.get(dataset, path)
        if status is None or record is None or record.size != status.st_size or not record.digest:
            return None
        is_ours_now = self._parts.get().unsynced.get((dataset, path)) == record.mtime_ns
        if record.mtime_ns == status.st_mtime_ns and (record.is_synced or is_ours_now):
            return record
        with cache_errors(target):
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
        for other in self.ledger.list_folded(dataset, path):
            if _is_same_file(target, self.target(dataset, other)):
                raise CacheError(
                    f"{shown(path)} and {shown(other)} of dataset {shown(dataset)} would be one file in {self.root}: "
                    "its file system takes their names for the same; read one of them with get_file_bytes()"
                )
        record = self.ledger.get(dataset, path)
        if os.path.lexists(target) and not (record is not None and record.is_ours):
            raise CacheError(
                f"{target} is in the way: dsx did not put it there, and it is not the hub's {shown(path)}; "
                "move it away, or use another cache_dir"
            )

    def adopt(self, dataset: str, path: str, record: Record) -> None:
        """Vouch from now on for a file that somebody else put there and that was verified; it stays theirs."""
        known = self.ledger.get(dataset, path)
        self.ledger.put(dataset, path, record._replace(is_ours=known is not None and known.is_ours))

    @contextmanager
    def download(self, dataset: str, path: str) -> Iterator[Partial]:
        """Give a file to download an entry into; what is not published is kept for the next try, if worth it."""
        workshop = self._parts.get().workshop
        with cache_errors(self.root):
            partial = workshop.claim(dataset, path)
        with cache_errors(self.root):
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
            target.parent.mkdir(parents=True, exist_ok=True)
            _move(temporary, target)
            self._parts.get().unsynced[dataset, path] = mtime_ns
            if self._parts.get().is_sync_due():
                self.sync()
        return target

    def write_document(self, file: Path, data: bytes) -> None:
        """Write a manifest in one atomic step. A file of somebody else's that has its name is moved aside, not lost."""
        known = self.ledger.get("", file.name)  # opens the ledger: it must be there before the first manifest is
        with cache_errors(file), self._parts.get().workshop.scratch(file.name) as temporary:
            if known is None and file.parent == self.root and file.exists() and read_rows_file(file) is None:
                aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.bak")
                file.rename(aside)
                log.warning("%s is no manifest; it was moved to %s", file, aside.name)
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            _move(temporary, file)
        if known is None:
            self.ledger.put("", file.name, UNVERIFIED)

    def sync(self) -> None:
        """Bring what was published to the disk, as a group, and let the ledger vouch for it after a power cut too."""
        parts = self._parts.get()
        files = parts.take_unsynced()
        if files:
            with cache_errors(self.root):
                sync_files([self.target(dataset, path) for dataset, path, _ in files])
            self.ledger.mark_synced(files)

    def close(self) -> None:
        """Sync, then close this process's ledger."""
        if self._parts.has():
            self.sync()
            parts = self._parts.pop()
            if parts is not None:
                parts.ledger.close()

    def list_files(self, dataset: str) -> list[Path]:
        """Return every file of ``dataset`` that `clear` would delete."""
        ours = (self.target(dataset, path) for path in self.ledger.list_ours(dataset))
        documents = [self.manifest_file(dataset), self.columns_file(dataset)]
        resting = self._parts.get().workshop.list_resting(dataset)
        return [file for file in [*ours, *documents, *resting] if self._is_reachable(file)]

    def list_datasets(self) -> list[str]:
        """Return the names of the datasets that have something in the cache."""
        kept = {file.stem for file in (self.private / "manifests").glob("*.json")}
        return sorted(kept | set(self.ledger.list_datasets()) - {""})

    def measure(self, dataset: str | None) -> int:
        """Return the bytes that `clear` would free."""
        if not self.private.is_dir() and not any(self.root.glob(f"*{MANIFEST_SUFFIX}")):
            return 0
        names = self.list_datasets() if dataset is None else [check_cacheable(dataset)]
        return sum(file.lstat().st_size for name in names for file in self.list_files(name))

    def clear(self, dataset: str | None) -> int:
        """Delete what the SDK put there for one dataset or all, and return the bytes freed."""
        if self.measure(dataset) == 0:
            return 0
        freed = 0
        for name in self.list_datasets() if dataset is None else [dataset]:
            for file in self.list_files(name):
                with cache_errors(file):
                    size = file.lstat().st_size
                    file.unlink()
                    freed += size
                    self._remove_empty_folders(file.parent)
            self.ledger.forget(name, self.ledger.list_ours(name))
        return freed

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.root and not folder.is_relative_to(self.private):
            try:
                folder.rmdir()
            except OSError:
                return  # somebody else's files are in it
            folder = folder.parent

    def _is_reachable(self, file: Path) -> bool:
        """Tell whether ``file`` is a regular file inside the cache with no link on the way."""
        if _stat_file(file) is None:
            return False
        between = list(file.relative_to(self.root).parents)[:-1]
        return not any((self.root / folder).is_symlink() for folder in between)


class _Parts:
    """What one process has open of a cache."""

    def __init__(self, ledger: Ledger, workshop: Workshop) -> None:
        self.ledger = ledger
        self.workshop = workshop
        self.unsynced: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._synced_at = time.monotonic()

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
    return dataset


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    state = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(HASH_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()


@contextmanager
def cache_errors(where: Path) -> Iterator[None]:
    """Say what the disk said about the cache, in our words."""
    try:
        yield
    except DsxError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        cure = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder and its permissions"
        )
        raise CacheError(f"the cache cannot be used at {where}: {reason}; {cure}, or use another cache_dir") from error


def _stat_file(file: Path) -> os.stat_result | None:
    """Return the status of a regular file that is no link; None for anything else."""
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _move(temporary: Path, target: Path) -> None:
    """Give a finished file its name; where that is on another file system, by way of a copy beside it."""
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{secrets.token_hex(8)}.dsx")
        try:
            shutil.copy2(temporary, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
