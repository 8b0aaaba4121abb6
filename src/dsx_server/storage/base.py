"""What the hub asks of a storage; narrow, so that an object store can be a second one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

from dsx.errors import DsxError


class Identity(NamedTuple):
    """What one state of an entry is known by. Equal identities mean equal bytes.

    ``ctime_ns`` is what tells two contents of equal size and mtime apart: no ordinary program can set it.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def etag(self) -> str:
        """The strong entity tag of this state, quotes included."""
        text = f"{self.size} {self.mtime_ns} {self.ctime_ns} {self.inode}"
        return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


Item: TypeAlias = tuple[str, Identity]
"""One entry in a listing: its name and its state. A plain tuple: there are millions."""

Head: TypeAlias = tuple[Identity, bytes]
"""The state of an entry when it was opened, and its first bytes."""

GONE = "gone"
UNREADABLE = "unreadable"
"""It may not be read, or the disk has a bad place just there."""


class Listing(NamedTuple):
    """What lies directly in one folder of a dataset.

    Attributes:
        folder: Its path with a slash at its end; empty for the dataset itself.
        names: Names of its entries, sorted.
        folders: Names of the folders in it that belong to the dataset, and the inode of each: another one under the
            same name is another folder.
        left_out: How many things in it are no entries, by reason.
        links: How many links are in it, whether they lead somewhere or not.
        read_items: Yields the `Item` of each entry, in order; in its place `GONE` or `UNREADABLE` where there is none.
            Not to be called after the walk that gave the listing has ended.
        read_heads: Takes names, and yields the `Head` of each, in this order; the rest is as with ``read_items``.
    """

    folder: str
    names: list[str]
    folders: list[tuple[str, int]]
    left_out: Mapping[str, int]
    links: int
    read_items: Callable[[], Iterator[Item | str]]
    read_heads: Callable[[Sequence[str]], Iterator[Head | str]]


class Watchable(NamedTuple):
    """A folder of which the system tells every change.

    Attributes:
        path: Where it really lies.
        identity: What tells it from another folder at the same place.
    """

    path: str
    identity: tuple[int, int]


class OpenEntry(AbstractContextManager["OpenEntry"], Protocol):
    """An entry that is open for reading; leaving the context closes it. Calls may block.

    Attributes:
        identity: State of the entry when it was opened.
    """

    identity: Identity

    def read(self, start: int, stop: int) -> bytes:
        """Read the bytes ``[start, stop)``; fewer when the entry ends before ``stop``.

        Raises:
            UnreadableError: The disk did not give them.
        """

    def is_unchanged(self) -> bool:
        """Tell whether the entry still is in the state of ``identity``, so that what was read is of that state."""

    def close(self) -> None:
        """Let go of the entry; may be called twice."""


class CachedEntry(OpenEntry, Protocol):
    """An open entry of which can be read without waiting what is in memory."""

    def read_cached(self, start: int, stop: int) -> bytes | bytearray | None:
        """Read the bytes ``[start, stop)`` if the entry has them and all are in memory; None otherwise.

        Never blocks; and where it gave bytes, `is_unchanged` does not block either.
        """


class Place(Protocol):
    """Where one entry lies, whether there is one or not; for one thread."""

    def open_cached(self) -> CachedEntry | None:
        """Open the entry if all that this needs is in memory; never blocks.

        None says nothing about the entry: `Storage.open` knows.
        """


class Places(Protocol):
    """What a storage may do besides, so that entries in memory are served without a hop to a thread."""

    def find_place(self, dataset: str, path: str) -> Place | None:
        """Return where an entry lies; None when such a one is never opened without waiting. Never blocks.

        Args:
            dataset: Name of a dataset; not looked at yet, nor is there one for sure.
            path: Path of an entry that has not passed the gate.
        """


Read: TypeAlias = tuple[str, int, int]
"""Bytes of an entry: its path, the first byte wanted, the first one not wanted. Both may lie past its end."""


class Content(NamedTuple):
    """What was read of an entry.

    Attributes:
        identity: The state that it is of, all of it.
        data: The bytes.
    """

    identity: Identity
    data: bytes


class Reader(Protocol):
    """Reads entries of one dataset, which was looked for once. Threads may share it. Calls may block."""

    def read_many(self, reads: Sequence[Read], *, limit: int) -> list[Content | DsxError]:
        """Read what is short, one after another, until ``limit`` bytes are read.

        Args:
            reads: What to read; the paths have not passed the gate.
            limit: The most to read, in bytes.

        Returns:
            For each read what it found, or why that is nothing: as `open` raises it, or ConflictError for an entry that
            never came to rest. There are fewer when the next one goes over the limit: none when the very first does.

        Raises:
            HubUnavailableError: The hub has too many open files.
        """

    def open(self, path: str) -> OpenEntry:
        """Open one entry; see `Storage.open`."""


class Storage(Protocol):
    """Datasets and their entries. Every method may block."""

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted."""

    def has_name(self, dataset: str) -> bool:
        """Tell whether there is anything of this name, if only a link to a folder that is not there."""

    def identify_folder(self, dataset: str | None) -> tuple[int, int]:
        """Return what tells the folder of a dataset, or the served folder (None), from another at the same place.

        Where a disk is mounted, an empty folder that has another identity than before is one whose disk is missing.
        """

    def list_watchable(self) -> Mapping[str, Watchable]:
        """Return the folders, by dataset, of which the system tells every change."""

    def walk(self, dataset: str, folder: str = "") -> Iterator[Listing]:
        """Yield the listing of ``folder`` and of every folder below it, sorted by `Listing.folder`.

        A folder that is gone is passed over, one that may not be read has a listing that says so.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read, so that the list would be silently short.
        """

    def list_folder(self, dataset: str, folder: str) -> Listing | None:
        """Return the listing of one folder; None when it is gone. Errors are those of `walk`."""

    def get_reader(self, dataset: str) -> Reader:
        """Return what reads many entries of a dataset.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: It is there, and the disk does not give it.
        """

    def open(self, dataset: str, path: str) -> OpenEntry:
        """Open one entry.

        Raises:
            InvalidPathError: The gate does not admit ``path``.
            DatasetNotFoundError: There is no such dataset.
            EntryNotFoundError: The dataset has no such entry, or what is there is none.
            UnreadableError: It is there, and the disk does not give it.
        """
