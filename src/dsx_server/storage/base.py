"""What the hub asks of a storage; narrow, so that an object store can be a second one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


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


class Found(NamedTuple):
    """One entry that a walk came across."""

    path: str
    identity: Identity


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


class Storage(Protocol):
    """Datasets and their entries. Every method may block."""

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted."""

    def identify_folder(self, dataset: str | None) -> tuple[int, int]:
        """Return what tells the folder of a dataset, or the served folder (None), from another at the same place.

        Where a disk is mounted, an empty folder that has another identity than before is one whose disk is missing.
        """

    def walk(self, dataset: str, left_out: Counter[str]) -> Iterator[Found]:
        """Yield every entry of ``dataset``, in no particular order, without opening any.

        Args:
            dataset: Name of a dataset.
            left_out: Counts, by reason, what is in the folder and is no entry.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read, so that the list would be silently short.
        """

    def open(self, dataset: str, path: str) -> OpenEntry:
        """Open one entry.

        Raises:
            InvalidPathError: The gate does not admit ``path``.
            DatasetNotFoundError: There is no such dataset.
            EntryNotFoundError: The dataset has no such entry, or what is there is none.
            UnreadableError: It is there, and the disk does not give it.
        """
