"""Read-ahead for calls that ask for one entry each: what they will ask for next is on its way when they do.

What comes next is foretold by `dsx._pattern`. It is asked for in batches, in the background, and kept until a call
takes it, but only if it is what the manifest names. Whatever is wrong, the call does without and meets it itself:
nothing is tried twice here.

**In vain.** Bytes that were asked for and not taken are never more than a tenth of those that calls have got, and
1 MiB. What is on its way or held counts as in vain until it is taken, so that it does not matter when the caller stops.

**Age.** What is held is taken within `MOST_AGE_S`, or thrown away; and no more is held than is used up in `AHEAD_S` at
the pace of the last calls.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import closing

from dsx._batch import Batches
from dsx._reads import Origin, Read
from dsx._transport import Answer
from dsx._walk import OUT_OF_ORDER, Job, Walk
from dsx.errors import DsxError, IntegrityError
from dsx.manifest import Manifest, ManifestEntry
from dsx.protocol.frames import Frame, Status
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

FREE_BYTES = 1024 * 1024
"""So many bytes may be asked for in vain by a client that has read nothing,"""

SHARE = 10
"""and one in so many of those that it has read."""

HELD_BYTES = 32 * 1024 * 1024
"""So many bytes are on their way or held, at most."""

JOB_BYTES = 8 * 1024 * 1024
"""So many bytes are asked for at once, at most."""

PARALLEL = 2
"""How many requests of one walk are under way at once: while one is used up, the next comes."""

AHEAD_S = 10.0
MOST_AGE_S = 60.0

CACHE_LOOKS = 256
"""How many entries of a job are looked for in the cache; each takes as long as reading ten from memory."""

WALKS = 16
"""How many ways are followed at once, at most."""

FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0
"""How long, in s, nothing is asked for after a request failed; twice as long each time, up to this."""

CLOSING_WAIT_S = 2.0
"""How long, in s, is waited for the threads in the end; they end by themselves."""


class ReadAhead:
    """Foretells, brings and keeps what the calls of one client in one process want. Threads share it.

    Args:
        batches: Makes the requests.
        is_cached: Tells whether the cache has an entry of a dataset, as the manifest names it.
    """

    def __init__(self, batches: Batches, is_cached: Callable[[str, ManifestEntry], bool]) -> None:
        self._batches = batches
        self._is_cached = is_cached
        self._changed = threading.Condition()
        self._walks: dict[tuple[str, bool], Walk] = {}
        self._threads: list[threading.Thread] = []
        self._got = 0  # bytes that calls have got
        self._open = 0  # bytes on their way or held
        self._in_vain = 0  # bytes that came and were thrown away
        self._rests_until = 0.0
        self._rest_s = FIRST_REST_S
        self._is_closed = False
        self._process = os.getpid()
        _all.add(self)

    def take(self, dataset: str, path: object, manifest: Manifest, *, for_files: bool = False) -> bytes | None:
        """Return the bytes of an entry if they have come, or are on their way; else None. Think about the next.

        Args:
            dataset: Name of the dataset.
            path: Path of the entry.
            manifest: What names the version that is meant.
            for_files: Whether it is wanted for the cache; what that has is not brought.
        """
        if not isinstance(path, str):
            return None
        with self._changed:
            walk = self._walks.get((dataset, for_files))
            if walk is None or walk.manifest is not manifest:
                walk = self._begin_walk(dataset, manifest, for_files)
            if path in walk.coming:
                self._wait(walk, path)
                if self._walks.get((dataset, for_files)) is not walk:
                    return None
            found = walk.ready.get(path)
            if found is not None and (data := self._take_found(walk, path, *found)) is not None:
                return data
            self._note_miss(walk, path)
            return None

    def note(self, dataset: str, path: str, manifest: Manifest) -> None:
        """Learn from a call for a file that the cache has."""
        with self._changed:
            walk = self._walks.get((dataset, True))
            if walk is None or walk.manifest is not manifest:
                walk = self._begin_walk(dataset, manifest, True)
            row = walk.pattern.find_row(path)
            if row is not None:
                self._note_row(walk, row)

    def count(self, size: int) -> None:
        """Count bytes that a call has got by itself."""
        with self._changed:
            self._got += size

    def forget(self, dataset: str | None) -> None:
        """Throw away what is held of one dataset, or of all."""
        with self._changed:
            for key in [key for key in self._walks if dataset in (None, key[0])]:
                self._drop(self._walks.pop(key))

    def close(self) -> None:
        """Throw away all, let the threads end, and wait for them a moment."""
        if os.getpid() != self._process:
            return  # in a child they are not there, and their locks may be held for ever
        with self._changed:
            self._is_closed = True
            self.forget(None)
        deadline = time.monotonic() + CLOSING_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _begin_walk(self, dataset: str, manifest: Manifest, for_files: bool) -> Walk:
        key = dataset, for_files
        if key in self._walks:
            self._drop(self._walks.pop(key))
        while len(self._walks) >= WALKS:
            self._drop(self._walks.pop(next(iter(self._walks))))
        walk = self._walks[key] = Walk(dataset, manifest, for_files=for_files)
        return walk

    def _wait(self, walk: Walk, path: str) -> None:
        """Wait for what is on its way."""
        walk.waiting[path] = walk.waiting.get(path, 0) + 1
        try:
            while path in walk.coming:
                self._changed.wait()
        finally:
            walk.waiting[path] -= 1
            if not walk.waiting[path]:
                del walk.waiting[path]

    def _take_found(self, walk: Walk, path: str, row: int, data: bytes, until: float) -> bytes | None:
        """Return what was found, unless it is too old; of several calls that want it, the last takes it away."""
        if path not in walk.waiting:
            del walk.ready[path]
            self._open -= walk.cost_of(row)
        if time.monotonic() > until:
            self._in_vain += walk.cost_of(row)
            return None
        size = len(data)
        self._got += size
        walk.note_taken(size)
        if walk.pattern.is_sure:
            self._note_expected(walk, row)
        else:
            self._note_row(walk, row)
        if len(walk.jobs) < PARALLEL:
            self._begin_jobs(walk)
        return data

    def _note_miss(self, walk: Walk, path: str) -> None:
        """Learn from a call that was not foretold, or in vain."""
        row = walk.pattern.find_row(path)
        if row is not None:
            self._note_row(walk, row)
            walk.note_taken(walk.cost_of(row))
            self._begin_jobs(walk)

    def _note_expected(self, walk: Walk, row: int) -> None:
        """Note that what was foretold has come true; quicker than to learn from it."""
        if not walk.note_thread():
            walk.unsorted.clear()
        walk.recent.append(row)
        walk.pattern.reach(row)
        order = walk.order
        if order and order[0][0] < walk.recent[0]:
            self._drop_passed(walk)
        if order and order[0][0] == row:
            order.popleft()

    def _note_row(self, walk: Walk, row: int) -> None:
        """Learn from a call for a row."""
        is_ordered = walk.note_thread()
        walk.recent.append(row)
        if not is_ordered:
            heapq.heappush(walk.unsorted, row)
            if len(walk.unsorted) <= OUT_OF_ORDER // 4:
                return
            row = heapq.heappop(walk.unsorted)
        if not walk.pattern.see(row, is_ordered=is_ordered):
            self._drop(walk)
        self._drop_passed(walk)
        if not walk.order and row < walk.frontier:
            walk.frontier = walk.look_from = row  # it was not expected when the rows behind it were looked at

    def _drop_passed(self, walk: Walk) -> None:
        """Throw away what the calls have passed over."""
        order, recent = walk.order, walk.recent
        reached = recent[0] if len(recent) == recent.maxlen else -1
        passed = []
        while order and order[0][0] < reached:
            row, path = order.popleft()
            if walk.ready.pop(path, None) is not None or walk.coming.pop(path, None) is not None:
                passed.append(row)
        if passed:
            self._waste(sum(map(walk.cost_of, passed)))
            walk.pattern.pass_over(passed)
            self._changed.notify_all()

    def _drop(self, walk: Walk) -> None:
        """Throw away all that is held or on its way for a walk."""
        for job in walk.jobs:
            self._stop(job)
        for row in (*walk.coming.values(), *(row for row, _, _ in walk.ready.values())):
            self._waste(walk.cost_of(row))
        walk.ready.clear()
        walk.coming.clear()
        walk.order.clear()
        walk.unsorted.clear()
        walk.jobs.clear()
        walk.frontier = walk.look_from = -1
        self._changed.notify_all()

    def _stop(self, job: Job) -> None:
        job.is_stopped = True
        if job.answer is not None:
            job.answer.abort()

    def _waste(self, cost: int) -> None:
        self._open -= cost
        self._in_vain += cost

    def _begin_jobs(self, walk: Walk) -> None:
        """Ask for what comes next, if there may be more."""
        while walk.pattern.is_sure and len(walk.jobs) < PARALLEL and walk.pattern.row >= walk.look_from:
            most = min(HELD_BYTES, FREE_BYTES + self._got // SHARE - self._in_vain)
            if 2 * self._open > most or walk.is_off or self._is_closed or not self._batches.are_known:
                return
            window = min(most, int(walk.measure_pace() * AHEAD_S))
            room = min(window - self._open, max(1, window // 2), JOB_BYTES)
            if 2 * self._open > window or room <= 0 or time.monotonic() < self._rests_until:
                return
            rows = walk.choose(room, CACHE_LOOKS if walk.for_files else self._batches.most_entries)
            if not rows:
                return
            self._begin_job(walk, rows)

    def _begin_job(self, walk: Walk, rows: dict[str, int]) -> None:
        job = Job(rows)
        thread = threading.Thread(target=self._work, args=(walk, job), name="dsx-readahead", daemon=True)
        try:
            walk.jobs.append(job)
            self._open += sum(map(walk.cost_of, rows.values()))
            walk.coming |= rows
            walk.order += [(row, path) for path, row in rows.items()]
            thread.start()
        except BaseException as error:  # Ctrl-C, or no more threads: nobody shall wait for what nobody brings
            self._stop(job)
            self._end(walk, job, None)
            if not isinstance(error, RuntimeError):
                raise
            walk.is_off = True
        self._threads = [each for each in (*self._threads, thread) if each.is_alive()]

    def _work(self, walk: Walk, job: Job) -> None:
        error: DsxError | None = None
        try:
            wanted = self._leave_out_cached(walk, job)
            if wanted and not job.is_stopped:
                self._bring(walk, job, wanted)
        except DsxError as failure:
            error = failure
        finally:
            with self._changed:
                if not job.is_stopped:
                    self._end(walk, job, error)

    def _leave_out_cached(self, walk: Walk, job: Job) -> list[tuple[int, Read]]:
        """Return the entries of a job that the cache does not have."""
        wanted = [(row, Read(path)) for path, row in job.rows.items()]
        if not walk.for_files:
            return wanted
        cached = {row for row, _ in wanted if self._is_cached(walk.dataset, walk.manifest[row])}
        with self._changed:
            for row, read in wanted:
                if row in cached and walk.coming.pop(read.path, None) is not None:
                    self._open -= walk.cost_of(row)
            self._changed.notify_all()
        return [(row, read) for row, read in wanted if row not in cached]

    def _bring(self, walk: Walk, job: Job, wanted: list[tuple[int, Read]]) -> None:
        """Ask for entries, and hand out what comes and is right."""
        origin = Origin(walk.dataset, walk.manifest.revision)
        origin = origin.without_revision_if(all(walk.is_told(row) for row, _ in wanted))
        reads = [read for _, read in wanted]
        with closing(self._batches.ask(origin, reads, lambda answer: self._watch(job, answer))) as stream:
            for frames in stream:
                came: list[tuple[int, str, bytes | None]] = []
                for frame in frames:
                    row, read = wanted[frame.index]
                    if not isinstance(frame, Frame):
                        raise IntegrityError(f"{read.path} is longer than the manifest says")
                    data = frame.payload if frame.status is Status.OK else None
                    if data is not None and not walk.is_right(row, data):
                        self._count_wrong(walk, row)
                        data = None
                    came.append((row, read.path, data))
                if not self._deliver(walk, job, came):
                    return

    def _watch(self, job: Job, answer: Answer) -> None:
        with self._changed:
            job.answer = answer
            if job.is_stopped:
                answer.abort()

    def _count_wrong(self, walk: Walk, row: int) -> None:
        with self._changed:
            self._in_vain += walk.cost_of(row)

    def _deliver(self, walk: Walk, job: Job, came: list[tuple[int, str, bytes | None]]) -> bool:
        """Keep what has come until it is taken; tell whether more is wanted."""
        until = time.monotonic() + MOST_AGE_S
        with self._changed:
            if job.is_stopped:
                return False
            for row, path, data in came:
                if walk.coming.pop(path, None) is None:
                    continue  # passed over meanwhile
                if data is None:
                    self._open -= walk.cost_of(row)
                else:
                    walk.ready[path] = row, data, until
            if walk.waiting:
                self._changed.notify_all()
        return True

    def _end(self, walk: Walk, job: Job, error: DsxError | None) -> None:
        """Let go of what has not come of a job, and of read-ahead for a while if something was wrong."""
        left = [row for path, row in job.rows.items() if walk.coming.pop(path, None) is not None]
        self._open -= sum(map(walk.cost_of, left))
        walk.jobs.remove(job)
        if left:
            walk.order = deque(each for each in walk.order if each[1] in walk.ready or each[1] in walk.coming)
            walk.frontier = walk.order[-1][0] if walk.order else -1
            walk.look_from = -1
        if error is None:
            self._rest_s = FIRST_REST_S
        elif not self._batches.can_ask_otherwise(error, len(job.rows)):
            log.debug("nothing is read ahead of dataset %s for now: %s", shown(walk.dataset), error)
            if isinstance(error, IntegrityError):
                self._in_vain += sum(map(walk.cost_of, left))  # it has come, and is of no use
            walk.is_off = not error.retryable
            self._rests_until = time.monotonic() + max(self._rest_s, error.retry_after_s or 0)
            self._rest_s = min(LONGEST_REST_S, 2 * self._rest_s)
        self._changed.notify_all()


_all: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is under way while threads still run."""
    for ahead in list(_all):
        ahead.close()
