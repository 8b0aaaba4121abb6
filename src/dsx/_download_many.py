"""From the hub into a folder, many entries at once.

The caller's thread looks for what is there already, takes what comes of batches (`_ahead`) and publishes it in groups
(`_publishing`). Long entries, whose transfers resume, and whatever is not plain go the careful way of `_download`, in
threads of their own beside it; so does everything where the hub knows no batches, or the manifest no revision that they
could be held against.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice

from dsx._ahead import Ahead
from dsx._batch import NO_BATCHES, Batches, Frames, Result
from dsx._cache import Cache
from dsx._crew import Crew
from dsx._disk import is_unwritable
from dsx._download import Downloads
from dsx._fetch import LONG_BYTES, Watch
from dsx._inventory import Inventory
from dsx._progress import Progress
from dsx._publishing import Arrival, Publisher
from dsx._reads import Origin, Read
from dsx._selecting import Selection
from dsx._transport import Answer
from dsx.errors import (
    AccessDeniedError,
    CacheError,
    ConflictError,
    DownloadError,
    DsxError,
    EntryNotFoundError,
    HubError,
)
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import head_hash
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

PARALLEL_DOWNLOADS = 8
"""How many entries go the careful way at once."""

PARALLEL_LONG = 2
"""How many long entries are fetched at once, beside the small ones."""

LOOK_ENTRIES = 1024
"""How many entries are looked for at once."""

GROUP_FILES = 500
GROUP_BYTES = 8 * 1024 * 1024
GROUP_S = 1.0
"""A group that is not full waits this long, in s, for more entries."""

QUEUED = 10_000
"""So many entries wait in memory for the careful way when all have to go it."""

BREAKS_BORNE = 8
"""How often batches may break off for good; then the rest goes the careful way."""

FAILURES_NAMED = 1000
INTERRUPTED_WAIT_S = 2.0
"""How long, in s, Ctrl-C waits for downloads to put to rest what they have."""


class OnlyBatches(Batches):
    """Batches that end where the hub knows none, instead of being read as single files into memory.

    Args:
        batches: What is known of the hub, and is to know what is found out.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__(batches.transport)
        self.most_entries, self.parallel = batches.most_entries, batches.parallel
        self._common = batches

    def hand_back(self) -> None:
        """Have what was found out of the hub known to the next call."""
        self._common.most_entries, self._common.parallel = self.most_entries, self.parallel

    def ask(
        self, origin: Origin, reads: Sequence[Read], watch: Callable[[Answer], object]
    ) -> Generator[Frames, None, None]:
        """Send one request, as `Batches.ask` does."""
        try:
            yield from super().ask(origin, reads, watch)
        except DsxError as error:
            if error.code not in NO_BATCHES:
                raise
            self._common.are_known = False
            raise HubError("the hub knows no batches") from error


