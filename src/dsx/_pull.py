"""One call of ``download_dataset``: what it is about, what it finds in the folder, and what it does."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from dsx._batch import Batches
from dsx._cache import Cache
from dsx._download_many import LOOK_ENTRIES, Gathering
from dsx._inventory import Inventory, Look
from dsx._manifests import Manifests
from dsx._mirror import list_surplus, prune_folder
from dsx._partials import measure_begun
from dsx._selecting import Selection
from dsx.errors import CacheError
from dsx.manifest import Manifest


def find_manifest(manifests: Manifests, dataset: str, revision: str | None, *, may_be_old: bool) -> Manifest:
    """Return the manifest of a revision, or the newest.

    Args:
        manifests: Has them.
        dataset: Name of the dataset.
        revision: Which; None for the newest.
        may_be_old: Whether the newest known will do when the hub cannot be reached.
    """
    if revision is None:
        return manifests.refresh(dataset, may_be_old=may_be_old)
    return manifests.get_pinned(dataset, revision)


class Tally(NamedTuple):
    """What a call has done.

    Attributes:
        fetched: How many entries came from the hub.
        fetched_bytes: How many bytes of them came in this call.
        removed: How many files were removed.
    """

    fetched: int
    fetched_bytes: int
    removed: int


@dataclass(frozen=True)
class Survey:
    """What a call finds in the folder, and so what it is going to do.

    Attributes:
        missing: The entries to be fetched.
        unclear: Those of which something is there that has to be read first, or is in the way.
        left: Both, for `Pull.run`; the other entries are there.
        surplus: Paths of the files to be removed, sorted; one that somebody has edited will stay.
        begun_bytes: How many bytes interrupted calls have fetched of them already.
        free_bytes: Room on the disk; None when the system does not say.
    """

    missing: Selection
    unclear: Selection
    left: Selection
    surplus: Sequence[str]
    begun_bytes: int
    free_bytes: int | None

    @property
    def needed_bytes(self) -> int:
        """How many bytes have to be fetched."""
        return max(0, self.missing.total_bytes - self.begun_bytes)

    @property
    def has_room(self) -> bool:
        """Whether what has to be fetched fits on the disk, as far as the system says."""
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes


class Pull:
    """Puts what is selected into a folder.

    Args:
        batches: Makes the requests.
        folder: Where the entries shall lie.
        selection: What is to be in it.
        deletes: Whether what earlier calls have put there, and is not selected, goes; nothing does when nothing is.
    """

    def __init__(self, batches: Batches, folder: Cache, selection: Selection, *, deletes: bool) -> None:
        self._batches = batches
        self._folder = folder
        self._selection = selection
        self._deletes = deletes and len(selection.entries) > 0

    def survey(self, *, notes: bool, on_seen: Callable[[int], object] = int) -> Survey:
        """Look at what is there.

        Args:
            notes: Whether the ledger notes what was read and is right; else nothing in the folder changes, and it need
                not be there.
            on_seen: Told how many entries have been looked for.

        Raises:
            CacheError: The folder cannot be used.
        """
        look = None if notes else Look(self._folder)
        try:
            missing, unclear = self._sort(look, on_seen)
            surplus = self._list_surplus(look) if self._deletes else []
        finally:
            if look is not None:
                look.close()
        return Survey(
            self._selection.take(missing),
            self._selection.take(unclear),
            self._selection.take(sorted([*missing, *unclear])),
            surplus,
            measure_begun(self._folder.private / "tmp", self._selection.dataset),
            _measure_room(self._folder.root),
        )

    def run(self, left: Selection | None = None) -> Tally:
        """Fetch what is not there, then remove what shall go.

        Args:
            left: What a survey has left to do; None for all that is selected.

        Raises:
            DownloadError: Some entries failed; the others are in the folder, and nothing was removed.
            CacheError: The folder cannot be used.
        """
        gathering = Gathering(self._batches, self._folder, self._selection if left is None else left)
        gathering.run()
        removed = prune_folder(self._folder, self._selection.dataset, self._list_kept()) if self._deletes else 0
        return Tally(gathering.fetched, gathering.fetched_bytes, removed)

    def _sort(self, look: Look | None, on_seen: Callable[[int], object]) -> tuple[array[int], array[int]]:
        """Return the rows of the entries that are missing, and of those that are unclear."""
        selection = self._selection
        inventory = Inventory(self._folder, selection.dataset, is_full=selection.is_full, look=look)
        missing, unclear = array("q"), array("q")
        entries = iter(selection.entries)
        start = 0
        while some := list(islice(entries, LOOK_ENTRIES)):
            found = inventory.check(some)
            rows = {entry.path: row for row, entry in enumerate(some, start)}
            missing.extend(sorted(rows[entry.path] for entry in found.missing))
            unclear.extend(sorted(rows[entry.path] for entry in found.unclear))
            start += len(some)
            on_seen(start)
        return missing, unclear

    def _list_surplus(self, look: Look | None) -> list[str]:
        dataset = self._selection.dataset
        ours = (self._folder.ledger if look is None else look).list_ours(dataset)
        return list(list_surplus(self._folder, dataset, ours, self._list_kept()))

    def _list_kept(self) -> set[str]:
        return {entry.path for entry in self._selection.entries}


def check_room(survey: Survey, folder: Path) -> None:
    """Make sure that what has to be fetched fits on the disk.

    Raises:
        CacheError: It does not; nothing was fetched.
    """
    if not survey.has_room:
        raise CacheError(
            f"{folder} has too little room: {survey.needed_bytes} bytes are to be fetched and {survey.free_bytes} are "
            "free; nothing was fetched; free some space, use another folder, or choose less with include and exclude"
        )


def _measure_room(folder: Path) -> int | None:
    """Return the free bytes where a folder is, or would be made."""
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return usage.free if usage.total else None  # some file systems do not count
    return None
