"""A link with a long way and little room, between a client and a server on one machine.

``slow_link.py PORT`` passes connections on to a port of this machine, and prints on which port it takes them. All
connections share one link: in each direction the bytes leave one after another, `LINK_BYTES_PER_S`, and arrive
`WAY_S` later. A connection is made after one round trip. What TCP itself would make slower on such a link, the slow
start above all, is not imitated: the kernel's connections to this process have nothing to do with it.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from contextlib import suppress

from hubs import HOST

LINK_BYTES_PER_S = 300e6 / 8
WAY_S = 0.02
BLOCK_BYTES = 32 * 1024
WINDOW_BYTES = 4 * 1024 * 1024
"""The most that a connection has on its way; more than the link holds at a time, as the kernel would have it."""


class Direction:
    """One direction of the link, which all connections share."""

    def __init__(self) -> None:
        self._free_at = 0.0

    def send(self, size: int, now: float) -> float:
        """Put ``size`` bytes on the link, and return when the last of them arrives."""
        self._free_at = max(self._free_at, now) + size / LINK_BYTES_PER_S
        return self._free_at + WAY_S


class Flow:
    """Carries what one side sends to the other.

    Args:
        direction: The link.
        source: Socket to read.
        target: Socket to write.
    """

    def __init__(self, direction: Direction, source: socket.socket, target: socket.socket) -> None:
        self._direction = direction
        self._source = source
        self._target = target
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Carry until the source has ended and everything has arrived."""
        taking = asyncio.create_task(self._take())
        try:
            await self._deliver()
        finally:
            taking.cancel()

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        data = b"-"
        while data:
            while self._bytes > WINDOW_BYTES:
                self._changed.clear()
                await self._changed.wait()
            try:
                data = await loop.sock_recv(self._source, BLOCK_BYTES)
            except OSError:
                data = b""
            self._bytes += len(data)
            self._under_way.append((self._direction.send(len(data), loop.time()), data))
            self._changed.set()

    async def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._under_way:
                self._changed.clear()
                await self._changed.wait()
            arrives_at, data = self._under_way.popleft()
            await asyncio.sleep(arrives_at - loop.time())
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._target, data)
            self._bytes -= len(data)
            self._changed.set()


async def carry(client: socket.socket, port: int, out: Direction, back: Direction) -> None:
    """Carry one connection to its end."""
    loop = asyncio.get_running_loop()
    with client, socket.socket() as server:
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await loop.sock_connect(server, (HOST, port))
            await asyncio.sleep(2 * WAY_S)
            async with asyncio.TaskGroup() as flows:
                flows.create_task(Flow(out, client, server).run())
                flows.create_task(Flow(back, server, client).run())
        except* OSError:
            pass  # one side is gone, so that there is nothing left to carry


async def serve(port: int) -> None:
    """Take connections for ever."""
    out, back = Direction(), Direction()
    tasks: set[asyncio.Task[None]] = set()
    with socket.create_server((HOST, 0), backlog=128) as listener:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            task = asyncio.create_task(carry(client, port, out, back))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1])))