class Gathering:
    """One call of ``download_dataset`` at work.

    Args:
        batches: Makes the requests.
        cache: The folder.
        selection: What is to be in it.

    Attributes:
        fetched: How many entries came from the hub and have their names.
        fetched_bytes: How many bytes of them came; without those that an interrupted call had fetched.
    """

    def __init__(self, batches: Batches, cache: Cache, selection: Selection) -> None:
        self._batches = batches
        self._cache = cache
        self._selection = selection
        self._downloads = Downloads(batches.transport, cache)
        self._inventory = Inventory(cache, selection.dataset, is_full=selection.is_full)
        self._publisher = Publisher(cache, selection.dataset)
        self._stop = threading.Event()
        self._careful = Crew(PARALLEL_DOWNLOADS, self._get, self._stop)
        self._long = Crew(PARALLEL_LONG, self._get, self._stop)
        self._group: list[Arrival] = []
        self._group_bytes = 0
        self._group_began = 0.0
        self._lock = threading.Lock()
        self._done = 0
        self.fetched = self.fetched_bytes = 0
        self._failures: dict[str, Exception] = {}

    def run(self) -> None:
        """Download until all is done, or until nothing more can succeed.

        Raises:
            DownloadError: Some entries failed; the others are in the folder.
            CacheError: The folder cannot be used, or its limit is too small for all of them.
        """
        dataset = self._selection.dataset
        self._cache.check_fits(self._selection.total_bytes, f"what is wanted of dataset {shown(dataset)}")
        self._cache.hold(dataset)
        crews = (self._careful, self._long)
        with Progress(f"downloading {self._selection.dataset}", self._selection.total_bytes) as self._progress:
            try:
                self._take_all()
                for crew in crews:
                    crew.finish()
            except BaseException:
                self._stop.set()
                deadline = time.monotonic() + INTERRUPTED_WAIT_S
                for crew in crews:
                    crew.abandon(deadline)
                raise
            finally:
                self._cache.keep_published()
        self._cache.hold(dataset)
        self._cache.sync_later()
        if self._failures:
            raise self._describe_failures()

    def _take_all(self) -> None:
        """Have small entries come in batches, as long as that works; let the rest go the careful way."""
        missing = self._iter_missing()
        breaks = 0
        while self._selection.revision and self._batches.are_known and breaks < BREAKS_BORNE:
            waiting: deque[ManifestEntry] = deque()
            try:
                self._take_batches(missing, waiting)
                if not waiting or self._stop.is_set():
                    return
            except CacheError:
                raise
            except DsxError as error:
                if not self._can_go_on(error, waiting):
                    return
                breaks += 1
                log.debug("batches of %s broke off: %s", shown(self._selection.dataset), error)
            finally:
                self._publish()
            missing = chain(waiting, missing)
        for entry in missing:
            self._careful.put(entry)
            self._careful.wait_below(QUEUED)
            if self._stop.is_set():
                return

    def _iter_missing(self) -> Iterator[ManifestEntry]:
        """Yield the small entries that are not there, and hand the others that are not to whom they are for."""
        entries = iter(self._selection.entries)
        while some := list(islice(entries, LOOK_ENTRIES)):
            if self._stop.is_set():
                return
            found = self._inventory.check(some)
            self._note_placed(found.placed)
            for entry in found.unclear:
                (self._careful if entry.size <= LONG_BYTES else self._long).put(entry)
            for entry in found.missing:
                if entry.size <= LONG_BYTES:
                    yield entry
                else:
                    self._long.put(entry)

    def _take_batches(self, missing: Iterator[ManifestEntry], waiting: deque[ManifestEntry]) -> None:
        """Take entries as they come; ``waiting`` has those that have been asked for and have not come.

        Raises:
            DsxError: What is wrong with more than one entry.
        """

        def ask() -> Iterator[Read]:
            for entry in missing:
                waiting.append(entry)
                yield Read(entry.path, None, entry, is_held_later=True)  # here, where digests are computed in any case

        origin = Origin(self._selection.dataset, self._selection.revision)
        batches = OnlyBatches(self._batches)
        try:
            with closing(Ahead(batches, origin, ask()).take()) as results:
                for _, result in results:
                    self._take(waiting.popleft(), result)
                    if self._stop.is_set():
                        return
        finally:
            batches.hand_back()

    def _can_go_on(self, error: DsxError, waiting: deque[ManifestEntry]) -> bool:
        """Tell whether more can succeed after what was wrong with more than one entry."""
        if not self._batches.are_known:
            return True
        first = waiting.popleft() if waiting else None
        if isinstance(error, AccessDeniedError) or self._downloads.is_hub_gone(error):
            if first is not None:
                self._fail(first.path, error)
            self._stop.set()
            return False
        if first is not None:
            self._careful.put(first)  # which tells whether it was this one
        return True

    def _take(self, entry: ManifestEntry, result: Result) -> None:
        """Take what came of one entry."""
        if isinstance(result, bytes):
            digest = hashlib.sha256(result).hexdigest()
            is_right = len(result) == entry.size and head_hash(result) == entry.hash
            if is_right and entry.digest in (None, digest):
                self._add(Arrival(entry, result, digest))
            else:  # damaged, or rewritten with its size, its time and its first bytes as they were
                self._careful.put(entry)
        elif isinstance(result, (ConflictError, EntryNotFoundError)):
            self._careful.put(entry)
        else:
            self._fail(entry.path, result)

    def _add(self, arrival: Arrival) -> None:
        if not self._group:
            self._group_began = time.monotonic()
        self._group.append(arrival)
        self._group_bytes += len(arrival.data)
        is_full = len(self._group) >= GROUP_FILES or self._group_bytes >= GROUP_BYTES
        if is_full or time.monotonic() - self._group_began > GROUP_S:
            self._publish()

    def _publish(self) -> None:
        """Publish what has come."""
        group, self._group, self._group_bytes = self._group, [], 0
        if not group:
            return
        self._cache.hold(self._selection.dataset)
        published = self._publisher.publish(group)
        self._note_placed(published.placed)
        self._note_fetched(len(published.placed), sum(entry.size for entry in published.placed))
        for entry in published.unclear:
            self._careful.put(entry)
        for path, error in published.failures.items():
            self._fail(path, error)
        if any(is_unwritable(error.__cause__) for error in published.failures.values()):
            self._stop.set()  # the others would be fetched in vain

    def _get(self, entry: ManifestEntry) -> None:
        """Get one entry the careful way."""
        try:
            watch = Watch(self._stop, self._add_bytes, lambda count: self._note_fetched(1, count))
            self._downloads.get(self._selection.want(entry), watch=watch, is_doubted=self._selection.is_full)
        except DsxError as error:
            self._fail(entry.path, error)
            if isinstance(error, AccessDeniedError) or self._downloads.is_hub_gone(error):
                self._stop.set()  # the others would fail for the same reason
        else:
            with self._lock:
                self._done += 1

    def _note_placed(self, entries: Sequence[ManifestEntry]) -> None:
        with self._lock:
            self._done += len(entries)
            self._progress.add(sum(entry.size for entry in entries))

    def _note_fetched(self, entries: int, count: int) -> None:
        with self._lock:
            self.fetched += entries
            self.fetched_bytes += count

    def _add_bytes(self, count: int) -> None:
        with self._lock:
            self._progress.add(count)

    def _fail(self, path: str, error: DsxError) -> None:
        with self._lock:
            if not self._stop.is_set():
                self._failures[path] = error

    def _describe_failures(self) -> DownloadError:
        failures = dict(sorted(self._failures.items()))
        lines = [f"  {shown(path)}: {error}" for path, error in list(failures.items())[:FAILURES_NAMED]]
        if len(failures) > FAILURES_NAMED:
            lines.append(f"  and {len(failures) - FAILURES_NAMED} more, all in .failures")
        count = len(self._selection.entries)
        left = count - len(failures) - self._done
        not_tried = f", {left} were not tried" if left else ""
        error = DownloadError(
            f"{len(failures)} of {count} files of dataset {shown(self._selection.dataset)} could not be downloaded"
            f"{not_tried}; {self._done} are in {self._cache.root}, and calling again fetches the rest:\n"
            + "\n".join(lines)
        )
        error.failures = failures
        error.__cause__ = next(iter(failures.values()))
        return error
