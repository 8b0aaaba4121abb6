"""Compute the digests of entries that nobody has read yet, while the hub has nothing else to do."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from dsx.errors import DsxError
from dsx_server.index.digests import Learned, read_unknown
from dsx_server.index.index import Index
from dsx_server.index.revisions import find_key
from dsx_server.storage import Identity, OpenEntry, Storage

log = logging.getLogger("dsx.index")

BLOCK_BYTES = 1024 * 1024
ENTRIES_AT_ONCE = 500
BATCH_BYTES = 64 * 1024 * 1024
"""So many entries, or bytes of them, are hashed before their digests are kept."""

RESTS_S = 10.0
"""A dataset of which nothing could be learned is left alone for so long, in s."""

LOOK_S = 2.0
"""How often, in s, it is looked whether there is something to do."""


class Digester:
    """A thread that hashes entries while the hub is idle; `close` ends it.

    Args:
        index: Where digests are kept.
        storage: Where the datasets lie.
        is_idle: Tells whether the hub has nothing else to do.
        on_news: Told the name of a dataset whose manifest shows more digests than before.
    """

    def __init__(
        self,
        index: Index,
        storage: Storage,
        *,
        is_idle: Callable[[], bool],
        on_news: Callable[[str], object],
    ) -> None:
        self._index = index
        self._storage = storage
        self._is_idle = is_idle
        self._on_news = on_news
        self._stop = threading.Event()
        self._not_before: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="dsx-digest", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End after the block that is being hashed."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                for dataset in self._index.list_datasets():
                    if self._not_before.get(dataset, 0.0) <= time.monotonic():
                        self._hash_dataset(dataset)
            except DsxError as error:
                log.debug("no digests are computed at the moment: %s", error)
            except Exception:  # the outermost door of this thread
                if not self._stop.is_set():
                    log.exception("computing digests failed")

    def _hash_dataset(self, dataset: str) -> None:
        """Hash all that is unknown of one dataset, in the order of the paths."""
        after = ""
        has_learned = False
        while not self._stop.is_set():
            with self._index.db.read() as db:
                key = find_key(db, dataset)
                if key is None or not _is_incomplete(db.execute(_COUNTS, (key,)).fetchone()):
                    return
                batch = read_unknown(db, key, after=after, limit=ENTRIES_AT_ONCE)
            if not batch:
                break
            after, learned = self._hash_batch(dataset, batch)
            has_learned = has_learned or learned
        if after and not has_learned:  # what is unknown cannot be read, or changes all the time
            self._not_before[dataset] = time.monotonic() + RESTS_S

    def _hash_batch(self, dataset: str, batch: Sequence[tuple[str, Identity]]) -> tuple[str, bool]:
        """Hash some entries and keep their digests; return the last path looked at, and whether there was a digest."""
        learned: list[Learned] = []
        hashed_bytes = 0
        last = ""
        for last, identity in batch:
            digest = self._hash_entry(dataset, last, identity)
            if digest is not None:
                learned.append(Learned(dataset, last, identity, digest))
            hashed_bytes += identity.size
            if hashed_bytes >= BATCH_BYTES or self._stop.is_set():
                break
        if learned and dataset in self._index.record_digests(learned):
            self._on_news(dataset)
        return last, bool(learned)

    def _hash_entry(self, dataset: str, path: str, identity: Identity) -> str | None:
        """Return the digest of an entry, or None when it is no longer in this state, or cannot be read."""
        if not self._wait_until_idle():
            return None
        try:
            with self._storage.open(dataset, path) as entry:
                return self._hash_open(entry) if entry.identity == identity else None
        except DsxError:
            return None  # the next scan says what is wrong with it

    def _hash_open(self, entry: OpenEntry) -> str | None:
        state = hashlib.sha256()
        size = entry.identity.size
        for start in range(0, size, BLOCK_BYTES):
            if not self._wait_until_idle():
                return None
            block = entry.read(start, min(start + BLOCK_BYTES, size))
            if not block:
                return None
            state.update(block)
        return state.hexdigest() if entry.is_unchanged() else None

    def _wait_until_idle(self) -> bool:
        """Wait until the hub has nothing else to do; False when it is stopping."""
        while not self._is_idle():
            if self._stop.wait(0.1):
                return False
        return not self._stop.is_set()


_COUNTS = "SELECT entries, digests FROM datasets WHERE id = ?"


def _is_incomplete(counts: tuple[int, int]) -> bool:
    entries, known = counts
    return known < entries
