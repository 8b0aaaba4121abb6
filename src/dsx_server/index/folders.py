"""Folders during a scan: what the index knew of them, and what a look at one of them finds."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from dsx_server.index.database import Database
from dsx_server.index.rows import Folder, read_folders
from dsx_server.storage import GONE, Identity, Item, Listing

FOLDERS_AT_ONCE = 1000
"""How many known folders are read from the index at once."""

NAMES_AT_ONCE = 10_000
"""How many names are hashed at once."""


class Look:
    """One look at one folder; takes 110 bytes for each entry in it.

    Args:
        listing: What lies in the folder.
        inode: The folder's.

    Attributes:
        listing: What lies in the folder.
        inode: The folder's.
        is_racy: Whether it is to be looked at again soon.
        renewed: How many rows were written anew.
    """

    def __init__(self, listing: Listing, *, inode: int) -> None:
        self.listing = listing
        self.inode = inode
        self.is_racy = False
        self.renewed = 0
        self._names: list[str] = []
        self._numbers = array("q")
        self._is_whole = True
        self._left_out = Counter(listing.left_out)

    def take(self, name: str, identity: Identity) -> None:
        """Keep an entry that is there."""
        self._names.append(name)
        self._numbers.extend(identity)

    def take_items(self, items: Iterable[Item | str]) -> None:
        """Keep the entries that are there."""
        names, numbers = self._names, self._numbers
        for item in items:
            if isinstance(item, str):
                self.miss(item)
            else:
                names.append(item[0])
                numbers.extend(item[1])

    def miss(self, reason: str) -> None:
        """An entry is not there, or cannot be read; it is looked for again next time."""
        self._is_whole = False
        if reason != GONE:
            self._left_out[reason] += 1

    def iter_items(self) -> Iterator[Item]:
        """Return the entries that are there, sorted by name."""
        numbers = iter(self._numbers)
        return zip(self._names, map(Identity._make, zip(numbers, numbers, numbers, numbers, strict=True)), strict=True)

    def hash(self) -> bytes:
        """Return what tells this state of a folder from any other; a change of an entry in place changes it too."""
        state = hashlib.blake2b(self._numbers.tobytes(), digest_size=16)
        for start in range(0, len(self._names), NAMES_AT_ONCE):
            state.update(("\0".join(self._names[start : start + NAMES_AT_ONCE]) + "\0").encode())
        rest = [self.listing.folders, sorted(self._left_out.items()), self.listing.links]
        state.update(json.dumps(rest).encode())
        return state.digest()

    def make_folder(self) -> Folder:
        """Return what the index shall know of the folder; without its state when that has to be looked at again."""
        state = self.hash() if self._is_whole and not self.is_racy else None
        return Folder(self.listing.folder, self.inode, state, dict(self._left_out), self.listing.links)


class KnownFolders:
    """The folders that the index knew when a scan began, taken in the order of their paths, a page at a time.

    A single read that goes on for as long as the scan would keep SQLite from tidying up its log behind the writes.

    Args:
        db: The index.
        key: Key of the dataset.
        top: The folder that is scanned, with all below it.
    """

    def __init__(self, db: Database, key: int, top: str) -> None:
        self._db = db
        self._key = key
        self._top = top
        self._page: deque[Folder] = deque()
        self._last: str | None = None
        self._has_more = True
        self._new: set[str] = set()
        self._fill()

    def take(self, path: str | None, *, on_passed: Callable[[Folder], object]) -> Folder | None:
        """Return what was known of the folder ``path``; those before it, which are gone, go to ``on_passed``."""
        while self._fill() and (path is None or self._page[0].path < path):
            on_passed(self._page.popleft())
        return self._page.popleft() if self._page and self._page[0].path == path else None

    def note_new(self, path: str) -> None:
        """A folder was not known before: what the index says of it comes from this scan."""
        if self._has_more:
            self._new.add(path)

    def _fill(self) -> bool:
        """Read the next page if there is nothing left of this one; tell whether there is something."""
        while not self._page and self._has_more:
            with self._db.read() as db:
                found = list(islice(read_folders(db, self._key, self._top, after=self._last), FOLDERS_AT_ONCE))
            self._has_more = len(found) == FOLDERS_AT_ONCE
            if found:
                self._last = found[-1].path
                self._page.extend(folder for folder in found if folder.path not in self._new)
                self._new = {path for path in self._new if path > self._last}
        return bool(self._page)
