"""One entry for one call: from what was read ahead, from the cache, or from the hub."""

from __future__ import annotations

from pathlib import Path

from dsx._ahead import iter_bytes
from dsx._batch import Batches
from dsx._download import Downloads
from dsx._fetch import fetch_entry
from dsx._folders import Folders
from dsx._manifests import Manifests
from dsx._process import PerProcess
from dsx._readahead import ReadAhead
from dsx._reads import Origin, Read
from dsx._sinks import MemorySink
from dsx._wanted import Wanted
from dsx.errors import EntryNotFoundError
from dsx.manifest import Manifest, ManifestEntry
from dsx.protocol.paths import check_path
from dsx.protocol.text import shown


class SingleReads:
    """Gets entries of one hub, one for each call. Threads may share it.

    Args:
        batches: The hub.
        manifests: What is known of its datasets.
        folders: Where files are kept.
        reads_ahead: Whether calls that follow a manifest are served ahead.
    """

    def __init__(self, batches: Batches, manifests: Manifests, folders: Folders, *, reads_ahead: bool) -> None:
        self._transport = batches.transport
        self._batches = batches
        self._manifests = manifests
        self._folders = folders
        self.reads_ahead = reads_ahead
        self._ahead = PerProcess(lambda: ReadAhead(batches, self._is_cached))

    def get_bytes(self, dataset: str, path: str, revision: str | None) -> bytes:
        """Return the bytes of an entry; see `DatasetHubClient.get_file_bytes`."""
        manifest = self._find_manifest(dataset, revision)
        if self._transport.is_offline:
            read = Read(path, None, _name_entry(dataset, path, manifest, revision).entry)
            return next(iter_bytes(self._batches, Origin(dataset), iter([read]), skips=False))[1]
        if manifest is not None and self.reads_ahead:
            data = self._ahead.get().take(dataset, path, manifest)
            if data is not None:
                return data
        sink = MemorySink()
        fetch_entry(self._transport, _name_entry(dataset, path, manifest, revision), sink=sink)
        if self.reads_ahead:
            self._ahead.get().count(sink.size)
        return sink.data

    def get_file(self, dataset: str, path: str, revision: str | None) -> Path:
        """Return where an entry lies in the cache; see `DatasetHubClient.get_file`."""
        downloads = Downloads(self._transport, self._folders.find("get_file"))
        manifest = self._manifests.find_newest(dataset) if revision is None else self._find_manifest(dataset, revision)
        wanted = _name_entry(dataset, path, manifest, revision)
        if manifest is None or wanted.entry is None or not self.reads_ahead:
            return downloads.get(wanted)
        ahead = self._ahead.get()
        if (found := downloads.find(wanted)) is not None:
            ahead.note(dataset, path, manifest)
            return found
        data = ahead.take(dataset, path, manifest, for_files=True)
        kept = None if data is None else downloads.keep(dataset, wanted.entry, data)
        if kept is not None:
            return kept
        got = downloads.get(wanted)
        ahead.count(wanted.entry.size)
        return got

    def forget(self, dataset: str | None) -> None:
        """Throw away what is held of one dataset, or of all."""
        if self._ahead.has():
            self._ahead.get().forget(dataset)

    def close(self) -> None:
        """Throw away all that is held or on its way in this process."""
        ahead = self._ahead.pop()
        if ahead is not None:
            ahead.close()

    def _is_cached(self, dataset: str, entry: ManifestEntry) -> bool:
        """Tell whether the cache has an entry; asked for calls that put it there."""
        return Downloads(self._transport, self._folders.find("get_file")).has(dataset, entry)

    def _find_manifest(self, dataset: str, revision: str | None) -> Manifest | None:
        if revision is None:  # none is read from the disk for it: of millions of files that takes seconds
            return self._manifests.find_loaded(dataset)
        return self._manifests.get_pinned(dataset, revision)


def _name_entry(dataset: str, path: str, manifest: Manifest | None, revision: str | None) -> Wanted:
    """Say which entry is meant, with what the manifest of the revision, or the newest known, says of it."""
    entry = None if manifest is None else manifest.find(check_path(path))
    if entry is None and revision is not None:
        raise EntryNotFoundError(
            f"revision {revision} of dataset {shown(dataset)} has no {shown(path)}; "
            "get_manifest() with that revision lists its files"
        )
    return Wanted(dataset, path, entry, revision or "")
