"""The digests that ``/file`` sends and learns: from memory, from the index, from the bytes that pass by."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from typing import TypeAlias

from dsx.errors import DsxError
from dsx_server.index import Index, Learned, is_racy
from dsx_server.storage import Identity

log = logging.getLogger("dsx.index")

DIGESTS_KEPT = 100_000
UNKNOWN_KEPT = 10_000

UNKNOWN_S = 5.0
"""So long, in s, the index is not asked again for a digest that it did not have, where that would cost a hop."""

RECORD_EVERY_S = 0.5
"""What was learned is written to the index so often, in s: one write for many entries."""

YOUNG_S = 5.0
"""The index believes nothing of an entry that was just written, until a later scan: so long, in s, that waits."""


Key: TypeAlias = tuple[str, str, Identity]
"""Dataset, path, and state of an entry."""


class DigestBook:
    """Digests by entry and state. Threads may share it; `close` it when done.

    Args:
        index: Has those that are known, and is told of new ones.
        learns: Whether the digest of what is served whole is computed though nobody asked for it.
    """

    def __init__(self, index: Index, *, learns: bool) -> None:
        self.learns = learns
        self._index = index
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._unknown: dict[Key, float] = {}
        self._lock = threading.Lock()
        self._learned: queue.SimpleQueue[Learned] = queue.SimpleQueue()
        self._recorder: threading.Thread | None = None
        self._is_closed = threading.Event()

    def recall(self, dataset: str, path: str, identity: Identity) -> str | None:
        """Return the digest of an entry in this state out of memory; empty when the index had none a moment ago.

        None when only `find` knows. Never blocks.
        """
        key = (dataset, path, identity)
        digest = self._known.get(key)
        if digest is None and self._unknown.get(key, 0.0) > time.monotonic():
            return ""
        return digest

    def find(self, dataset: str, path: str, identity: Identity) -> str | None:
        """Return the digest of an entry in this state; None when it is unknown. May block for a moment."""
        key = (dataset, path, identity)
        with self._lock:
            digest = self._known.get(key)
            if digest is not None:
                self._known.move_to_end(key)
                return digest
        try:
            digest = self._index.find_digest(dataset, path, identity)
        except DsxError:
            return None  # an index that cannot be read is no reason not to serve the entry
        if digest is not None:
            self._remember(key, digest)
        else:
            self._note_unknown(key)
        return digest

    def learn(self, dataset: str, path: str, identity: Identity, digest: str) -> None:
        """Keep a digest that was computed from the entry's bytes; the index has it a moment later."""
        self._remember((dataset, path, identity), digest)
        self._learned.put(Learned(dataset, path, identity, digest))
        with self._lock:
            if self._recorder is None:
                self._recorder = threading.Thread(target=self._record, name="dsx-record", daemon=True)
                self._recorder.start()

    def close(self) -> None:
        """Write what is not written yet."""
        self._is_closed.set()
        if self._recorder is not None:
            self._recorder.join(2 * RECORD_EVERY_S)

    def _note_unknown(self, key: Key) -> None:
        with self._lock:
            if len(self._unknown) >= UNKNOWN_KEPT:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[key] = time.monotonic() + UNKNOWN_S

    def _remember(self, key: Key, digest: str) -> None:
        with self._lock:
            self._known[key] = digest
            if len(self._known) > DIGESTS_KEPT:
                self._known.popitem(last=False)

    def _record(self) -> None:
        young: deque[tuple[float, Learned]] = deque()
        while not self._is_closed.wait(RECORD_EVERY_S):
            now = time.monotonic()
            ready = []
            while young and young[0][0] <= now:
                ready.append(young.popleft()[1])
            while not self._learned.empty():
                each = self._learned.get()
                if is_racy(each.identity):
                    young.append((now + YOUNG_S, each))
                else:
                    ready.append(each)
            self._write(ready)
        self._write([self._learned.get() for _ in range(self._learned.qsize())])

    def _write(self, learned: list[Learned]) -> None:
        if learned:
            try:
                self._index.record_digests(learned)
            except DsxError as error:
                log.debug("%d digests are not kept: %s", len(learned), error)
