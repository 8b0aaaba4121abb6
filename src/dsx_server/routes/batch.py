"""``POST /batch/{dataset}``: many entries, or bytes of entries, in one answer; see `dsx.protocol.frames`.

Plain ASGI, in front of FastAPI. Short entries are read some hundred at a time in a thread, and leave joined; long ones
are sent as they are read. Nothing has left before the first block was read, so that what is wrong with the whole
request has a status of its own.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from starlette.types import Receive, Scope, Send

from dsx_server.auth import Principal
from dsx_server.index import Index
from dsx_server.problems import ProblemError
from dsx_server.routes.access import reading
from dsx_server.routes.batch_budget import ByteBudget, Share
from dsx_server.routes.batch_reading import Batch
from dsx_server.routes.batch_request import check_headers, parse_dataset, parse_wanted, read_body
from dsx_server.routes.batch_sending import BatchWire, Sender
from dsx_server.storage import Storage

BATCH_THREADS = 32
"""Threads that read for batches: on a slow disk the three of one client use 27.

Those of ``/file`` are others, so that neither waits for the other."""


class BatchRoute:
    """The ASGI application of ``/batch``; `close` it when done.

    Args:
        storage: Where the entries lie.
        index: Knows what they were in earlier revisions.
        budget: Counts what batches hold.
    """

    def __init__(self, storage: Storage, index: Index, budget: ByteBudget | None = None) -> None:
        self._storage = storage
        self._index = index
        self._budget = budget or ByteBudget()
        self._threads = ThreadPoolExecutor(BATCH_THREADS, thread_name_prefix="dsx-batch")
        self._parsing = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise ProblemError("method_not_allowed", "/batch takes POST", {"Allow": "POST"})
        dataset = parse_dataset(scope["raw_path"])
        check_headers(scope["headers"])
        with closing(Share(self._budget)) as share:
            batch = await self._accept(dataset, scope["dsx.principal"], receive, share)
            with closing(BatchWire(send, receive)) as wire:
                await Sender(batch, wire, budget=self._budget, threads=self._threads).send_all()

    async def _accept(self, dataset: str, principal: Principal, receive: Receive, share: Share) -> Batch:
        """Take the request in, and hold what it takes for as long as it is answered."""
        body = await read_body(receive, share)
        loop = asyncio.get_running_loop()
        batch = await loop.run_in_executor(self._threads, self._prepare, dataset, principal, body)
        share.resize(batch.wanted.held_bytes)
        return batch

    def _prepare(self, dataset: str, principal: Principal, body: bytes) -> Batch:
        """Make sure that there is what is asked for, as far as it concerns all entries; blocks."""
        with reading(dataset, principal, self._index):
            reader = self._storage.get_reader(dataset)
        with self._parsing:  # what it takes in memory, no more than once
            wanted = parse_wanted(body)
        if wanted.revision is not None:
            self._index.note_read(dataset, wanted.revision)
        return Batch(dataset, wanted, reader, self._index)

    def close(self) -> None:
        """Begin no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
