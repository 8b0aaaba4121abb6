"""Open and read entries that need no waiting, in the thread that answers all requests.

Whoever serves everybody may not wait for a disk. Here only that is done which the system does out of its memory: it
opens a file if it knows all folders on the way (`openat2`), and reads bytes that are in its page cache
(``RWF_NOWAIT``). Everything else is left to `LocalStorage.open` in a thread: what is not in memory, what is no plain
file behind plain folders, what has only just been written, every error, and every dataset on a network disk, where
opening a file asks the server even when all is in memory.
"""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple

from dsx_server.filesystems import find_network_disk
from dsx_server.storage.base import Identity
from dsx_server.storage.entries import SETTLE_NS, CachedEntry, is_in_state
from dsx_server.storage.openat2 import (
    FOLDER,
    HERE,
    LOOK,
    LOOK_BENEATH,
    READ,
    READ_BENEATH,
    How,
    OpenCached,
    find_open_cached,
)
from dsx_server.storage.walking import identity_of

TRUST_S = 5.0
"""So long, in s, what kind of disk a dataset is on is taken for granted."""


class NearFolder(NamedTuple):
    """The folder of a dataset on a disk of this machine.

    Attributes:
        device: The disk, as the system numbers it.
        link: Its path in the served folder if that is a link, to be followed at every opening; else None.
        until: When it is to be looked at again, on the clock of `time.monotonic`.
    """

    device: int
    link: bytes | None
    until: float


class Opener(NamedTuple):
    """Opens files on one disk of this machine without waiting.

    Attributes:
        device: The disk, as the system numbers it.
        open_cached: Opens a path in a folder.
    """

    device: int
    open_cached: OpenCached

    def open(self, folder: int, path: str) -> int:
        """Return the descriptor of a file behind plain folders; -1 when it would be waited for, or is none."""
        return self.open_cached(folder, os.fsencode(path), READ_BENEATH)


class NearFolders:
    """Knows the datasets of which entries may be opened without waiting. Threads may share it.

    Args:
        served: The served folder; a real path.
    """

    def __init__(self, served: str) -> None:
        self._served = served
        self._folders: dict[str, NearFolder] = {}
        self._looked: dict[str, float] = {}
        self.open_cached = find_open_cached()

    def find(self, dataset: str) -> NearFolder | None:
        """Return the folder of a dataset; None when it is on a network disk, or nobody looked lately."""
        folder = self._folders.get(dataset)
        return folder if folder is not None and time.monotonic() < folder.until else None

    def find_opener(self, dataset: str) -> Opener | None:
        """Return what opens entries of a dataset without waiting; None when that cannot be done."""
        folder = self.find(dataset)
        return None if folder is None or self.open_cached is None else Opener(folder.device, self.open_cached)

    def note(self, dataset: str, root: str) -> None:
        """Look where a dataset is, unless that was done lately; may block.

        Args:
            dataset: One that the served folder lists under this very name.
            root: Its real path.
        """
        now = time.monotonic()
        if self.open_cached is None or now < self._looked.get(dataset, 0.0):
            return
        self._looked[dataset] = now + TRUST_S
        place = os.path.join(self._served, dataset)  # noqa: PTH118 -- strings throughout
        try:
            device = os.stat(root).st_dev
            if find_network_disk(root) is None and not _has_other_name(self._served, dataset):
                link = None if root == place else os.fsencode(place)
                self._folders[dataset] = NearFolder(device, link, now + TRUST_S)
                return
        except OSError:
            pass  # whoever opens it learns what is wrong
        self._folders.pop(dataset, None)

    def distrust(self, dataset: str) -> None:
        """Have a dataset looked at again before anything of it is opened."""
        self._folders.pop(dataset, None)
        self._looked.pop(dataset, None)

    def make_place(self, dataset: str, path: str) -> LocalPlace:
        """Return what opens one entry; both names have passed the gate."""
        return LocalPlace(self, dataset, path, os.fsencode(f"{self._served}/{dataset}/{path}"))


class LocalPlace:
    """Where one entry lies; see `Place`. For one thread."""

    __slots__ = ("_dataset", "_folders", "_last", "_path", "_whole")

    def __init__(self, folders: NearFolders, dataset: str, path: str, whole: bytes) -> None:
        self._folders = folders
        self._dataset = dataset
        self._path = path
        self._whole = whole
        self._last: Identity | None = None
        """The state in which it was opened last; None when that was no file, or could not be done."""

    def open_cached(self) -> CachedEntry | None:
        """Open the entry if that needs no waiting; see `Place.open_cached`."""
        folder = self._folders.find(self._dataset)
        if folder is None or self._folders.open_cached is None:
            return None
        if folder.link is None:
            return self._open(HERE, self._whole, folder.device, LOOK, READ)
        at = self._folders.open_cached(HERE, folder.link, FOLDER)
        if at < 0:
            return None
        try:
            return self._open(at, os.fsencode(self._path), folder.device, LOOK_BENEATH, READ_BENEATH)
        finally:
            os.close(at)

    def _open(self, at: int, path: bytes, device: int, look: How, read: How) -> CachedEntry | None:
        """Open it, if it is a file.

        What it is, and on which disk, is asked before: opening a device may do something, and opening a file on a
        network disk may wait. What was a file on this disk when it was opened last is opened and then asked.
        """
        open_cached = self._folders.open_cached
        if open_cached is None or (self._last is None and not self._look(at, path, device, look)):
            return None
        descriptor = open_cached(at, path, read)
        if descriptor >= 0:
            try:
                status = os.fstat(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            is_file = stat.S_ISREG(status.st_mode) and status.st_dev == device
            if is_file and not 0 <= time.time_ns() - status.st_ctime_ns < SETTLE_NS:
                if self._last is None or not is_in_state(status, self._last):
                    self._last = identity_of(status)
                return CachedEntry(descriptor, self._path, self._last)
            os.close(descriptor)
        self._last = None
        return None

    def _look(self, at: int, path: bytes, device: int, look: How) -> bool:
        open_cached = self._folders.open_cached
        descriptor = -1 if open_cached is None else open_cached(at, path, look)
        if descriptor < 0:
            return False
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if status.st_dev != device:
            self._folders.distrust(self._dataset)
        return stat.S_ISREG(status.st_mode) and status.st_dev == device


def _has_other_name(served: str, dataset: str) -> bool:
    """Tell whether a dataset is found under a name that it does not have, on a disk that ignores case.

    `LocalStorage` looks for the name in a listing; one that is opened at once is looked for by the system.
    """
    other = dataset.swapcase()
    try:
        found = other != dataset and os.path.samestat(os.stat(f"{served}/{other}"), os.stat(f"{served}/{dataset}"))
    except OSError:
        return False
    return found and other not in os.listdir(served)
