"""The index as the routes see it: questions about datasets, answered without a look at their folders."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dsx.errors import DatasetNotFoundError, DsxError, HubUnavailableError, UnreadableError
from dsx.protocol.paths import check_dataset
from dsx.protocol.text import shown
from dsx_server.index.database import Database
from dsx_server.index.digests import Learned, find_digest, record_digests
from dsx_server.index.history import (
    Difference,
    PublishedRevision,
    compare_revisions,
    find_revision,
    list_revisions,
    note_asked,
    read_entries,
    read_entry,
)
from dsx_server.index.mounts import SERVED, forget_folders, list_noted, note_folder, read_identity, refuse_unmounted
from dsx_server.index.revisions import RevisionInfo, format_tag, read_info
from dsx_server.index.rows import Row
from dsx_server.index.snapshots import Format, Snapshot, Snapshots
from dsx_server.storage import Identity, Storage

FORGOTTEN_S = 10.0
"""The folder of a dataset that is gone is forgotten after this time, in s."""

ASKED_NOTED_S = 3600.0
"""That a revision is still read from is noted so often, in s."""


class Known(NamedTuple):
    """What the index knows of a dataset.

    Attributes:
        newest: Its newest revision; None before the first.
        failure: Why the last scan failed; None when it did not.
        is_same_folder: Whether its folder is the one that was scanned, so that no other is mounted there.
    """

    newest: RevisionInfo | None
    failure: DsxError | None
    is_same_folder: bool


class Index:
    """What the datasets of one storage hold, as the last scans found it. Threads and processes may share it.

    Args:
        state_dir: The state folder.
        storage: Where the datasets lie.

    Attributes:
        db: The index file.
        snapshots: The manifests that are ready to be sent.

    Raises:
        SettingsError: The folder cannot hold an index.
    """

    def __init__(self, state_dir: Path, storage: Storage) -> None:
        self._storage = storage
        self.db = Database(state_dir)
        self.snapshots = Snapshots(self.db, state_dir)
        self._served: tuple[int, list[str], tuple[int, int]] | None = None
        self._missing: dict[str, float] = {}
        self._asked: dict[tuple[str, str], float] = {}

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted.

        Raises:
            HubUnavailableError: There is none, and the served folder seems to be one whose disk is not mounted.
        """
        identity = self._storage.identify_folder(None)
        names = self._storage.list_datasets()
        if identity != self._storage.identify_folder(None):
            raise HubUnavailableError("the served folder was replaced by another at this moment; try again")
        served = self.db.generation, names, identity
        if served != self._served or self._missing:
            if names:
                note_folder(self.db, SERVED, identity)
            else:
                refuse_unmounted(self.db, SERVED, identity)
                forget_folders(self.db, {SERVED})
            self._forget_gone(names)
            self._served = served
        return names

    def _forget_gone(self, names: list[str]) -> None:
        """Forget the folders of datasets that are gone for a while: one that comes back may be another.

        One that is a link to a disk which is not there is not gone. And where a disk is mounted in the place of a
        folder, the folder may be missing for a moment.
        """
        now = time.monotonic()
        gone = {name for name in list_noted(self.db) - {SERVED, *names} if not self._storage.has_name(name)}
        self._missing = {name: self._missing.get(name, now) for name in gone}
        if forgotten := {name for name, since in self._missing.items() if now - since > FORGOTTEN_S}:
            forget_folders(self.db, forgotten)
            self._missing = {name: since for name, since in self._missing.items() if name not in forgotten}

    def check(self, dataset: str) -> None:
        """Make sure that there is such a dataset.

        Raises:
            DatasetNotFoundError: There is none.
            HubUnavailableError: It is a link to a folder that was there, and is not now.
        """
        if dataset not in self.list_datasets():
            check_dataset(dataset)
            if read_identity(self.db, dataset) is not None and self._storage.has_name(dataset):
                raise HubUnavailableError(
                    f"the folder that dataset {shown(dataset)} is a link to is not there: is its disk mounted?"
                )
            raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub")

    def refuse_unmounted(self, dataset: str) -> None:
        """Raise HubUnavailableError when the dataset's folder is not the one that was scanned: its disk is missing."""
        recorded = read_identity(self.db, dataset)
        if recorded is None or recorded == self._storage.identify_folder(dataset):
            return
        listing = self._storage.list_folder(dataset, "")
        if listing is not None and not (listing.names or listing.folders or listing.left_out):
            refuse_unmounted(self.db, dataset, self._storage.identify_folder(dataset))

    def find_known(self, dataset: str) -> Known:
        """Return what is known of ``dataset``.

        Raises:
            DatasetNotFoundError: There is no such dataset.
        """
        self.check(dataset)
        recorded = read_identity(self.db, dataset)
        with self.db.read() as db:
            newest = read_info(db, dataset)
            row = db.execute("SELECT failure FROM datasets WHERE name = ?", (dataset,)).fetchone()
        failure = None if row is None or row[0] is None else _make_error(*json.loads(row[0]))
        return Known(newest, failure, recorded in (None, self._storage.identify_folder(dataset)))

    def find_newest(self, dataset: str) -> RevisionInfo | None:
        """Return the newest revision published; None before the first."""
        with self.db.read() as db:
            return read_info(db, dataset)

    def open_manifest(self, dataset: str, revision: str | None, form: Format) -> Snapshot:
        """Open the manifest of one revision, or of the newest (None), whatever the dataset holds now.

        Raises:
            RevisionNotFoundError: There is no such revision of it.
        """
        return self.snapshots.open(dataset, revision, form)

    def note_asked(self, dataset: str, revision: str) -> str:
        """Note that a client has asked for a revision, so that it is kept; return the tag of its manifest.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            RevisionNotFoundError: There is no such revision of it.
        """
        self.check(dataset)
        with self.db.read() as db:
            find_revision(db, dataset, revision)
            version: int = db.execute("SELECT digest_version FROM datasets WHERE name = ?", (dataset,)).fetchone()[0]
        self._note_asked(dataset, revision)
        return format_tag(revision, version)

    def _note_asked(self, dataset: str, revision: str) -> None:
        """Note now and then that a revision is used; an index that cannot be written is no reason not to read."""
        now = time.monotonic()
        if now - self._asked.get((dataset, revision), float("-inf")) > ASKED_NOTED_S:
            with suppress(HubUnavailableError):
                with self.db.write() as db:
                    note_asked(db, dataset, revision)
                self._asked[dataset, revision] = now

    def find_entry(self, dataset: str, revision: str, path: str) -> Row | None:
        """Return one entry as a revision has it, or None when that has none.

        Raises:
            RevisionNotFoundError: There is no such revision.
        """
        self.note_read(dataset, revision)
        with self.db.read() as db:
            return read_entry(db, dataset, revision, path)

    def find_entries(self, dataset: str, revision: str, paths: Sequence[str]) -> dict[str, Row]:
        """Return those of many entries that a revision has, by path; see `note_read`.

        Raises:
            RevisionNotFoundError: There is no such revision.
        """
        with self.db.read() as db:
            return read_entries(db, dataset, revision, paths)

    def note_read(self, dataset: str, revision: str) -> None:
        """Note now and then that a revision is read from, so that it is kept.

        Raises:
            RevisionNotFoundError: There is no such revision.
        """
        with self.db.read() as db:
            find_revision(db, dataset, revision)
        self._note_asked(dataset, revision)

    def list_revisions(self, dataset: str) -> list[PublishedRevision]:
        """Return the revisions that are kept, newest first.

        Raises:
            DatasetNotFoundError: There is no such dataset.
        """
        self.check(dataset)
        with self.db.read() as db:
            return list_revisions(db, dataset)

    def compare(self, dataset: str, a: str, b: str) -> Difference:
        """Return what came, changed and went from revision ``a`` to revision ``b``.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            RevisionNotFoundError: There is no such revision of it.
        """
        self.check(dataset)
        with self.db.read() as db:
            return compare_revisions(db, dataset, a, b)

    def find_digest(self, dataset: str, path: str, identity: Identity) -> str | None:
        """Return the digest of an entry in this very state; None when it is unknown."""
        with self.db.read() as db:
            return find_digest(db, dataset, path, identity)

    def record_digests(self, learned: Sequence[Learned]) -> set[str]:
        """Keep digests with the states that they are of; what the index does not know is passed over.

        Returns:
            The datasets whose manifests show more digests from now on.
        """
        with self.db.write() as db:
            return record_digests(db, learned)

    def close(self) -> None:
        """Close the index file."""
        self.db.close()


def _make_error(kind: str, message: str) -> DsxError:
    return UnreadableError(message) if kind == UnreadableError.__name__ else HubUnavailableError(message)
