"""Datasets in ordinary folders of this machine: list, walk, open."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, NoReturn

from dsx.errors import (
    DatasetNotFoundError,
    DsxError,
    EntryNotFoundError,
    HubUnavailableError,
    InvalidPathError,
    UnreadableError,
)
from dsx.protocol.paths import check_dataset, check_path
from dsx.protocol.text import shown
from dsx_server.storage.base import Found, Identity
from dsx_server.storage.beneath import open_beneath, resolve_beneath
from dsx_server.storage.junk import is_dataset_name, is_junk

SETTLE_NS = 20_000_000
"""An entry younger than this (ns) is stat'ed again before its identity is trusted.

Two writes within one tick of the kernel's clock leave equal times; a tick is at most 10 ms (CONFIG_HZ=100)."""

MAX_NESTED_LINKS = 3
"""How many links to folders one path of a walk may go through; ten folders that link to one another have 10! paths."""

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


class LocalEntry:
    """One open file; see `OpenEntry`."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path
        self.identity = _settled_identity(descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """Read the bytes ``[start, stop)``; fewer when the file ends before ``stop``."""
        try:
            data = _pread(self._descriptor, stop - start, start)
            if len(data) == stop - start:
                return data
            parts = [data]
            while data and (start := start + len(data)) < stop:
                data = _pread(self._descriptor, stop - start, start)
                parts.append(data)
        except OSError as error:
            raise UnreadableError(f"{shown(self._path)} cannot be read on the hub: {error.strerror}") from error
        return b"".join(parts)

    def is_unchanged(self) -> bool:
        """Tell whether the file still is in the state it was opened in."""
        return _identity(os.fstat(self._descriptor)) == self.identity

    def close(self) -> None:
        """Close the file; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> LocalEntry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class LocalStorage:
    """The folders directly inside one served folder; see `Storage`."""

    def __init__(self, served: Path) -> None:
        self._served = os.path.realpath(served)

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted."""
        try:
            with os.scandir(self._served) as items:
                return sorted(item.name for item in items if _is_dataset(item))
        except OSError as error:
            raise UnreadableError(f"the served folder cannot be read on the hub: {error.strerror}") from error

    def identify_folder(self, dataset: str | None) -> tuple[int, int]:
        """Return (device, inode) of the folder of a dataset, or of the served folder."""
        folder = self._served if dataset is None else self._root(dataset)
        try:
            status = os.stat(folder)
        except OSError as error:
            raise UnreadableError(f"the served folder cannot be read on the hub: {error.strerror}") from error
        return status.st_dev, status.st_ino

    def walk(self, dataset: str, left_out: Counter[str]) -> Iterator[Found]:
        """Yield every entry of ``dataset``; see `Storage.walk`."""
        root = self._root(dataset)
        pending = [_Folder("", root, frozenset(), 0)]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(folder.real) as items:
                    for item in items:
                        found = _classify(root, folder, item, left_out)
                        if isinstance(found, Found):
                            yield found
                        elif found is not None:
                            pending.append(found)
            except OSError as error:
                _pass_over(error, dataset, folder, left_out)

    def open(self, dataset: str, path: str) -> LocalEntry:
        """Open one entry; see `Storage.open`."""
        check_path(path)
        root = self._root(dataset)
        if any(is_junk(segment) for segment in path.split("/")):
            raise _entry_not_found(dataset, path)
        try:
            descriptor = open_beneath(root, path)
        except OSError as error:
            _raise_for(error, dataset, path)
        try:
            return LocalEntry(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise

    def _root(self, dataset: str) -> str:
        """Return the real path of a dataset's folder.

        The name is looked for in the listing, not on the disk: a file system that ignores case would otherwise open
        ``CATS`` for ``cats``, past any rule about who may read it.
        """
        check_dataset(dataset)
        try:
            if is_dataset_name(dataset) and dataset in os.listdir(self._served):
                real = os.path.realpath(os.path.join(self._served, dataset), strict=True)  # noqa: PTH118 -- hot path
                if os.path.isdir(real):  # noqa: PTH112 -- hot path
                    return real
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise UnreadableError(
                    f"dataset {shown(dataset)} cannot be read on the hub: {error.strerror}"
                ) from error
        raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub")


class _Folder(NamedTuple):
    """A folder still to be walked."""

    path: str
    real: str
    above: frozenset[tuple[int, int]]
    links: int


def _pass_over(error: OSError, dataset: str, folder: _Folder, left_out: Counter[str]) -> None:
    """Go on without a folder, if the manifest stays true: it is gone, or is counted as one that may not be read."""
    is_whole_dataset = folder.path == ""
    if isinstance(error, PermissionError) and not is_whole_dataset:
        left_out["unreadable"] += 1
    elif error.errno in _NOT_THERE and is_whole_dataset:
        raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub any more") from error
    elif error.errno not in _NOT_THERE:
        where = f"{dataset}/{folder.path}".rstrip("/")
        raise UnreadableError(f"folder {shown(where)} cannot be read on the hub: {error.strerror}") from error


def _is_dataset(item: os.DirEntry[str]) -> bool:
    try:
        check_dataset(item.name)
        return is_dataset_name(item.name) and item.is_dir()
    except (InvalidPathError, OSError):
        return False


def _classify(root: str, folder: _Folder, item: os.DirEntry[str], left_out: Counter[str]) -> Found | _Folder | None:
    """Say what one item of a folder is: an entry, a folder to walk, or nothing, which is counted."""
    path = f"{folder.path}/{item.name}" if folder.path else item.name
    if is_junk(item.name):
        left_out["system_file"] += 1
        return None
    try:
        check_path(path)
        if item.is_symlink():
            return _classify_link(root, folder, path, left_out)
        if item.is_dir(follow_symlinks=False):
            return _Folder(path, item.path, folder.above, folder.links)
        status = item.stat(follow_symlinks=False)
    except InvalidPathError:
        left_out["name"] += 1
    except OSError:
        pass  # removed since it was listed
    else:
        if stat.S_ISREG(status.st_mode):
            return Found(path, _identity(status))
        left_out["special_file"] += 1
    return None


def _classify_link(root: str, folder: _Folder, path: str, left_out: Counter[str]) -> Found | _Folder | None:
    try:
        inside = resolve_beneath(root, os.path.relpath(folder.real, root) + "/" + path.rsplit("/", 1)[-1])
        real = os.path.join(root, inside)  # noqa: PTH118 -- strings throughout this module
        status = os.stat(real, follow_symlinks=False)
    except OSError as error:
        left_out["link_loop" if error.errno == errno.ELOOP else "link_outside"] += 1
        return None
    if stat.S_ISREG(status.st_mode):
        return Found(path, _identity(status))
    if not stat.S_ISDIR(status.st_mode):
        left_out["special_file"] += 1
        return None
    above = folder.above | _identities_between(root, folder.real)
    if (status.st_dev, status.st_ino) in above or folder.links >= MAX_NESTED_LINKS:
        left_out["link_loop"] += 1
        return None
    return _Folder(path, real, above, folder.links + 1)


def _identities_between(root: str, real: str) -> frozenset[tuple[int, int]]:
    """Return (device, inode) of a folder and of every folder above it up to ``root``."""
    seen = []
    while True:
        status = os.stat(real)
        seen.append((status.st_dev, status.st_ino))
        if real == root:
            return frozenset(seen)
        real = os.path.dirname(real)  # noqa: PTH120 -- strings throughout this module


def _identity(status: os.stat_result) -> Identity:
    return Identity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _settled_identity(descriptor: int) -> Identity:
    """Return the file's identity, waiting out the clock tick of a write that has only just happened."""
    for _ in range(3):
        status = os.fstat(descriptor)
        age_ns = time.time_ns() - status.st_ctime_ns
        if not 0 <= age_ns < SETTLE_NS:
            break
        time.sleep((SETTLE_NS - age_ns) / 1e9)
    return _identity(status)


def _raise_for(error: OSError, dataset: str, path: str) -> NoReturn:
    """Translate what the system said; only "not there" becomes not found, everything else is a failure to read."""
    translated: DsxError
    if error.errno in _NOT_THERE:
        translated = _entry_not_found(dataset, path)
    elif error.errno in _OUT_OF_DESCRIPTORS:
        translated = HubUnavailableError("the hub has too many open files at the moment; try again")
        translated.retry_after_s = 1
    else:
        translated = UnreadableError(f"{shown(f'{dataset}/{path}')} cannot be read on the hub: {error.strerror}")
    raise translated from error


def _entry_not_found(dataset: str, path: str) -> EntryNotFoundError:
    return EntryNotFoundError(f"dataset {shown(dataset)} has no entry {shown(path)}; get_manifest() lists those it has")


def _pread_by_seeking(descriptor: int, length: int, offset: int) -> bytes:
    """Stand in for ``os.pread`` on Windows; an open entry belongs to one request, so the offset is its own."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


_pread = getattr(os, "pread", _pread_by_seeking)
