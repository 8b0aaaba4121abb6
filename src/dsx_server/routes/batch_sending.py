"""Send the blocks of one batch in order, while the next ones are read.

A batch holds bytes of the budget for each block from before it is read until it is sent. It waits for them only when it
has to: for the block that is to be sent next. Those that are held meanwhile for requests, and for what was read ahead,
leave a part of the budget free (see `batch_budget`), so that batches never wait for one another in a circle.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dsx.protocol.frames import FRAMES_TYPE, STREAM_HEAD, encode_end
from dsx_server.routes.batch_budget import ByteBudget
from dsx_server.routes.batch_reading import WHOLE_BYTES, Batch, Block, LongEntry, read_block
from dsx_server.routes.wire import Wire

BLOCK_BYTES = 896 * 1024
TIGHT_BLOCK_BYTES = 64 * 1024
"""About how long a block of short entries is to be, in bytes: with memory to spare, and without.

It is less than `WHOLE_BYTES`, where a block ends in any case, so that few end before all of their entries are read."""

BLOCK_S = 0.02
"""About how long a disk may be waited for at a block, in s."""

FIRST_ENTRIES = 8
MOST_ENTRIES = 256
"""How many entries the first block has, when nothing is known of them, and any block at most."""

SLOW_S = 0.0005
"""An entry that is waited for longer than this, in s, comes from a slow disk: several are asked for at once."""

AHEAD = 1
AHEAD_WHEN_SLOW = 8
"""How many blocks are read ahead of the one that is being sent.

What is in memory already is read by one thread while another sends. Two that read would wait for one another at every
call of the system, for Python's lock: measured, twice the time per entry."""

COPIES = 2
"""How often the bytes of a block are in memory: read, and joined; then joined, and in the server's hands."""

JOB_BYTES = COPIES * WHOLE_BYTES
"""What is held for a block that is being read, in bytes."""

SMALL_BYTES = 16 * 1024
"""The end is sent together with a last block of up to this size, in bytes."""

T = TypeVar("T")


class BatchWire(Wire):
    """The client's end of one batch."""

    _has_begun = False

    async def send(self, data: bytes | bytearray, *, is_last: bool = False) -> None:
        """Send bytes of the stream, its head before the first of them; see `Wire.send`."""
        if not self._has_begun:
            self._has_begun = True
            await self.start(200, [(b"content-type", FRAMES_TYPE.encode()), (b"cache-control", b"no-store")])
            data = STREAM_HEAD + data
        await super().send(data, is_last=is_last)


class Pace:
    """How many entries to read at a time, learned from those that were read."""

    def __init__(self) -> None:
        self._bytes_each = 0.0
        self._s_each = 0.0
        self._is_known = False

    def note(self, entries: int, block: Block) -> None:
        """Learn from a block of so many entries."""
        bytes_each, s_each = len(block.data) / entries, block.waited_s / entries
        self._bytes_each = (self._bytes_each + bytes_each) / 2 if self._is_known else bytes_each
        self._s_each = (self._s_each + s_each) / 2 if self._is_known else s_each
        self._is_known = True

    def count_entries(self, block_bytes: int) -> int:
        """Return how many entries to read for a block of this size."""
        if not self._is_known:
            return FIRST_ENTRIES
        fitting = min(block_bytes / max(1.0, self._bytes_each), BLOCK_S / max(1e-9, self._s_each))
        return max(1, min(MOST_ENTRIES, int(fitting)))

    @property
    def is_slow(self) -> bool:
        """Whether reading is mostly waiting for a disk."""
        return self._s_each > SLOW_S

    @property
    def ahead(self) -> int:
        """How many blocks to read ahead."""
        return AHEAD_WHEN_SLOW if self.is_slow else AHEAD


class _Job:
    """Some entries that are being read and sent.

    Attributes:
        start: Number of the first that is not sent yet.
        stop: Number of the first that is not among them.
        block: The next block of them.
        held: How many bytes of the budget are held for it.
    """

    def __init__(self, start: int, stop: int, block: Future[Block]) -> None:
        self.start = start
        self.stop = stop
        self.block = block
        self.held = JOB_BYTES

    def cancel(self) -> None:
        """Read no more; what is being read just now is let go of when it comes."""
        if not self.block.cancel():
            self.block.add_done_callback(_close_long)


