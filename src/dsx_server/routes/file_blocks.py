"""The blocks of a long body: what is in memory at once, what is not in threads, and then one block ahead."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from dsx.errors import ConflictError
from dsx.protocol.text import shown
from dsx_server.routes.file_request import Target
from dsx_server.storage import OpenEntry

BLOCK_BYTES = 1024 * 1024
LEAST_BLOCK_BYTES = 64 * 1024

ALL_BLOCKS_BYTES = 32 * 1024 * 1024
"""The blocks of all bodies that are under way are to be about so long together, in bytes.

Of each there is one block in the server's hands, and at most one more that was read and waits for it. So this bounds
the memory that clients take who read slowly, whatever their number."""


class Rest(NamedTuple):
    """A long body that is still to be sent: bytes ``[start, stop)`` of an open entry."""

    entry: OpenEntry
    target: Target
    start: int
    stop: int
    hash_it: bool


class Traffic:
    """Counts the bodies that are under way; leave the context of one when it has ended. For one event loop."""

    def __init__(self) -> None:
        self._count = 0

    @property
    def block_bytes(self) -> int:
        """How long the next block of each is to be, in bytes."""
        return max(LEAST_BLOCK_BYTES, min(BLOCK_BYTES, ALL_BLOCKS_BYTES // max(1, self._count)))

    def __enter__(self) -> Traffic:
        self._count += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._count -= 1


class Blocks:
    """Reads a body block by block; `close` it, which closes the entry, when done. For one task.

    Args:
        rest: The body.
        threads: In which is read what is not in memory.
        traffic: Says how long a block is to be.
    """

    def __init__(self, rest: Rest, threads: ThreadPoolExecutor, traffic: Traffic) -> None:
        self._rest = rest
        self._threads = threads
        self._traffic = traffic
        self._read_cached = getattr(type(rest.entry), "read_cached", None)
        self._ahead: Future[bytes] | None = None
        self._position = rest.start

    def has_more(self) -> bool:
        """Tell whether there is another block."""
        return self._position < self._rest.stop

    async def read(self) -> bytes | bytearray:
        """Return the next block.

        Raises:
            ConflictError: The entry is no longer in the state it was opened in.
            UnreadableError: The disk did not give it.
        """
        block = self._read_at_once() if self._ahead is None else None
        if block is not None:
            self._position += len(block)
            await asyncio.sleep(0)  # somebody else's turn: a client that is quick enough never makes this one wait
            return block
        self._ahead = self._ahead or self._submit()
        block = await asyncio.wrap_future(self._ahead)
        self._position += len(block)
        self._ahead = self._submit() if self.has_more() else None
        return block

    def close(self) -> None:
        """Close the entry, as soon as no thread reads of it any more."""
        if self._ahead is None or self._ahead.cancel():
            self._rest.entry.close()
        else:
            self._ahead.add_done_callback(lambda _: self._rest.entry.close())

    def _submit(self) -> Future[bytes]:
        stop = min(self._position + self._traffic.block_bytes, self._rest.stop)
        return self._threads.submit(self._read_in_thread, self._position, stop)

    def _read_in_thread(self, start: int, stop: int) -> bytes:
        block = self._rest.entry.read(start, stop)
        self._check(len(block) == stop - start)
        return block

    def _read_at_once(self) -> bytes | bytearray | None:
        if self._read_cached is None:
            return None
        stop = min(self._position + self._traffic.block_bytes, self._rest.stop)
        block: bytes | bytearray | None = self._read_cached(self._rest.entry, self._position, stop)
        if block is not None:
            self._check(True)
        return block

    def _check(self, is_whole: bool) -> None:
        """Look at the entry's state; the last look comes before the last byte is sent."""
        if not is_whole or not self._rest.entry.is_unchanged():
            raise ConflictError(f"{shown(self._rest.target.path)} changed on the hub while it was being sent")
