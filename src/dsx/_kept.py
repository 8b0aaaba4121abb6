"""Samples from the cache; what it lacks comes from the hub, and is kept."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
from collections.abc import Iterator, Sequence

from dsx._ahead import Bring, Collector
from dsx._batch import Outlet, Result
from dsx._cache import Cache
from dsx._inventory import Inventory
from dsx._publishing import Arrival, Publisher
from dsx._quota import SPARE_PART, note_use
from dsx._reads import Read
from dsx._transport import Answer
from dsx.errors import CacheError, DsxError
from dsx.protocol.digests import head_hash
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

BLOCK_BYTES = 1024 * 1024
"""About so many bytes of files are read before they are handed on."""


class Keeper:
    """Brings entries of one dataset, each with its manifest's entry. Threads may share it.

    Args:
        cache: The cache.
        dataset: Name of the dataset.
        from_hub: Brings what the cache lacks.
    """

    def __init__(self, cache: Cache, dataset: str, from_hub: Bring) -> None:
        self._cache = cache
        self._dataset = dataset
        self._from_hub = from_hub
        self._prefix = cache.layout.find_prefix(cache.root, dataset)
        self._inventory = Inventory(cache, dataset, is_full=False)
        self._publisher = Publisher(cache, dataset)
        self._lock = threading.Lock()
        self._is_off = False

    def bring(self, reads: Sequence[Read], outlet: Outlet, stop: threading.Event) -> None:
        """Deliver the bytes of some entries, in order."""
        placed = {entry.path for entry in self._inventory.check([read.entry for read in reads if read.entry]).placed}
        merge = _Merge(self, reads, placed, outlet, stop)
        missing = [read for read in reads if read.path not in placed]
        merge.deliver([])
        if missing:
            self._from_hub(missing, merge, stop)

    def read(self, read: Read, stop: threading.Event) -> Result:
        """Return the bytes of an entry that the cache has; from the hub if it has it no longer."""
        try:
            with open(self._prefix + read.path, "rb", buffering=0) as file:
                note_use(file.fileno(), os.fstat(file.fileno()))
                data = file.read()
        except OSError:
            data = b""
        if read.entry is not None and len(data) == read.entry.size:
            return data
        collector = Collector()
        self._from_hub([read], collector, stop)
        return collector.results[0]

    def keep(self, came: Sequence[tuple[Read, Result]]) -> None:
        """Put what has come into the cache; a cache that takes nothing is said, once, and is no reason to stop."""
        arrivals = []
        for read, data in came:
            entry = read.entry
            if entry is None or not isinstance(data, bytes) or len(data) != entry.size or head_hash(data) != entry.hash:
                continue
            digest = hashlib.sha256(data).hexdigest()
            if entry.digest in (None, digest):
                arrivals.append(Arrival(entry, data, digest))
        if self._is_off or not arrivals:
            return
        with self._lock:
            failures: list[DsxError] = []
            try:
                for group in self._group(arrivals):
                    failures.extend(self._publisher.publish(group).failures.values())
            except CacheError as error:
                failures.append(error)
            if failures and not self._is_off:
                self._is_off = True
                log.warning(
                    "samples of dataset %s are not kept any more, and come from the hub: %s",
                    shown(self._dataset),
                    failures[0],
                )

    def _group(self, arrivals: Sequence[Arrival]) -> Iterator[list[Arrival]]:
        """Yield arrivals in groups that are small beside the limit of the cache: what one needs can make room."""
        limit = self._cache.limit_bytes
        most = math.inf if limit is None else limit // SPARE_PART
        group: list[Arrival] = []
        count = 0
        for arrival in arrivals:
            if group and count + len(arrival.data) > most:
                yield group
                group, count = [], 0
            group.append(arrival)
            count += len(arrival.data)
        yield group


class _Merge:
    """Takes what comes from the hub, and hands it on between what the cache has."""

    def __init__(
        self, keeper: Keeper, reads: Sequence[Read], placed: set[str], outlet: Outlet, stop: threading.Event
    ) -> None:
        self._keeper = keeper
        self._reads = reads
        self._placed = placed
        self._outlet = outlet
        self._stop = stop
        self._done = 0
        self._waiting: list[Result] = []
        self._waiting_bytes = 0

    def watch(self, answer: Answer | None) -> None:
        """Hand on."""
        self._outlet.watch(answer)

    def note_request(self, seconds: float) -> None:
        """Hand on."""
        self._outlet.note_request(seconds)

    def note_retry(self) -> None:
        """Hand on."""
        self._outlet.note_retry()

    def reserve(self, size: int) -> None:
        """Keep room for a long one."""
        self._outlet.reserve(size)

    def deliver(self, results: list[Result]) -> None:
        """Keep results from the hub, and hand them on with what the cache has between and behind them."""
        came: list[tuple[Read, Result]] = []
        self._add_placed()
        for result in results:
            came.append((self._reads[self._done], result))
            self._add(result)
            self._add_placed()
        if came:
            self._keeper.keep(came)
        self._hand_on()

    def _add_placed(self) -> None:
        while self._done < len(self._reads) and (read := self._reads[self._done]).path in self._placed:
            self._add(self._keeper.read(read, self._stop))
            if self._waiting_bytes >= BLOCK_BYTES:
                self._hand_on()

    def _add(self, result: Result) -> None:
        self._done += 1
        self._waiting.append(result)
        self._waiting_bytes += len(result) if isinstance(result, bytes) else 0

    def _hand_on(self) -> None:
        if self._waiting:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._outlet.deliver(waiting)
