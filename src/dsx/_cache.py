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

A folder of somebody's own (``dest``) is kept in the same way, but for where its entries lie: see `_layout`.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dsx._cache_parts import Parts
from dsx._disk import (
    cache_errors,
    hash_file,
    is_free_of_links,
    is_same_file,
    make_folders,
    move_file,
    remove_empty_folders,
    stat_file,
    sync_files,
)
from dsx._layout import CacheLayout
from dsx._ledger import UNVERIFIED, Ledger, Record
from dsx._manifest_files import MANIFEST_SUFFIX, read_rows_file
from dsx._partials import Partial, Workshop
from dsx._process import PerProcess
from dsx._published import format_published, restore_published
from dsx._quota import Quota, hold_file
from dsx.errors import CacheError
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

CACHE_LAYOUT = CacheLayout()


class Cache:
    """One cache folder. Threads may share it; it is made on first use, and anew in each process.

    Args:
        root: The cache folder; made when something is first put into it.
        layout: Where in it entries lie.
        limit_bytes: How many bytes the entries in it may have together; None for any number.
    """

    def __init__(self, root: Path, layout: CacheLayout = CACHE_LAYOUT, *, limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self.layout = layout
        self.private = root / ".dsx"
        self.manifests = self.private / "manifests"
        self.published = self.private / "published.json"
        self._opened = PerProcess(self._open)

    def _open(self) -> Parts:
        with cache_errors(self.root):
            self.layout.claim(self.private)
            seeds = functools.partial(self.layout.list_seeds, self.root, self.manifests)
            ledger = Ledger(self.private, seeds)
            if self.layout.is_shared:
                restore_published(ledger, self.published)
            find_prefix = functools.partial(self.layout.find_prefix, self.root)
            limit = None if self.layout.is_shared else self.limit_bytes
            quota = Quota(ledger, self.root, find_prefix, limit, is_shared=self.layout.is_shared)
            return Parts(ledger, Workshop(self.private / "tmp"), quota)

    def open(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            CacheError: It cannot be made.
        """
        self._opened.get()

    @property
    def parts(self) -> Parts:
        """What this process has open; anew when somebody has removed the folder meanwhile."""
        if self._opened.has() and not self.private.is_dir() and (gone := self._opened.pop()) is not None:
            gone.is_gone = True
            gone.ledger.close()
        return self._opened.get()

    @property
    def ledger(self) -> Ledger:
        """The ledger, open in this process."""
        return self.parts.ledger

    @property
    def workshop(self) -> Workshop:
        """The downloads under way, as this process sees them."""
        return self.parts.workshop

    def target(self, dataset: str, path: str) -> Path:
        """Return where an entry lies, whether or not it is there.

        Raises:
            InvalidPathError: The gate does not admit the name, or this system cannot hold it.
        """
        return self.layout.find_folder(self.root, dataset).joinpath(*self.layout.check_path(path).split("/"))

    def manifest_file(self, dataset: str) -> Path:
        """Return where the contract's manifest of ``dataset`` lies."""
        self.layout.check_dataset(dataset)
        return self.root / f"{dataset}{MANIFEST_SUFFIX}"

    def columns_file(self, dataset: str) -> Path:
        """Return where the SDK keeps the newest manifest of ``dataset`` for itself."""
        self.layout.check_dataset(dataset)
        return self.manifests / f"{dataset}.json"

    def pinned_file(self, dataset: str, revision: str) -> Path:
        """Return where the SDK keeps the manifest of one revision of ``dataset``."""
        self.layout.check_dataset(dataset)
        return self.manifests / f"{dataset}@{revision}.json"

    def find(self, dataset: str, path: str, *, is_doubted: bool = False) -> Record | None:
        """Return the record of an entry when the ledger vouches for the file on the disk, else None.

        A file that was touched, or whose bytes may not have reached the disk before a power cut, is hashed and compared
        with what the ledger knows of it; so is any that ``is_doubted``.
        """
        target = self.target(dataset, path)
        with cache_errors(target):
            status = stat_file(target)
            record = None if status is None else self.ledger.get(dataset, path)
            if status is None or record is None or record.size != status.st_size or not record.digest:
                return None
            if not is_doubted and self.parts.is_trusted(dataset, path, record, status):
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
        if is_there and (record is None or not record.is_ours or target.is_symlink()):
            if target.is_dir() and not target.is_symlink() and self.ledger.list_ours_below(dataset, path):
                return  # what it holds of ours makes room, and what it holds of others' is found then
            raise self._make_obstacle(target, f"dsx did not put it there, and it is not the hub's {shown(path)}")
        if is_there and not self.is_below(target) and self.find(dataset, path) is None:
            raise self._make_obstacle(target, "a link leads there, and it is not what dsx has put there")

    def is_below(self, file: Path) -> bool:
        """Tell whether a file lies in this folder, and not where a link leads that somebody has put into it."""
        return is_free_of_links(file.parent, below=self.root)

    def _make_obstacle(self, target: Path, reason: str) -> CacheError:
        return CacheError(f"{target} is in the way: {reason}; move it away, or use another {self.layout.option}")

    def _check_collision(self, dataset: str, path: str) -> None:
        for _, other in self.ledger.list_folded(dataset, [path]):
            if is_same_file(self.target(dataset, path), self.target(dataset, other)):
                raise CacheError(
                    f"{shown(path)} and {shown(other)} of dataset {shown(dataset)} would be one file in {self.root}: "
                    "its file system takes their names for the same; read one of them with get_file_bytes()"
                )

    def adopt(self, dataset: str, records: Mapping[str, Record]) -> None:
        """Vouch from now on for files that were found and verified, by path; what is somebody else's stays theirs."""
        self.ledger.adopt(dataset, records)
        self.note_unsynced(dataset, {path: record.mtime_ns for path, record in records.items()})

    def enter(self, dataset: str, records: Mapping[str, Record]) -> dict[str, CacheError]:
        """Note that files are about to get their names, before they do: whatever happens between, they are our own.

        Returns:
            Those that must not, because another dataset has put a file there, with an error each.
        """
        entered = self.parts.quota.enter(dataset, records)
        errors = {
            path: self._make_obstacle(self.target(dataset, path), f"it is the {shown(path)} of dataset {shown(other)}")
            for path, other in entered.taken.items()
        }
        return {**errors, **entered.errors}

    def note_moved(self, dataset: str, records: Mapping[str, Record]) -> None:
        """Note entries that have their names, and make sure that the ledger still says so.

        Between entry and name, another process may have put the same file there, removed it, or found it.
        """
        self.note_unsynced(dataset, {path: record.mtime_ns for path, record in records.items()})
        known = self.ledger.get_many(dataset, list(records))
        for path, record in records.items():
            if (now := known.get(path)) is None or not now.is_ours or now.mtime_ns != record.mtime_ns:
                target = self.target(dataset, path)
                status = stat_file(target)
                if status is not None and status.st_mtime_ns == record.mtime_ns and self.enter(dataset, {path: record}):
                    target.unlink(missing_ok=True)

    def check_fits(self, count: int, what: str) -> None:
        """Make sure that ``count`` bytes can be in this folder at all.

        Raises:
            CacheError: They are more than its limit; the message has the number needed.
        """
        self.parts.quota.check_fits(count, what)

    def hold(self, dataset: str, path: str | None = None) -> None:
        """Keep an entry that is about to be handed out, or a whole dataset, from being removed for ten minutes."""
        if not self.layout.is_shared:  # a folder of somebody's own has no limit
            with cache_errors(self.root):
                if path is None:
                    self.parts.quota.hold_dataset(dataset)
                else:
                    hold_file(self.target(dataset, path))

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
            hold_file(temporary)
            record = record._replace(mtime_ns=mtime_ns, is_ours=True, is_synced=False)
            for error in self.enter(dataset, {path: record}).values():
                raise error
            self._make_room(dataset, path)
            make_folders(target.parent)
            move_file(temporary, target)
            try:
                self._check_collision(dataset, path)
            except CacheError:
                target.unlink()  # two came at the same time: neither may stand for the other
                raise
            self.note_moved(dataset, {path: record})
        return target

    def note_unsynced(self, dataset: str, mtimes_ns: Mapping[str, int]) -> None:
        """Note files, by path, that have their names and are not known to be on the disk; now and then they are."""
        parts = self.parts
        parts.note_unsynced(dataset, mtimes_ns)
        if parts.is_sync_due():
            self.sync_later()

    def _make_room(self, dataset: str, path: str) -> None:
        """Remove files of our own that lie where a folder has to be, or in the folder where the file has to be."""
        above = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        target = self.target(dataset, path)
        with self.parts.room_lock:
            below = self.ledger.list_ours_below(dataset, path) if target.is_dir() else []
            for old in [*above, *below]:
                file = self.target(dataset, old)
                record = self.ledger.get(dataset, old)
                if record is not None and record.is_ours and stat_file(file) is not None:
                    file.unlink()
                    self.ledger.forget(dataset, [old])
                    if old in below:
                        remove_empty_folders(file.parent, below=target.parent)

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

    def keep_published(self) -> None:
        """Keep in a file what the ledger knows, where that ends with this process and no manifest tells it anew."""
        if self.layout.is_shared and self.ledger.is_in_memory and not self.ledger.is_full:
            try:
                self.write_document(self.published, format_published(self.ledger))
            except CacheError as error:
                log.warning("what dsx has put into %s will be taken for somebody else's: %s", self.root, error)

    def sync_later(self) -> None:
        """Begin to bring what was published to the disk, unless that is under way; nobody waits for it but the end."""
        parts = self.parts
        if parts.begin_sync():
            # No daemon: a program that ends when all is downloaded would else have it all verified the next time.
            thread = threading.Thread(target=self._sync_behind, args=(parts,), name="dsx-sync")
            try:
                thread.start()
            except RuntimeError:  # this process is ending, or has too many threads
                parts.is_syncing = False

    def _sync_behind(self, parts: Parts) -> None:
        try:
            self._sync(parts)
        except CacheError as error:
            log.warning("published files may not be on the disk, and are verified again when they are used: %s", error)
        finally:
            parts.is_syncing = False

    def sync(self) -> None:
        """Bring what was published to the disk, as a group, and let the ledger vouch for it after a power cut too."""
        self._sync(self.parts)

    def close(self) -> None:
        """Sync, then close this process's ledger."""
        parts = self._opened.pop()
        if parts is not None:
            self._sync(parts)
            with parts.sync_lock:
                parts.is_closed = True
                parts.ledger.close()

    def _sync(self, parts: Parts) -> None:
        with parts.sync_lock:
            if parts.is_closed:
                return
            for dataset, files in parts.take_unsynced().items():
                folder = self.layout.find_folder(self.root, dataset)
                with cache_errors(self.root):
                    sync_files([folder / path for path in files])
                if not parts.is_gone:
                    parts.ledger.mark_synced((dataset, path, mtime_ns) for path, mtime_ns in files.items())
            parts.forget_synced()
