"""Which files a call of ``download_dataset`` is about: its arguments, checked, and what they select of a manifest."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dsx._wanted import Wanted
from dsx.errors import EntryNotFoundError, InvalidRequestError
from dsx.manifest import Manifest, ManifestEntry, columns_of
from dsx.protocol.globs import Patterns, make_filter
from dsx.protocol.paths import check_path
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

Verify = Literal["auto", "full"]

UNKNOWN_NAMED = 5

FINDS_PER_ROW = 20
"""Looking up one path takes as long as going over so many rows."""


@dataclass(frozen=True)
class Selection:
    """What is to be in the folder.

    Attributes:
        dataset: Name of the dataset.
        entries: The entries, each once.
        revision: Id of the manifest that they are from; empty when it has none.
        is_pinned: Whether they have to be of that revision; else what the hub has will do.
        is_full: Whether what is there already is read, or the ledger believed.
    """

    dataset: str
    entries: Sequence[ManifestEntry]
    revision: str
    is_pinned: bool = False
    is_full: bool = False

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes, in bytes."""
        if isinstance(self.entries, Manifest):
            return self.entries.total_bytes
        return sum(entry.size for entry in self.entries)

    def take(self, rows: Sequence[int]) -> Selection:
        """Return the entries of some rows, as a selection of their own."""
        if isinstance(self.entries, Manifest):
            return replace(self, entries=Manifest(columns_of(self.entries).take(rows)))
        return replace(self, entries=[self.entries[row] for row in rows])

    def want(self, entry: ManifestEntry) -> Wanted:
        """Say what the careful way is to get."""
        return Wanted(self.dataset, entry.path, entry, self.revision if self.is_pinned else "")


def hold_list(file_list: Iterable[str] | None) -> Sequence[str] | None:
    """Return what a caller gave as list of paths, as one that can be gone over twice: an iterator cannot.

    Raises:
        InvalidRequestError: It cannot be gone over at all.
    """
    if file_list is None or isinstance(file_list, (str, bytes)):  # these are refused later, in other words
        return file_list
    try:
        return list(file_list)
    except TypeError:
        raise InvalidRequestError(f"file_list is a list of paths, not {shown(file_list)}") from None


class Options(NamedTuple):
    """The arguments of a call, but for where from and where to; see `DatasetHubClient.download_dataset`."""

    file_list: Sequence[str] | None
    include: Patterns | None
    exclude: Patterns | None
    verify: Verify
    delete: bool

    def check(self, *, has_dest: bool) -> None:
        """Make sure that they can be meant, before anything is asked or done.

        Raises:
            InvalidRequestError: They do not go together, or one cannot be right.
        """
        listed = self.file_list
        if isinstance(listed, (str, bytes)):
            raise InvalidRequestError(f"file_list is a list of paths; for one file pass [{shown(listed)}]")
        if isinstance(listed, list) and any(isinstance(row, dict) for row in listed):
            raise InvalidRequestError('file_list is a list of paths; of rows of a manifest pass their row["path"]')
        if listed is not None and (self.include is not None or self.exclude is not None):
            raise InvalidRequestError("file_list names the files wanted; leave it out, or include and exclude")
        if self.verify not in ("auto", "full"):
            raise InvalidRequestError(f"verify is 'auto' or 'full', not {shown(self.verify)}")
        if self.delete and not has_dest:
            raise InvalidRequestError(
                "delete=True makes a folder of your own like the dataset: name it with dest; for the cache there is "
                "clear_cache()"
            )
        if self.delete and listed is not None:
            raise InvalidRequestError(
                "delete=True with a file_list would delete all that is not in the list; say with include and exclude "
                "what the folder is to have"
            )
        make_filter(self.include, self.exclude)
        for path in listed or ():
            check_path(path)

    def select(self, dataset: str, manifest: Manifest, *, is_pinned: bool) -> Selection:
        """Return what they select; where that is nothing, though the dataset has files, the log says so.

        Raises:
            EntryNotFoundError: The manifest has not all that is listed.
        """
        entries: Sequence[ManifestEntry] = manifest
        if self.file_list is not None:
            entries, unknown = pick_entries(manifest, self.file_list)
            if unknown:
                more = f" and {len(unknown) - UNKNOWN_NAMED} more" if len(unknown) > UNKNOWN_NAMED else ""
                named = ", ".join(shown(path) for path in unknown[:UNKNOWN_NAMED])
                raise EntryNotFoundError(
                    f"dataset {shown(dataset)} has no {named}{more}; nothing was downloaded; "
                    "get_manifest() lists its files"
                )
        elif self.include is not None or self.exclude is not None:
            entries = manifest.select(self.include, self.exclude)
            if len(manifest) and not len(entries):
                log.warning(
                    "none of the %d files of dataset %s matches include=%s, exclude=%s: nothing is downloaded",
                    len(manifest),
                    shown(dataset),
                    shown(self.include),
                    shown(self.exclude),
                )
        return Selection(dataset, entries, manifest.revision, is_pinned, self.verify == "full")

    def list_paths(self, selection: Selection) -> Iterable[str]:
        """Return the paths asked for, in the order asked for."""
        if self.file_list is not None:
            return self.file_list
        if isinstance(selection.entries, Manifest):
            return selection.entries.paths
        return [entry.path for entry in selection.entries]


def pick_entries(manifest: Manifest, paths: Iterable[str]) -> tuple[list[ManifestEntry], list[str]]:
    """Return the entries of some paths, sorted and each once, and the paths that the manifest does not name."""
    wanted = dict.fromkeys(paths)
    if len(wanted) * FINDS_PER_ROW < len(manifest):
        entries = [entry for entry in map(manifest.find, sorted(wanted)) if entry is not None]
    else:
        entries = [entry for entry in manifest if entry.path in wanted]
    for entry in entries:
        del wanted[entry.path]
    return entries, list(wanted)
