"""From the hub into the cache, one file at a time: the careful way, which says of everything what it means."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from dsx._cache import Cache
from dsx._digests import read_digest
from dsx._disk import cache_errors, hash_file
from dsx._fetch import UNWATCHED, Fetched, Watch, fetch_entry
from dsx._ledger import Record
from dsx._partials import Partial
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx._transport import Transport
from dsx._wanted import State, Wanted
from dsx.errors import DsxError, HubTimeoutError, HubUnreachableError, OfflineError
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import HEAD_BYTES, head_hash

HEALTH_TIMEOUT_S = 10.0


class Downloads:
    """Puts entries of one hub into one cache. Threads may share it."""

    def __init__(self, transport: Transport, cache: Cache) -> None:
        self._transport = transport
        self._cache = cache

    def get(self, wanted: Wanted, *, watch: Watch = UNWATCHED, is_doubted: bool = False) -> Path:
        """Return where an entry lies in the cache, fetching it if need be.

        No request is made when the ledger vouches for the file and the manifest names the same entry.

        Args:
            wanted: The entry.
            watch: How the caller takes part.
            is_doubted: Whether the file is read again, whatever the ledger says.

        Raises:
            ConflictError: It has to be of a revision, and has changed since.
            DsxError: It did not come, or cannot be kept.
        """
        dataset, path, entry, _ = wanted
        target = self._cache.target(dataset, path)
        self._cache.hold(dataset, path)
        record = self._cache.find(dataset, path, is_doubted=is_doubted)
        if record is not None and entry is not None and record.is_entry(entry):
            watch.on_bytes(record.size)
            return target
        if record is None or not record.is_ours:
            with cache_errors(target):
                if target.is_file() and self._adopt(wanted, target):
                    return target
                self._cache.check_free(dataset, path)
        if entry is not None:
            self._cache.check_fits(entry.size, wanted.name)
        try:
            return self._fetch(wanted, record, watch)
        except OfflineError:
            if record is None or entry is not None:
                raise OfflineError.name(wanted.name) from None
            return target
        except (HubUnreachableError, HubTimeoutError) as error:
            if record is None or entry is not None:
                raise
            warnings.warn(f"using the cached {wanted.name}: {error}", stacklevel=3)
            return target

    def find(self, wanted: Wanted) -> Path | None:
        """Return where an entry lies, if the cache has the very one that a manifest names."""
        self._cache.hold(wanted.dataset, wanted.path)
        is_there = wanted.entry is not None and self.has(wanted.dataset, wanted.entry)
        return self._cache.target(wanted.dataset, wanted.path) if is_there else None

    def has(self, dataset: str, entry: ManifestEntry) -> bool:
        """Tell whether the cache has this very entry."""
        record = self._cache.find(dataset, entry.path)
        return record is not None and record.is_entry(entry)

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

    def is_hub_gone(self, error: DsxError) -> bool:
        """Tell whether ``error``, of one entry, is one of the hub: it does not even say that it is there."""
        if isinstance(error, OfflineError):
            return False  # which another entry, that the cache has, need not meet
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
            watch.on_bytes(resumed := partial.offset)
            fetched = fetch_entry(self._transport, wanted, sink=partial, watch=watch, unless=unless)
            if not fetched.is_modified:
                return self._cache.target(dataset, path)
            published = self._cache.publish(dataset, path, partial, _make_record(partial, fetched))
            watch.on_kept(max(0, partial.size - resumed))
            return published

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
            self._cache.adopt(wanted.dataset, {wanted.path: record})
        return is_right


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
