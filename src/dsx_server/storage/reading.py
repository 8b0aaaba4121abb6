"""Read many small files of one dataset, one after another in one thread.

A file is read with as few calls of the system as can be: stat, open, read, stat, close, in a folder that is kept open.
Whatever is not plain (a link on the way, an error, a write that has only just happened) goes the careful way of
`LocalReader.open`, which also finds the right words for it.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from contextlib import ExitStack

from dsx.errors import ConflictError, DsxError, HubUnavailableError
from dsx.protocol.paths import MAX_PATH_BYTES, are_names, check_path
from dsx.protocol.text import shown
from dsx_server.storage.base import Content, Read
from dsx_server.storage.beneath import HAS_OPENAT, KeptFolders, open_beneath, open_in
from dsx_server.storage.cached import Opener
from dsx_server.storage.entries import SETTLE_NS, CachedEntry, entry_not_found, raise_for
from dsx_server.storage.junk import has_junk, is_junk
from dsx_server.storage.walking import identity_of

READ_ATTEMPTS = 3

FOLDERS_KEPT = 32
"""How many folders one call keeps open: there are as many calls at a time as there are threads."""


class _OverLimitError(Exception):
    """The entry has more bytes than may be read now."""


class LocalReader:
    """Reads entries of the dataset in one folder; see `Reader`.

    Args:
        dataset: Its name, for messages.
        root: Its real path.
        opener: Opens its files without waiting, where that can be done.
    """

    def __init__(self, dataset: str, root: str, opener: Opener | None = None) -> None:
        self._dataset = dataset
        self._root = root
        self._opener = opener

    def open(self, path: str) -> CachedEntry:
        """Open one entry; see `Storage.open`."""
        check_path(path)
        if any(is_junk(segment) for segment in path.split("/")):
            raise entry_not_found(self._dataset, path)
        try:
            descriptor = open_beneath(self._root, path)
        except OSError as error:
            raise_for(error, self._dataset, path)
        try:
            return CachedEntry(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise

    def read_many(self, reads: Sequence[Read], *, limit: int) -> list[Content | DsxError]:
        """Read what is short, until ``limit`` bytes are read; see `Reader.read_many`."""
        found: list[Content | DsxError] = []
        with ExitStack() as stack:
            folders = self._keep_folders(reads, stack)
            try:
                for read in reads:
                    content = None if folders is None else self._read_plain(folders, read, limit)
                    result = content or self._read_carefully(read, limit)
                    if isinstance(result, Content):
                        limit -= len(result.data)
                    found.append(result)
            except _OverLimitError:
                pass
        return found

    def _keep_folders(self, reads: Sequence[Read], stack: ExitStack) -> KeptFolders | None:
        """Return what opens the folders of these entries; None when not all of the paths are plain."""
        paths = [read[0] for read in reads]
        if not HAS_OPENAT or not _are_plain(paths):
            return None
        try:
            return stack.enter_context(KeptFolders(self._root, FOLDERS_KEPT))
        except OSError:
            return None

    def _read_plain(self, folders: KeptFolders, read: Read, limit: int) -> Content | None:
        """Read a file that lies where its path says and is at rest; None when there is more to it."""
        path, start, stop = read
        try:
            before = os.stat(path, dir_fd=folders.root, follow_symlinks=False)  # through links in its folders, too
            if not stat.S_ISREG(before.st_mode) or 0 <= time.time_ns() - before.st_ctime_ns < SETTLE_NS:
                return None
            wanted = _check_wanted(before.st_size, start, stop, limit)
            descriptor = self._open_plain(folders, path, before.st_dev)
            try:
                data = os.pread(descriptor, wanted, start) if wanted else b""
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        return Content(identity_of(after), data) if _is_same(before, after) and len(data) == wanted else None

    def _open_plain(self, folders: KeptFolders, path: str, device: int) -> int:
        """Open a file without following any link.

        On a disk of this machine one call of the system does it when it has all folders on the way in memory, without
        handing Python's lock to another thread meanwhile; else the folders are opened one by one, and kept.
        """
        opener = self._opener
        if opener is not None and opener.device == device:
            descriptor = opener.open(folders.root, path)
            if descriptor >= 0:
                return descriptor
        folder, _, name = path.rpartition("/")
        return open_in(folders.find(folder), name)

    def _read_carefully(self, read: Read, limit: int) -> Content | DsxError:
        path, start, stop = read
        try:
            for _ in range(READ_ATTEMPTS):
                with self.open(path) as entry:
                    wanted = _check_wanted(entry.identity.size, start, stop, limit)
                    data = entry.read(start, start + wanted) if wanted else b""
                    if entry.is_unchanged() and len(data) == wanted:
                        return Content(entry.identity, data)
        except HubUnavailableError:
            raise
        except DsxError as error:
            return error
        return ConflictError(f"{shown(path)} is being written on the hub; try again when it is at rest")


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    """Tell whether a file is in the same state; quicker than two identities."""
    return (
        before.st_ctime_ns == after.st_ctime_ns
        and before.st_mtime_ns == after.st_mtime_ns
        and before.st_size == after.st_size
        and before.st_ino == after.st_ino
        and before.st_dev == after.st_dev
    )


def _check_wanted(size: int, start: int, stop: int, limit: int) -> int:
    """Return how many bytes of an entry of this size are wanted, which must not be more than ``limit``."""
    wanted = (stop if stop < size else size) - start
    if wanted > limit:
        raise _OverLimitError
    return wanted if wanted > 0 else 0


def _are_plain(paths: list[str]) -> bool:
    """Tell quickly whether the gate admits every one of many paths, and none is junk; False may be wrong.

    Joined by slashes they have the segments that all of them have.
    """
    if not paths or 4 * max(map(len, paths)) > MAX_PATH_BYTES:
        return False
    return all(paths) and are_names(paths) and not has_junk("/".join(paths).split("/"))
