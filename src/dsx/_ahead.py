"""Reads that are asked for ahead of whoever takes their results, handed out in order, within one budget of bytes.

The caller's thread cuts the reads into jobs and hands out results; each job has a thread that brings them
(`dsx._batch`). A thread that finds the budget spent waits, all but the one whose results the caller waits for: that one
may go over it by what it has in its hands, a block or one long entry, so that nobody waits for ever.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice

from dsx._batch import Asking, Batches, Outlet, Result, Stopped
from dsx._meter import Meter
from dsx._pace import JOB_BYTES, Pace
from dsx._reads import Origin, Read
from dsx._transport import Answer
from dsx.errors import DsxError, InvalidRequestError
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

BUDGET_BYTES = 64 * 1024 * 1024
"""How many bytes may have come and not been taken."""

CLOSING_WAIT_S = 2.0
"""How long, in s, is waited for the threads when nobody wants their results any more; they end by themselves."""


JOBS_HELD = 8
"""A job brings about this part of the budget, at most: some are under way, and what they bring waits for its turn."""

Bring = Callable[[Sequence[Read], Outlet, threading.Event], None]
"""Delivers a result for each of some reads, in order, unless the event is set."""


class Job:
    """Some reads that are asked for together; the `Outlet` of their `Asking`.

    Attributes:
        reads: What is wanted.
        ready: Results that have come and were not taken.
        reserved: Bytes of the budget that are kept for the next result.
        is_done: Whether no more results come.
        error: Why, if that is not because all have come.
    """

    def __init__(self, ahead: Ahead, reads: Sequence[Read]) -> None:
        self.reads = reads
        self.ready: list[Result] = []
        self.reserved = 0
        self.is_done = False
        self.error: BaseException | None = None
        self.answer: Answer | None = None
        self._ahead = ahead

    def watch(self, answer: Answer | None) -> None:
        """Take note of the answer that is being read."""
        self._ahead.watch(self, answer)

    def reserve(self, size: int) -> None:
        """Wait until there is room for ``size`` bytes, and keep it."""
        self._ahead.add(self, [], size)

    def deliver(self, results: list[Result]) -> None:
        """Take results when there is room for them."""
        self._ahead.add(self, results, 0)

    def note_request(self, seconds: float) -> None:
        """Count a request."""
        self._ahead.meter.note_request(seconds)

    def note_retry(self) -> None:
        """Count what is asked for again."""
        self._ahead.meter.note_retry()


class Ahead:
    """Brings the results of many reads, in order. One thread may take them, once.

    Args:
        batches: Makes the requests.
        origin: Where the reads are from.
        reads: What is wanted; all of whole entries, or all of bytes of entries.
        budget_bytes: How many bytes may have come and not been taken.
        bring: Brings what a job wants; by default all of it comes from the hub.
        meter: Measures how it goes.
    """

    def __init__(
        self,
        batches: Batches,
        origin: Origin,
        reads: Iterator[Read],
        *,
        budget_bytes: int = BUDGET_BYTES,
        bring: Bring | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.meter = Meter() if meter is None else meter
        self._batches = batches
        self._bring = bring_from_hub(batches, origin) if bring is None else bring
        self._reads = reads
        self._budget_bytes = budget_bytes
        self._pace = Pace(min(JOB_BYTES, max(1, budget_bytes // JOBS_HELD)))
        self._jobs: deque[Job] = deque()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._held = 0
        self._came = 0
        self._is_waiting = False
        self._process = os.getpid()
        self._is_closed = False

    def take(self) -> Generator[tuple[Read, Result], None, None]:
        """Yield each read with its result: its bytes, or what is wrong with this one entry.

        Raises:
            DsxError: What is wrong with more than one entry.
        """
        _under_way.add(self)
        try:
            self._begin_jobs()
            while self._jobs:
                job = self._jobs[0]
                reads = iter(job.reads)
                for results in self._take_results(job):
                    self._pace.note(results)
                    self._begin_jobs()
                    yield from zip(islice(reads, len(results)), results, strict=True)
                    self._check_process()
                if self._is_closed:
                    raise InvalidRequestError("nothing more is read: this process is ending")
                if job.error is not None:
                    raise job.error
                with self._changed:
                    self._jobs.popleft()
                    self._changed.notify_all()
                self._begin_jobs()
        finally:
            self.close()

    def add(self, job: Job, results: list[Result], reserved: int) -> None:
        """Take what a thread has, or the room that it will need, as soon as there is room.

        Raises:
            Stopped: Nobody wants it any more.
        """
        size = sum(len(result) for result in results if isinstance(result, bytes)) + reserved
        with self._changed:
            while not self._stop.is_set():
                more = size - job.reserved
                is_first = job is self._jobs[0]
                if (is_first and self._is_waiting) or more <= 0 or self._held + more <= self._budget_bytes:
                    self._held += more
                    self._came += more
                    job.reserved = reserved
                    job.ready += results
                    self._is_waiting = self._is_waiting and not (is_first and results)
                    self._changed.notify_all()
                    return
                self._changed.wait()
        raise Stopped

    def watch(self, job: Job, answer: Answer | None) -> None:
        """Take note of the answer that a thread is reading.

        Raises:
            Stopped: Nobody wants it any more.
        """
        with self._changed:
            job.answer = answer
            if answer is not None and self._stop.is_set():
                raise Stopped

    def _begin_jobs(self) -> None:
        """Have as many jobs under way as the hub takes, as long as there are reads."""
        while len(self._jobs) < int(self._batches.parallel):
            reads = self._pace.cut(self._reads)
            if not reads:
                return
            job = Job(self, reads)
            thread = threading.Thread(target=self._work, args=(job,), name="dsx-batch", daemon=True)
            with self._changed:
                self._jobs.append(job)
            thread.start()
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]

    def _work(self, job: Job) -> None:
        try:
            self._bring(job.reads, job, self._stop)
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 -- the outermost door of a thread: take() raises it
            job.error = error
        with self._changed:
            job.is_done = True
            self._changed.notify_all()

    def _take_results(self, job: Job) -> Iterator[list[Result]]:
        """Yield the results of a job as they come; what was yielded counts as held until the next are asked for."""
        taken = 0
        while True:
            with self._changed:
                self._held -= taken
                self._is_waiting = not job.ready
                self._changed.notify_all()
                self._wait_for(job)
                results, job.ready = job.ready, []
                self._is_waiting = False
            if not results:
                return
            taken = sum(len(result) for result in results if isinstance(result, bytes))
            yield results

    def _wait_for(self, job: Job) -> None:
        """Wait for results of a job, and note how quickly bytes come while somebody waits for them."""
        if job.ready or job.is_done:
            return
        began, came = time.monotonic(), self._came
        while not job.ready and not job.is_done:
            self._changed.wait()
        waited_s = time.monotonic() - began
        self.meter.waited_s += waited_s
        self._pace.note_speed(self._came - came, waited_s)

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InvalidRequestError("this was begun in another process, before a fork; begin it anew in this one")

    def close(self) -> None:
        """Let the threads end, and wait for them a moment; may be called twice."""
        if self._is_closed or os.getpid() != self._process:
            return  # in a child they are not there, and their locks may be held for ever
        self._is_closed = True
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
            answers = [job.answer for job in self._jobs if job.answer is not None]
            for answer in answers:
                answer.abort()
        deadline = time.monotonic() + CLOSING_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def bring_from_hub(batches: Batches, origin: Origin) -> Bring:
    """Return what brings reads of a dataset from the hub."""

    if batches.stand_in is not None:
        return functools.partial(batches.stand_in, origin)

    def bring(reads: Sequence[Read], outlet: Outlet, stop: threading.Event) -> None:
        Asking(batches, origin, reads, outlet, stop).run()

    return bring


_under_way: weakref.WeakSet[Ahead] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what is under way while threads still run.

    An iterator that a module holds is closed later than that, when threads stand still for ever, with what they lock.
    """
    for ahead in list(_under_way):
        ahead.close()


