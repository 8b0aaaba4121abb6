"""From the hub into the cache: one file, or many at once."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dsx._cache import Cache
from dsx._disk import cache_errors, hash_file
from dsx._fetch import UNWATCHED, Fetched, State, Wanted, Watch, fetch_entry, read_digest
from dsx._ledger import Record
from dsx._partials import Partial
from dsx._progress import Progress
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx._transport import Transport
from dsx.errors import AccessDeniedError, DownloadError, DsxError, HubTimeoutError, HubUnreachableError
from dsx.manifest import Manifest, ManifestEntry
from dsx.protocol.digests import HEAD_BYTES, head_hash
from dsx.protocol.text import shown

PARALLEL_DOWNLOADS = 8
FAILURES_NAMED = 1000
HEALTH_TIMEOUT_S = 10.0
INTERRUPTED_WAIT_S = 2.0
"""How long, in s, Ctrl-C waits for downloads to put to rest what they have."""


class Downloads:
    """Puts entries of one hub into one cache. Threads may share it."""

    def __init__(self, transport: Transport, cache: Cache) -> None:
        self._transport = transport
        self._cache = cache

    def get(self, wanted: Wanted, *, watch: Watch = UNWATCHED) -> Path:
        """Return where an entry lies in the cache, fetching it if need be.

        No request is made when the ledger vouches for the file and the manifest names the same entry.

        Raises:
            ConflictError: It has to be of a revision, and has changed since.
            DsxError: It did not come, or cannot be kept.
        """
        dataset, path, entry, _ = wanted
        target = self._cache.target(dataset, path)
        record = self._cache.find(dataset, path)
        if record is not None and entry is not None and _is_same_entry(record, entry):
            watch.on_bytes(record.size)
            return target
        if record is None or not record.is_ours:
            with cache_errors(target):
                if target.is_file() and self._adopt(wanted, target):
                    return target
                self._cache.check_free(dataset, path)
        try:
            return self._fetch(wanted, record, watch)
        except (HubUnreachableError, HubTimeoutError) as error:
            if record is None or entry is not None:
                raise
            warnings.warn(f"using the cached {wanted.name}: {error}", stacklevel=3)
            return target

    def find(self, wanted: Wanted) -> Path | None:
        """Return where an entry lies, if the cache has the very one that a manifest names."""
        is_there = wanted.entry is not None and self.has(wanted.dataset, wanted.entry)
        return self._cache.target(wanted.dataset, wanted.path) if is_there else None

    def has(self, dataset: str, entry: ManifestEntry) -> bool:
        """Tell whether the cache has this very entry."""
        record = self._cache.find(dataset, entry.path)
        return record is not None and _is_same_entry(record, entry)

    def keep(self, dataset: str, entry: ManifestEntry, data: bytes) -> Path | None:
        """Put an entry that has come, verified, into the cache; None when a file of somebody else's is in its place."""
        target = self._cache.target(dataset, entry.path)
        record = self._cache.ledger.get(dataset, entry.path)
        if not (record is not None and record.is_ours) and os.path.lexists(target):
            return None
        with self._cache.download(dataset, entry.path) as partial:
            partial.begin("", len(data))
            partial.write(data)
            fetched = Fetched(True, entry.hash, entry.mtime_ns)
            return self._cache.publish(dataset, entry.path, partial, _make_record(partial, fetched))

    def get_many(self, dataset: str, paths: Sequence[str], *, manifest: Manifest, revision: str = "") -> list[Path]:
        """Put entries into the cache, several at a time, and return where they lie, in the order of ``paths``.

        Args:
            dataset: Name of the dataset.
            paths: Paths that ``manifest`` names.
            manifest: What is known of them.
            revision: Its revision when they have to be of it; empty for whatever the hub has.

        Raises:
            DownloadError: Some failed; the others are in the cache.
        """
        wanted = list(dict.fromkeys(paths))
        if len(wanted) == len(manifest):
            total_bytes = manifest.total_bytes
        else:
            total_bytes = sum(entry.size for entry in map(manifest.find, wanted) if entry is not None)
        with Progress(f"downloading {dataset}", total_bytes) as progress:
            entries = _Entries(dataset, wanted, manifest, revision)
            _Batch(self, entries, progress).run()
        self._cache.sync()
        return [self._cache.target(dataset, path) for path in paths]

    def is_hub_gone(self, error: DsxError) -> bool:
        """Tell whether ``error``, of one entry, is one of the hub: it does not even say that it is there."""
        if not isinstance(error, (HubUnreachableError, HubTimeoutError)):
            return False
        try:
            with self._transport.open("GET", "/health", timeout_s=HEALTH_TIMEOUT_S):
                return False
        except (HubUnreachableError, HubTimeoutError):
            return True
        except DsxError:
            return False

    def _fetch(self, wanted: Wanted, record: Record | None, watch: Watch) -> Path:
        dataset, path = wanted.dataset, wanted.path
        with self._cache.download(dataset, path) as partial:
            unless = record.etag if record is not None and not wanted.revision else ""
            watch.on_bytes(partial.offset)
            fetched = fetch_entry(self._transport, wanted, sink=partial, watch=watch, unless=unless)
            if not fetched.is_modified:
                return self._cache.target(dataset, path)
            return self._cache.publish(dataset, path, partial, _make_record(partial, fetched))

    def _adopt(self, wanted: Wanted, target: Path) -> bool:
        """Verify a file that the ledger does not vouch for; tell whether it is the hub's entry."""
        entry = wanted.entry
        status = target.stat()
        if entry is not None and entry.size != status.st_size:
            return False
        digest, head = hash_file(target), _read_head(target)
        record = Record(status.st_size, status.st_mtime_ns, head, digest, None, "", is_ours=False, is_synced=False)
        if entry is not None and (status.st_size <= HEAD_BYTES or entry.digest is not None):
            is_right = entry.hash == head and entry.digest in (None, digest)  # a short one's head is all there is
            record = record._replace(hub_mtime_ns=entry.mtime_ns)
        else:
            patience = Patience(FIRST_CONTACT_S)
            said = patience.run(lambda: read_digest(self._transport, wanted, size=status.st_size))
            state = State.read(said, size=status.st_size)
            is_right = state.digest == digest
            wanted.check_pinned(state)
            record = record._replace(hub_mtime_ns=state.mtime_ns, etag=said.get("ETag", ""))
        if is_right:
            self._cache.adopt(wanted.dataset, wanted.path, record)
        return is_right


