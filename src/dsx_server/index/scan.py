"""Read a dataset's folders and bring the living rows up to date. Entries that have not changed are not opened.

A folder whose listing (names, sizes, times, inodes) has the hash that the index keeps of it costs nothing more. Of
another, the rows are compared one by one with the listing, both sorted, so that memory stays with the largest folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from dsx.errors import HubUnavailableError
from dsx.protocol.digests import head_hash
from dsx.protocol.text import shown
from dsx_server.index.changes import Changes
from dsx_server.index.database import Database
from dsx_server.index.folders import KnownFolders, Look
from dsx_server.index.mounts import read_identity, refuse_unmounted
from dsx_server.index.revisions import make_key
from dsx_server.index.rows import Folder, Row, has_linked_folders, read_folder, read_known_below, read_living
from dsx_server.storage import Head, Identity, Item, Listing, Storage

RACY_NS = 2_000_000_000
"""An entry changed this recently (ns) before it was read is read again next time; FAT counts time in steps of 2 s."""

CHECK_ENTRIES = 256
"""How often, in entries, it is looked whether there is enough to be written."""

PAIRS_AT_ONCE = 2000
"""So many entries of a folder that differ from their rows are read before the next are looked for."""

PROGRESS_ENTRIES = 1000
"""How often, in entries, a scan says how far it is."""


class Scan(NamedTuple):
    """What one look at a dataset, or at some of its folders, found.

    Attributes:
        entries: How many entries the dataset has now.
        opened: How many of them had to be opened.
        states: How many states of entries came or went.
        racy: The folders with entries that have just been written: they want another look.
    """

    entries: int
    opened: int
    states: int
    racy: list[str]


class Scanner:
    """One scan of one dataset; may be made once.

    Args:
        db: The index.
        storage: Where the dataset lies.
        dataset: Its name.
        on_progress: Told how many entries were found so far.

    Attributes:
        identity: What tells the folder that is scanned from another at the same place.
    """

    def __init__(
        self, db: Database, storage: Storage, dataset: str, *, on_progress: Callable[[int], object] = bool
    ) -> None:
        self._db = db
        self._storage = storage
        self._dataset = dataset
        self._on_progress = on_progress
        self.identity = storage.identify_folder(dataset)
        with db.write() as writing:
            self._key = make_key(writing, dataset)
            generation = db.generation
        self._changes = Changes(db, self._key, generation=generation, check=self._check_folder)
        self._entries = self._told = self._opened = 0
        self._racy: list[str] = []
        self._inodes: dict[str, int] = {}

    def scan_all(self) -> Scan:
        """Look at every folder.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read.
            HubUnavailableError: The dataset's disk seems not to be mounted, or the index cannot be written.
        """
        self._scan_tree("")
        self._check_folder()
        return Scan(self._changes.entries, self._opened, self._changes.states, self._racy)

    def scan_folders(self, folders: Collection[str]) -> Scan | None:
        """Look at these folders, at new folders in them and at those that are gone. Errors are those of `scan_all`.

        Returns:
            None when that is not enough: where there are links, a change may show in other folders than where it was
            made, and another folder in the dataset's place is to be looked at as a whole.
        """
        with self._db.read() as db:
            has_links = has_linked_folders(db, self._key)
        if has_links or read_identity(self._db, self._dataset) not in (None, self.identity):
            return None
        for folder in sorted(folders):
            with self._db.read() as db:
                before = read_folder(db, self._key, folder)
            # One that is not known lies in a new folder, which is found from above, or is none of the dataset's.
            if before is not None and not self._scan_folder(before):
                return None
        return Scan(self._changes.entries, self._opened, self._changes.states, self._racy)

    def _check_folder(self) -> None:
        """Raise when another folder has taken the dataset's place since the scan began: a disk came or went."""
        if self._storage.identify_folder(self._dataset) != self.identity:
            error = HubUnavailableError(
                f"the folder of dataset {shown(self._dataset)} was replaced while it was scanned; try again"
            )
            error.retry_after_s = 1
            raise error

    def _scan_tree(self, top: str) -> None:
        """Look at a folder and at everything below it."""
        known = KnownFolders(self._db, self._key, top)
        for listing in self._storage.walk(self._dataset, top):
            before = known.take(listing.folder, on_passed=self._drop)
            self._bring_up(listing, before)
            if before is None:
                known.note_new(listing.folder)
        known.take(None, on_passed=self._drop)
        self._changes.flush()

    def _scan_folder(self, before: Folder) -> bool:
        """Look at one folder, and below it at what is new or another; tell whether that is enough."""
        listing = self._storage.list_folder(self._dataset, before.path)
        if listing is None:
            self._scan_tree(before.path)  # it is gone, and so is everything below
            return True
        if listing.links:
            return False
        if self._bring_up(listing, before):
            with self._db.read() as db:
                known = read_known_below(db, self._key, before.path)
            listed = {f"{before.path}{name}/": inode for name, inode in listing.folders}
            self._changes.flush()  # what follows reads what is known anew
            for path in sorted(known.keys() | listed.keys()):
                if known.get(path) != listed.get(path):
                    self._scan_tree(path)
        self._changes.flush()  # the next folder may lie in this one
        return True

    def _bring_up(self, listing: Listing, before: Folder | None) -> bool:
        """Bring the rows of one folder up to date; tell whether anything in it was different."""
        if listing.folder == "" and not (listing.names or listing.folders or listing.left_out):
            self._check_folder()  # what was listed may be another already
            refuse_unmounted(self._db, self._dataset, self.identity)
        self._progress(len(listing.names))
        self._inodes.update((f"{listing.folder}{name}/", inode) for name, inode in listing.folders)
        look = Look(listing, inode=self._inodes.pop(listing.folder, 0 if before is None else before.inode))
        if before is None:
            before = self._announce(look)
            self._take_in(look)
        else:
            look.take_items(listing.read_items())
            if before.state == look.hash():
                return False
            self._compare(look, before)
        self._changes.note_folder(look.make_folder(), before)
        if look.is_racy:
            self._racy.append(listing.folder)
        self._changes.flush_when_due()
        return True

    def _announce(self, look: Look) -> Folder:
        """Note a new folder before its rows, so that a scan that is broken off among them leaves no rows unknown."""
        new = Folder(look.listing.folder, look.inode, None, {}, 0)
        self._changes.note_folder(new, None)
        return new

    def _take_in(self, look: Look) -> None:
        """Read all entries of a new folder: what opening them says of their states need not be asked before."""
        names = look.listing.names
        for name, head in zip(names, look.listing.read_heads(names), strict=True):
            if isinstance(head, str):
                look.miss(head)
            else:
                look.take(name, head[0])
                self._renew(look, name, head, None)
        self._opened += len(names)

    def _compare(self, look: Look, before: Folder) -> None:
        """Bring rows and listing of a known folder together, some thousand of those that differ at a time."""
        with self._db.read() as db:
            pairs = self._match(look.iter_items(), read_living(db, self._key, before.path))
            while some := list(islice(pairs, PAIRS_AT_ONCE)):
                self._renew_some(look, some)

    def _renew_some(self, look: Look, pairs: Sequence[tuple[Item, Row | None]]) -> None:
        heads = look.listing.read_heads([item[0] for item, _ in pairs])
        for (item, row), head in zip(pairs, heads, strict=True):
            if isinstance(head, str):
                look.miss(head)
                if row is not None:
                    self._kill(row)
                continue
            if head[0] != item[1]:
                look.is_racy = True
            self._renew(look, item[0], head, row)
        self._opened += len(pairs)

    def _kill(self, row: Row) -> None:
        """End the life of a row whose entry is gone."""
        self._changes.kill(row)
        if self._changes.states % CHECK_ENTRIES == 0:
            self._changes.flush_when_due()

    def _match(self, items: Iterable[Item], rows: Iterator[Row]) -> Iterator[tuple[Item, Row | None]]:
        """Yield what has to be read, with the row that there is; rows of what is gone are killed on the way."""
        row = next(rows, None)
        for item in items:
            name = item[0]
            while row is not None and (at := row.path.rpartition("/")[2]) < name:
                self._kill(row)
                row = next(rows, None)
            if row is None or at > name:
                yield item, None
                continue
            if row.racy or row.identity != item[1]:
                yield item, row
            row = next(rows, None)
        while row is not None:
            self._kill(row)
            row = next(rows, None)

    def _renew(self, look: Look, name: str, head: Head, row: Row | None) -> None:
        """Write what an entry is now."""
        identity, data = head
        racy = is_racy(identity)
        now = Row(look.listing.folder + name, identity, head_hash(data), racy, self._changes.number)
        if row is None:
            self._changes.bear(now)
        elif row.state == now.state:
            self._changes.touch(now._replace(born=row.born))
        else:
            self._changes.kill(row)
            self._changes.bear(now)
        look.is_racy = look.is_racy or racy
        look.renewed += 1
        if look.renewed % CHECK_ENTRIES == 0:
            self._changes.flush_when_due()

    def _drop(self, folder: Folder) -> None:
        """Forget a folder and the rows directly in it."""
        with self._db.read() as db:
            for row in read_living(db, self._key, folder.path):
                self._kill(row)
        self._changes.drop_folder(folder)
        self._changes.flush_when_due()

    def _progress(self, entries: int) -> None:
        self._entries += entries
        if self._entries - self._told >= PROGRESS_ENTRIES:
            self._told = self._entries
            self._on_progress(self._entries)


def is_racy(identity: Identity) -> bool:
    """Tell whether an entry was changed so recently that a later change may have left equal times."""
    now_ns = time.time_ns()
    return abs(now_ns - identity[1]) < RACY_NS or abs(now_ns - identity[2]) < RACY_NS
