"""List the folders of a dataset, in the order of their paths, and read the first bytes of what lies in them.

A folder is opened beneath the dataset's real folder without following a link, and everything in it is looked at
relative to it: a link that somebody swaps in meanwhile leads nowhere. Links to be followed are resolved first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

from dsx.errors import DatasetNotFoundError, HubUnavailableError, InvalidPathError, UnreadableError
from dsx.protocol.digests import HEAD_BYTES
from dsx.protocol.paths import MAX_PATH_BYTES, are_names, check_path
from dsx.protocol.text import shown
from dsx_server.storage.base import GONE, UNREADABLE, Head, Identity, Item, Listing
from dsx_server.storage.beneath import (
    NOT_THERE,
    OUT_OF_DESCRIPTORS,
    open_beneath,
    open_folder_beneath,
    open_in,
    resolve_beneath,
)
from dsx_server.storage.crew import Crew
from dsx_server.storage.junk import has_junk, is_junk

MAX_NESTED_LINKS = 3
"""How many links to folders one path of a walk may go through; ten folders that link to one another have 10! paths."""

FOLDERS_AHEAD = 8
"""How many folders are listed ahead where the disk is slow."""

NAMES_AT_ONCE = 1000
"""How many names are looked at together."""

# What is wrong with one entry alone; anything else is wrong with the disk, and no reason to leave entries out. A bad
# place in the middle of a disk is found by reading.
_ITS_OWN = {errno.EACCES, errno.EPERM}
_ITS_OWN_IN_READING = _ITS_OWN | {errno.EIO}

_TYPE, _REGULAR = 0o170000, stat.S_IFREG
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Tree:
    """The folder of one dataset.

    Args:
        dataset: Its name, for messages.
        root: Its real path.
    """

    def __init__(self, dataset: str, root: str) -> None:
        self._dataset = dataset
        self._root = root

    def walk(self, folder: str) -> Iterator[Listing]:
        """Yield the listing of ``folder`` and of every folder below it; see `Storage.walk`."""
        pending: list[tuple[_Folder, Future[_Seen | None] | None]] = [(each, None) for each in self._find(folder)]
        with Crew() as crew, ThreadPoolExecutor(FOLDERS_AHEAD, thread_name_prefix="dsx-list") as threads:
            while pending:
                at, coming = pending.pop()
                seen = self._look(at, crew) if coming is None else coming.result()
                if seen is None:
                    continue
                yield seen.listing
                pending += [(below, None) for below in reversed(seen.below)]
                if crew.is_slow:
                    for place in range(max(0, len(pending) - FOLDERS_AHEAD), len(pending)):
                        below, coming = pending[place]
                        if coming is None:
                            pending[place] = below, threads.submit(self._look, below, crew)

    def list_folder(self, folder: str) -> Listing | None:
        """Return the listing of one folder; None when it is gone, or is reached through a link."""
        for at in self._find(folder):
            seen = self._look(at, Crew())
            return None if seen is None else seen.listing
        return None

    def _find(self, folder: str) -> list[_Folder]:
        """Return the folder of this path, where to begin; nothing when there can be none."""
        try:
            real = os.path.join(self._root, check_path(folder[:-1])) if folder else self._root  # noqa: PTH118 -- strings throughout
        except InvalidPathError:
            return []
        return [_Folder(folder, real, 0, frozenset(), 0)]

    def _look(self, folder: _Folder, crew: Crew) -> _Seen | None:
        """List one folder; None when it is gone."""
        try:
            with (
                open_folder_beneath(self._root, self._relative(folder.real)) as descriptor,
                os.scandir(folder.real if descriptor is None else descriptor) as found,
            ):
                contents = _Contents(folder, found)
        except OSError as error:
            return self._pass_over(error, folder)
        linked: dict[str, Identity] = {}
        for name in contents.links:
            self._follow(folder, name, contents, linked)
        contents.below.sort(key=lambda each: each.path)
        names = sorted(contents.names)
        listing = Listing(
            folder.path,
            names,
            [(each.path[len(folder.path) : -1], each.inode) for each in contents.below],
            dict(+contents.left_out),
            len(contents.links),
            partial(crew.map, partial(self._stat_some, folder, linked), names),
            partial(crew.map, partial(self._read_some_heads, folder, linked)),
        )
        return _Seen(listing, contents.below)

    def _follow(self, folder: _Folder, name: str, contents: _Contents, linked: dict[str, Identity]) -> None:
        """Add what a link leads to, if that lies in the dataset."""
        try:
            inside = resolve_beneath(self._root, f"{self._relative(folder.real)}/{name}".lstrip("/"))
            real = os.path.join(self._root, inside) if inside else self._root  # noqa: PTH118 -- strings throughout
            status = os.stat(real, follow_symlinks=False)
        except OSError as error:
            contents.left_out["link_loop" if error.errno == errno.ELOOP else "link_outside"] += 1
            return
        if stat.S_ISREG(status.st_mode):
            contents.names.append(name)
            linked[name] = identity_of(status)
        elif not stat.S_ISDIR(status.st_mode):
            contents.left_out["special_file"] += 1
        else:
            above = folder.above | _identities_between(self._root, folder.real)
            if (status.st_dev, status.st_ino) in above or folder.links >= MAX_NESTED_LINKS:
                contents.left_out["link_loop"] += 1
            else:
                contents.below.append(
                    _Folder(f"{folder.path}{name}/", real, signed(status.st_ino), above, folder.links + 1)
                )

    def _stat_some(self, folder: _Folder, linked: Mapping[str, Identity], names: Sequence[str]) -> list[Item | str]:
        try:
            with open_folder_beneath(self._root, self._relative(folder.real)) as descriptor:
                if descriptor is None:
                    return [_stat_entry(os.path.join(folder.real, name), name, None, linked) for name in names]  # noqa: PTH118 -- strings throughout
                return [_stat_entry(name, name, descriptor, linked) for name in names]
        except OSError as error:
            return [_say_why(error)] * len(names)

    def _read_some_heads(
        self, folder: _Folder, linked: Mapping[str, Identity], names: Sequence[str]
    ) -> list[Head | str]:
        relative = self._relative(folder.real)
        try:
            with open_folder_beneath(self._root, relative) as descriptor:
                return [self._read_head(None if name in linked else descriptor, relative, name) for name in names]
        except OSError as error:
            return [_say_why(error)] * len(names)

    def _read_head(self, at: int | None, relative: str, name: str) -> Head | str:
        try:
            if at is None:
                descriptor = open_beneath(self._root, f"{relative}/{name}" if relative else name)
            else:
                descriptor = open_in(at, name)
            try:
                status = os.fstat(descriptor)
                if status.st_mode & _TYPE != _REGULAR:
                    return GONE
                data = os.read(descriptor, HEAD_BYTES)
                while len(data) < HEAD_BYTES and len(data) < status.st_size:
                    more = os.read(descriptor, HEAD_BYTES - len(data))
                    if not more:
                        break
                    data += more
            finally:
                os.close(descriptor)
        except OSError as error:
            return _say_why(error, _ITS_OWN_IN_READING)
        return identity_of(status), data

    def _relative(self, real: str) -> str:
        return real[len(self._root) :].replace(os.sep, "/").strip("/")

    def _pass_over(self, error: OSError, folder: _Folder) -> _Seen | None:
        """Go on without a folder, if the manifest stays true: it is gone, or counted as one that may not be read."""
        is_whole_dataset = folder.path == ""
        if isinstance(error, PermissionError) and not is_whole_dataset:
            return _Seen(Listing(folder.path, [], [], {UNREADABLE: 1}, 0, lambda: iter(()), lambda _: iter(())), [])
        if error.errno not in NOT_THERE:
            where = f"{self._dataset}/{folder.path}".rstrip("/")
            raise UnreadableError(f"folder {shown(where)} cannot be read on the hub: {error.strerror}") from error
        if is_whole_dataset:
            raise DatasetNotFoundError(f"dataset {shown(self._dataset)} is not on this hub any more") from error
        return None


class _Folder(NamedTuple):
    """A folder to be listed.

    Attributes:
        path: Relative to the dataset, with a slash at its end.
        real: Where it lies, without links.
        inode: Its inode, as the folder above lists it.
        above: (device, inode) of the folders from which a link on the way leads here.
        links: How many links to folders are on the way.
    """

    path: str
    real: str
    inode: int
    above: frozenset[tuple[int, int]]
    links: int


class _Seen(NamedTuple):
    """A listing, and the folders below it that are to be listed next."""

    listing: Listing
    below: list[_Folder]


class _Contents:
    """What was found in one folder: names of entries, folders below, links to be followed, what is left out."""

    def __init__(self, folder: _Folder, found: Iterator[os.DirEntry[str]]) -> None:
        self.names: list[str] = []
        self.links: list[str] = []
        self.below: list[_Folder] = []
        self.left_out: Counter[str] = Counter()
        while some := list(islice(found, NAMES_AT_ONCE)):
            for each in self._keep_named(folder.path, some):
                self._sort_in(folder, each)

    def _sort_in(self, folder: _Folder, found: os.DirEntry[str]) -> None:
        if found.is_file(follow_symlinks=False):
            self.names.append(found.name)
        elif found.is_dir(follow_symlinks=False):
            real = os.path.join(folder.real, found.name)  # noqa: PTH118 -- strings throughout
            path = f"{folder.path}{found.name}/"
            self.below.append(_Folder(path, real, signed(found.inode()), folder.above, folder.links))
        elif found.is_symlink():
            self.links.append(found.name)
        else:
            self.left_out["special_file"] += 1

    def _keep_named(self, folder: str, found: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """Leave out what a system left behind, and names that are none; all names are looked at together first."""
        names = [each.name for each in found]
        if has_junk(names):
            kept = [each for each in found if not is_junk(each.name)]
            self.left_out["system_file"] += len(found) - len(kept)
            found, names = kept, [each.name for each in kept]
        longest = len(folder) + max(map(len, names), default=0)
        if are_names(names) and 4 * longest <= MAX_PATH_BYTES:
            return found
        kept = [each for each in found if _is_path(folder + each.name)]
        self.left_out["name"] += len(found) - len(kept)
        return kept


def identity_of(status: os.stat_result) -> Identity:
    """Return the identity of the file that was stat'ed, with numbers that fit into 64 bits and a sign.

    Times beyond the year 2262 count as that year's, and the inodes of some network disks as negative.
    """
    mtime_ns, ctime_ns, inode = status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    if not (_LOWEST <= mtime_ns <= _HIGHEST and _LOWEST <= ctime_ns <= _HIGHEST and inode <= _HIGHEST):
        mtime_ns, ctime_ns = (max(_LOWEST, min(time_ns, _HIGHEST)) for time_ns in (mtime_ns, ctime_ns))
        inode = signed(inode)
    return Identity(status.st_size, mtime_ns, ctime_ns, inode)


def signed(number: int) -> int:
    """Return an unsigned number of 64 bits as one with a sign, which is what a database holds."""
    return number if number <= _HIGHEST else number - 2**64


def _stat_entry(path: str, name: str, at: int | None, linked: Mapping[str, Identity]) -> Item | str:
    if name in linked:
        return name, linked[name]
    try:
        status = os.stat(path, dir_fd=at, follow_symlinks=False)
    except OSError as error:
        return _say_why(error)
    return name, identity_of(status)


def _say_why(error: OSError, its_own: Collection[int] = _ITS_OWN) -> str:
    """Tell an entry that is gone from one that cannot be read; what is wrong with more than that entry is an error."""
    if error.errno in NOT_THERE:
        return GONE
    if error.errno in OUT_OF_DESCRIPTORS:
        raise HubUnavailableError("the hub has too many open files at the moment; try again") from error
    if error.errno not in its_own:
        raise UnreadableError(f"the disk of the dataset cannot be read on the hub: {error.strerror}") from error
    return UNREADABLE


def _is_path(path: str) -> bool:
    try:
        check_path(path)
    except InvalidPathError:
        return False
    return True


def _identities_between(root: str, real: str) -> frozenset[tuple[int, int]]:
    """Return (device, inode) of a folder and of every folder above it up to ``root``."""
    seen = []
    while True:
        status = os.stat(real)
        seen.append((status.st_dev, status.st_ino))
        if real == root:
            return frozenset(seen)
        real = os.path.dirname(real)  # noqa: PTH120 -- strings throughout
