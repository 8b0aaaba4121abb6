"""Datasets in ordinary folders of this machine: list, walk, open."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

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
from dsx_server.filesystems import find_network_disk, list_mounts
from dsx_server.storage.base import Identity, Listing, Watchable
from dsx_server.storage.beneath import NOT_THERE, OUT_OF_DESCRIPTORS, open_beneath
from dsx_server.storage.junk import is_dataset_name, is_junk
from dsx_server.storage.walking import Tree, identity_of, signed

SETTLE_NS = 20_000_000
"""An entry younger than this (ns) is stat'ed again before its identity is trusted.

Two writes within one tick of the kernel's clock leave equal times; a tick is at most 10 ms (CONFIG_HZ=100)."""


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
        return identity_of(os.fstat(self._descriptor)) == self.identity

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

    def has_name(self, dataset: str) -> bool:
        """Tell whether there is anything of this name."""
        return dataset in os.listdir(self._served)

    def identify_folder(self, dataset: str | None) -> tuple[int, int]:
        """Return (device, inode) of the folder of a dataset, or of the served folder."""
        folder = self._served if dataset is None else self._root(dataset)
        try:
            status = os.stat(folder)
        except OSError as error:
            raise UnreadableError(f"the served folder cannot be read on the hub: {error.strerror}") from error
        return signed(status.st_dev), signed(status.st_ino)

    def list_watchable(self) -> Mapping[str, Watchable]:
        """Return the folders on disks of this machine; on a network disk others may change what they like, unseen."""
        mounts = list_mounts()
        found = {}
        for dataset in self.list_datasets():
            real = os.path.realpath(os.path.join(self._served, dataset))  # noqa: PTH118 -- strings throughout
            with suppress(FileNotFoundError):  # it has just been removed
                status = os.stat(real)
                if not find_network_disk(real, mounts):
                    found[dataset] = Watchable(real, (signed(status.st_dev), signed(status.st_ino)))
        return found

    def walk(self, dataset: str, folder: str = "") -> Iterator[Listing]:
        """Yield the listing of every folder; see `Storage.walk`."""
        yield from Tree(dataset, self._root(dataset)).walk(folder)

    def list_folder(self, dataset: str, folder: str) -> Listing | None:
        """Return the listing of one folder; see `Storage.list_folder`."""
        return Tree(dataset, self._root(dataset)).list_folder(folder)

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
            if error.errno not in NOT_THERE:
                raise UnreadableError(
                    f"dataset {shown(dataset)} cannot be read on the hub: {error.strerror}"
                ) from error
        raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub")


def _is_dataset(item: os.DirEntry[str]) -> bool:
    try:
        check_dataset(item.name)
        return is_dataset_name(item.name) and item.is_dir()
    except (InvalidPathError, OSError):
        return False


def _settled_identity(descriptor: int) -> Identity:
    """Return the file's identity, waiting out the clock tick of a write that has only just happened."""
    for _ in range(3):
        status = os.fstat(descriptor)
        age_ns = time.time_ns() - status.st_ctime_ns
        if not 0 <= age_ns < SETTLE_NS:
            break
        time.sleep((SETTLE_NS - age_ns) / 1e9)
    return identity_of(status)


def _raise_for(error: OSError, dataset: str, path: str) -> NoReturn:
    """Translate what the system said; only "not there" becomes not found, everything else is a failure to read."""
    translated: DsxError
    if error.errno in NOT_THERE:
        translated = _entry_not_found(dataset, path)
    elif error.errno in OUT_OF_DESCRIPTORS:
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