class _Entries(NamedTuple):
    """Which entries one call of `Downloads.get_many` is to get."""

    dataset: str
    paths: Sequence[str]
    manifest: Manifest
    revision: str


class _Batch:
    """One call of `Downloads.get_many` at work."""

    def __init__(self, downloads: Downloads, entries: _Entries, progress: Progress) -> None:
        self._downloads = downloads
        self._dataset, self._paths, self._manifest, self._revision = entries
        self._progress = progress
        self._next = iter(self._paths)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done = 0
        self._failures: dict[str, Exception] = {}
        self._crash: BaseException | None = None

    def run(self) -> None:
        """Download until all is done, or until nothing more can succeed."""
        # Daemon threads, not a pool: after Ctrl-C nobody shall wait for a thread that waits for a silent hub.
        count = min(PARALLEL_DOWNLOADS, len(self._paths))
        threads = [threading.Thread(target=self._work, name=f"dsx-get-{n}", daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stop.set()
            for thread in threads:
                thread.join(INTERRUPTED_WAIT_S / count)
            raise
        if self._crash is not None:
            raise self._crash
        if self._failures:
            raise self._describe_failures()

    def _work(self) -> None:
        try:
            for path in self._take():
                self._get(path)
        except BaseException as error:  # noqa: BLE001 -- the outermost door of a thread: run() raises it
            self._crash = error
            self._stop.set()

    def _get(self, path: str) -> None:
        try:
            watch = Watch(self._stop, self._add_bytes)
            wanted = Wanted(self._dataset, path, self._manifest.find(path), self._revision)
            self._downloads.get(wanted, watch=watch)
        except DsxError as error:
            with self._lock:
                if not self._stop.is_set():
                    self._failures[path] = error
            if isinstance(error, AccessDeniedError) or self._downloads.is_hub_gone(error):
                self._stop.set()  # the others would fail for the same reason
        else:
            with self._lock:
                self._done += 1

    def _take(self) -> Iterator[str]:
        while not self._stop.is_set():
            with self._lock:
                path = next(self._next, None)
            if path is None:
                return
            yield path

    def _add_bytes(self, count: int) -> None:
        with self._lock:
            self._progress.add(count)

    def _describe_failures(self) -> DownloadError:
        failures = {path: self._failures[path] for path in self._paths if path in self._failures}
        lines = [f"  {shown(path)}: {error}" for path, error in list(failures.items())[:FAILURES_NAMED]]
        if len(failures) > FAILURES_NAMED:
            lines.append(f"  and {len(failures) - FAILURES_NAMED} more, all in .failures")
        left = len(self._paths) - len(failures) - self._done
        not_tried = f", {left} were not tried" if left else ""
        error = DownloadError(
            f"{len(failures)} of {len(self._paths)} files of dataset {shown(self._dataset)} could not be downloaded"
            f"{not_tried}; {self._done} are in the cache, and calling again fetches the rest:\n" + "\n".join(lines)
        )
        error.failures = failures
        error.__cause__ = next(iter(failures.values()))
        return error


def _is_same_entry(record: Record, entry: ManifestEntry) -> bool:
    return (
        (record.size, record.head_hash) == (entry.size, entry.hash)
        and entry.mtime_ns in (None, record.hub_mtime_ns)
        and entry.digest in (None, record.digest)
    )


def _make_record(partial: Partial, fetched: Fetched) -> Record:
    return Record(
        size=partial.size,
        mtime_ns=0,
        head_hash=fetched.head_hash,
        digest=partial.digest,
        hub_mtime_ns=fetched.mtime_ns,
        etag=partial.etag,
        is_ours=True,
        is_synced=False,
    )


def _read_head(file: Path) -> str:
    with open(file, "rb") as opened:
        return head_hash(opened.read(HEAD_BYTES))
