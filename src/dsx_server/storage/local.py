"""Datasets in ordinary folders of this machine: list, walk, open."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from dsx.errors import DatasetNotFoundError, InvalidPathError, UnreadableError
from dsx.protocol.paths import check_dataset, check_path
from dsx.protocol.text import shown
from dsx_server.filesystems import find_network_disk, list_mounts
from dsx_server.storage.base import Listing, Watchable
from dsx_server.storage.beneath import NOT_THERE
from dsx_server.storage.cached import LocalPlace, NearFolders
from dsx_server.storage.entries import CachedEntry, cannot_read
from dsx_server.storage.junk import has_junk, is_dataset_name, is_junk
from dsx_server.storage.reading import LocalReader
from dsx_server.storage.walking import Tree, signed


class LocalStorage:
    """The folders directly inside one served folder; see `Storage`."""

    def __init__(self, served: Path) -> None:
        self._served = os.path.realpath(served)
        self._near = NearFolders(self._served)

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted."""
        try:
            with os.scandir(self._served) as items:
                return sorted(item.name for item in items if _is_dataset(item))
        except OSError as error:
            raise cannot_read("the served folder", error) from error

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

    def open(self, dataset: str, path: str) -> CachedEntry:
        """Open one entry; see `Storage.open`."""
        check_path(path)
        root = self._root(dataset)
        self._near.note(dataset, root)
        return LocalReader(dataset, root).open(path)

    def find_place(self, dataset: str, path: str) -> LocalPlace | None:
        """Return what opens one entry without waiting; see `Places`."""
        if type(self) is not LocalStorage:
            return None  # it may have its own way to open
        try:
            check_dataset(dataset)
            check_path(path)
        except InvalidPathError:
            return None
        segments = path.split("/")
        if not is_dataset_name(dataset) or (has_junk(segments) and any(map(is_junk, segments))):
            return None
        return self._near.make_place(dataset, path)

    def get_reader(self, dataset: str) -> LocalReader:
        """Find a dataset's folder, to read many entries of it; see `Storage.get_reader`."""
        root = self._root(dataset)
        self._near.note(dataset, root)
        return LocalReader(dataset, root, self._near.find_opener(dataset))

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
                raise cannot_read(f"dataset {shown(dataset)}", error) from error
        raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub")


def _is_dataset(item: os.DirEntry[str]) -> bool:
    try:
        check_dataset(item.name)
        return is_dataset_name(item.name) and item.is_dir()
    except (InvalidPathError, OSError):
        return False
