"""The client's end of an answer: what is sent to it, and how long it may take over that."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from starlette.types import Receive, Send

from dsx.errors import HubTimeoutError

WRITE_WAIT_S = 30.0
"""How long, in s, a client may take over a block before the connection is broken."""

UNWATCHED_BYTES = 64 * 1024
"""The end of a body, up to this size in bytes, is left to the server, which holds so much for any client."""


class Answer(NamedTuple):
    """A whole answer: status, headers as ASGI wants them, and the body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | bytearray = b""


class Wire:
    """The client's end of one long answer; `close` it when done.

    Args:
        send: Takes the messages of the answer.
        receive: Tells when the client has gone.
    """

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send = send
        self._gone = asyncio.ensure_future(_wait_for_disconnect(receive))

    @property
    def is_gone(self) -> bool:
        """Whether nobody listens any more."""
        return self._gone.done()

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes | bytearray, *, is_last: bool = False) -> None:
        """Send bytes of the body; return when the system has taken nearly all of them.

        Raises:
            HubTimeoutError: The client takes less than that in `WRITE_WAIT_S`.
        """
        await send_patiently(self._send, data, is_last=is_last)

    def close(self) -> None:
        """Listen no more for the client's going."""
        self._gone.cancel()


class Patience:
    """Sends whole answers, and cuts off the clients who do not take them. For one event loop.

    One timer looks after all of them: one for each takes as long as all else that sending a short answer takes.
    """

    def __init__(self) -> None:
        self._since: dict[asyncio.Task[object] | None, float] = {}
        self._late: set[asyncio.Task[object] | None] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def send_body(self, send: Send, body: bytes | bytearray) -> None:
        """Send a whole body; of one that is not short return when the system has taken nearly all of it.

        Raises:
            HubTimeoutError: The client takes less than that in `WRITE_WAIT_S`.
        """
        if len(body) <= UNWATCHED_BYTES:
            await send({"type": "http.response.body", "body": body})
            return
        task = asyncio.current_task()
        self._since[task] = time.monotonic()
        if self._timer is None:
            self._look_later()
        try:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            if task is None or task not in self._late:
                raise
            task.uncancel()
            raise _took_too_little() from None
        finally:
            del self._since[task]
            self._late.discard(task)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WRITE_WAIT_S / 10, self._look)

    def _look(self) -> None:
        """Give up on those who have waited too long."""
        self._timer = None
        latest = time.monotonic() - WRITE_WAIT_S
        for task, since in self._since.items():
            if since < latest and task is not None and task not in self._late:
                self._late.add(task)
                task.cancel()
        if self._since:
            self._look_later()


async def send_answer(send: Send, answer: Answer) -> None:
    """Send a whole answer; see `Wire.send`."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send_patiently(send, answer.body, is_last=True)


async def send_patiently(send: Send, data: bytes | bytearray, *, is_last: bool) -> None:
    """Send bytes of a body; return when the system has taken nearly all of them.

    Raises:
        HubTimeoutError: The client takes less than that in `WRITE_WAIT_S`.
    """
    try:
        async with asyncio.timeout(WRITE_WAIT_S):
            if is_last and len(data) <= UNWATCHED_BYTES:
                await send({"type": "http.response.body", "body": data})
                return
            await send({"type": "http.response.body", "body": data, "more_body": True})
            # The server waits before it takes a message, not after: with an empty one the wait is for ours.
            await send({"type": "http.response.body", "body": b"", "more_body": not is_last})
    except TimeoutError:
        raise _took_too_little() from None


def _took_too_little() -> HubTimeoutError:
    return HubTimeoutError(f"the client took less than a block in {WRITE_WAIT_S:.0f} s")


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