class Sender:
    """Sends one batch.

    Args:
        batch: What to send.
        wire: Where to.
        budget: Counts what is held meanwhile.
        threads: In which entries are read.
    """

    def __init__(self, batch: Batch, wire: BatchWire, *, budget: ByteBudget, threads: ThreadPoolExecutor) -> None:
        self._batch = batch
        self._wire = wire
        self._budget = budget
        self._threads = threads
        self._pace = Pace()
        self._next = 0
        self._count = batch.wanted.count
        self._jobs: deque[_Job] = deque()

    async def send_all(self) -> None:
        """Send every entry and the end; return early when the client has gone.

        Raises:
            DsxError: It cannot be gone on with; nothing was sent, or the connection is to be broken.
        """
        try:
            if not self._count:
                await self._wire.send(encode_end(0), is_last=True)
            while self._next < self._count or self._jobs:
                if not self._jobs:
                    await self._begin()
                await self._finish(self._jobs[0])
                if self._wire.is_gone:
                    return
                self._jobs.popleft()
        finally:
            while self._jobs:
                job = self._jobs.popleft()
                job.cancel()
                self._hold(job, 0)

    async def _begin(self) -> None:
        """Have the block read that is to be sent next."""
        if self._next == 0:
            self._budget.admit(JOB_BYTES)
        else:
            await self._budget.take(JOB_BYTES)
        self._begin_job()

    def _read_ahead(self) -> None:
        """Have more blocks read, if there is memory for them."""
        while self._next < self._count and len(self._jobs) <= self._pace.ahead:
            if not self._budget.take_ahead(JOB_BYTES):
                return
            self._begin_job()

    def _begin_job(self) -> None:
        size = TIGHT_BLOCK_BYTES if self._budget.is_tight else BLOCK_BYTES
        start = self._next
        self._next = min(self._count, start + self._pace.count_entries(size))
        self._jobs.append(_Job(start, self._next, self._submit(start, self._next)))

    def _submit(self, start: int, stop: int) -> Future[Block]:
        return self._threads.submit(read_block, self._batch, start, stop)

    async def _finish(self, job: _Job) -> None:
        """Send all entries of a job, block by block, as long as somebody listens."""
        while True:
            block = await asyncio.wrap_future(job.block)
            if block.long is None:
                self._pace.note(block.stop - job.start, block)
            if block.stop == job.stop or self._pace.is_slow:
                self._read_ahead()
            if block.long is not None:
                await self._send_long(job, block.long)
            else:
                await self._send_block(job, block.data, block.stop)
            job.start = block.stop
            if job.start == job.stop or self._wire.is_gone:
                return
            await self._take(job, JOB_BYTES)
            job.block = self._submit(job.start, job.stop)

    async def _send_long(self, job: _Job, long: LongEntry) -> None:
        try:
            data = long.first
            while long.position < long.stop and not self._wire.is_gone:
                await self._send_block(job, data, job.start)
                size = TIGHT_BLOCK_BYTES if self._budget.is_tight else WHOLE_BYTES
                await self._take(job, COPIES * size)
                data = await asyncio.wrap_future(self._threads.submit(long.read_block, size))
            await self._send_block(job, data, job.start + 1)
        finally:
            long.close()

    async def _send_block(self, job: _Job, data: bytes, stop: int) -> None:
        """Send bytes of the entries before ``stop``, and give back what was held for them."""
        self._hold(job, min(job.held, COPIES * len(data)))
        await self._send_data(data, stop)
        self._hold(job, 0)

    def _hold(self, job: _Job, size: int) -> None:
        self._budget.give_back(job.held - size)
        job.held = size

    async def _take(self, job: _Job, size: int) -> None:
        await self._budget.take(size)
        job.held = size

    async def _send_data(self, data: bytes, stop: int) -> None:
        """Send bytes; when all entries before ``stop`` have left with them and it is the last, the end too."""
        if stop < self._count:
            await self._wire.send(data)
        elif len(data) <= SMALL_BYTES:
            await self._wire.send(data + encode_end(stop), is_last=True)
        else:
            await self._wire.send(data)
            await self._wire.send(encode_end(stop), is_last=True)


def _close_long(done: Future[Block]) -> None:
    if not done.cancelled() and done.exception() is None:
        long = done.result().long
        if long is not None:
            long.close()