def iter_bytes(
    batches: Batches, origin: Origin, reads: Iterator[Read], *, skips: bool
) -> Generator[tuple[str, bytes], None, None]:
    """Yield path and bytes of each read.

    Args:
        batches: Makes the requests.
        origin: Where the reads are from.
        reads: What is wanted.
        skips: Whether an entry that is wrong is left out, and said so in the log; else its error is raised.
    """
    skipped = SkipLog(origin.dataset) if skips else None
    with closing(Ahead(batches, origin, reads).take()) as results:
        for read, result in results:
            if isinstance(result, bytes):
                yield read.path, result
            elif skipped is None:
                raise result
            else:
                skipped.note(read.path, result)


class SkipLog:
    """Says in the log what is left out, each entry once.

    Args:
        dataset: The dataset of the entries.
    """

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset
        self._said: set[str] = set()

    def note(self, path: str, error: DsxError) -> None:
        """Say that an entry is left out, and why."""
        if path not in self._said:
            self._said.add(path)
            log.warning("skipped %s: %s", shown(f"{self._dataset}/{path}"), error)


class Collector:
    """Takes the results of reads that a thread brings for itself.

    Attributes:
        results: What has come.
    """

    def __init__(self) -> None:
        self.results: list[Result] = []

    def watch(self, answer: Answer | None) -> None:
        """Nobody else is there to abort it."""

    def reserve(self, size: int) -> None:
        """There is room."""

    def deliver(self, results: list[Result]) -> None:
        """Take results."""
        self.results += results

    def note_request(self, seconds: float) -> None:
        """Nobody counts."""

    def note_retry(self) -> None:
        """Nobody counts."""
