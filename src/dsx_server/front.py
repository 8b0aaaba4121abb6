"""The front door: every request passes here before anything else looks at it.

In this order: a request id; the key (all but a few fixed paths need one, so that no route can forget to ask); the data
routes, which are plain ASGI because FastAPI would cost them most of their speed; then FastAPI. On the way out: one log
line, and one JSON shape for whatever went wrong.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsx.errors import DsxError, HubTimeoutError
from dsx.protocol.models import PROBLEM_TYPE
from dsx_server.access_log import AccessLog
from dsx_server.activity import Activity
from dsx_server.auth import Keyring
from dsx_server.problems import ProblemError, describe_error, format_problem
from dsx_server.routes.wire import Answer, Patience

log = logging.getLogger("dsx.hub")

PUBLIC_PATHS = frozenset({"/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
PUBLIC_PREFIX = "/static-offline-docs/"

_KEY_NEEDED = "this hub needs its API key: send 'Authorization: Bearer <key>'; it must equal the hub's DSX_API_KEY"


class Front:
    """The ASGI application that uvicorn runs.

    Args:
        app: FastAPI with all other routes.
        data_routes: First path segment of each data route, with its ASGI application. If that has ``answer_at_once``,
            which takes a scope and returns a whole answer or None, it is asked first: it never waits.
        keyring: The keys that open the door.
        activity: Counts the requests for data.
        close: Lets go of what the routes hold open; may be called twice.
    """

    def __init__(
        self,
        app: ASGIApp,
        data_routes: Mapping[str, ASGIApp],
        *,
        keyring: Keyring,
        activity: Activity,
        close: Callable[[], None],
    ) -> None:
        self._app = app
        self._data_routes = dict(data_routes)
        self._keyring = keyring
        self._activity = activity
        self._close = close
        self._at_once: dict[str, Callable[[Scope], Answer | None]] = {
            name: route.answer_at_once for name, route in data_routes.items() if hasattr(route, "answer_at_once")
        }
        self._access_log = AccessLog()
        self._patience = Patience()

    def close(self) -> None:
        """Let go of what the routes hold open; may be called twice."""
        self._access_log.flush()
        self._close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            answer = self._begin(scope, exchange)
            if answer is None:
                await self._answer(scope, receive, exchange)
            else:
                await send(exchange.start(answer))
                await self._patience.send_body(send, answer.body)
                exchange.end()
        except asyncio.CancelledError:
            exchange.verdict = "stopped"
        except Exception as error:  # noqa: BLE001 -- the outermost door: a client gets an answer whatever happens
            await exchange.fail(error)
        finally:
            if self._access_log.is_on:
                self._access_log.add(exchange.format_line())

    def _begin(self, scope: Scope, exchange: _Exchange) -> Answer | None:
        """Check the key; return the answer, if one can be given at once."""
        scope["dsx.request_id"] = exchange.request_id
        path = scope["path"]
        if path not in PUBLIC_PATHS and not path.startswith(PUBLIC_PREFIX):
            principal = self._keyring.authenticate(scope["headers"])
            if principal is None:
                raise ProblemError("unauthorized", _KEY_NEEDED, {"WWW-Authenticate": "Bearer"})
            scope["dsx.principal"] = principal
        answer_at_once = self._at_once.get(_first_of(path))
        answer = None if answer_at_once is None else answer_at_once(scope)
        if answer is not None:
            self._activity.note_busy()
        return answer

    async def _answer(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        data_route = self._data_routes.get(_first_of(scope["path"]))
        if data_route is not None:
            with self._activity.busy():
                await data_route(scope, receive, exchange.send)
            return
        if scope["method"] == "HEAD":
            # FastAPI's GET routes do not answer HEAD; the server leaves out the body (RFC 9110, section 9.3.2).
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, exchange.send)


class _Exchange:
    """One request and its answer, as far as the front door sees them."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = f"{random.getrandbits(48):012x}"
        self.verdict = ""
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        self._status = 0
        self._sent_bytes = 0
        self._complete = False

    async def send(self, message: Message) -> None:
        """Pass one message to the server, counting, with the request id added to the headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        elif message["type"] == "http.response.body":
            self._sent_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        await self._send(message)

    def start(self, answer: Answer) -> Message:
        """Return the message that begins a whole answer, with the request id added to the headers."""
        self._status, headers, body = answer
        self._sent_bytes = len(body)
        headers = [*headers, (b"x-request-id", self.request_id.encode())]
        return {"type": "http.response.start", "status": self._status, "headers": headers}

    def end(self) -> None:
        """Note that the whole answer was sent."""
        self._complete = True

    async def fail(self, error: Exception) -> None:
        """Answer with a problem, or break the connection when the answer is already under way."""
        if not isinstance(error, DsxError):
            log.error("request %s failed", self.request_id, exc_info=error)
            error = ProblemError("internal", "the hub failed to answer; its log says why under the request id")
        if self._complete:
            return
        if self._status:
            # Returning without an end makes the server break the connection: the client sees a short answer.
            self.verdict = "aborted"
            log.warning("request %s aborted: %s", self.request_id, error)
            if isinstance(error, HubTimeoutError):
                self._abort()
            return
        code, detail, headers = describe_error(error)
        # The body of a 401 is the same for every request, so that it cannot tell one path or key from another.
        status, body = format_problem(code, detail, None if code == "unauthorized" else self.request_id)
        headers |= {"Content-Type": PROBLEM_TYPE, "Content-Length": str(len(body))}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    def _abort(self) -> None:
        """Drop what the server still holds for a client that takes nothing: closing would wait until it does."""
        transport = getattr(
            getattr(self._send, "__self__", None), "transport", None
        )  # uvicorn's; ASGI has no word for it
        if isinstance(transport, asyncio.Transport):
            transport.abort()

    def format_line(self) -> str:
        """Word the access line: the path as it was sent, percent-encoded, without its query."""
        scope: Mapping[str, Any] = self._scope
        address = scope["client"][0] if scope.get("client") else "-"
        path = scope["raw_path"].decode("ascii", "backslashreplace")
        sent = 0 if scope["method"] == "HEAD" else self._sent_bytes
        took_ms = (time.perf_counter() - self._began) * 1000
        verdict = self.verdict or ("" if self._complete else "aborted")
        return (
            f"{address} {scope['method']} {path} {self._status} {sent} B {took_ms:.1f} ms id={self.request_id}"
            f"{' ' if verdict else ''}{verdict}"
        )


def _first_of(path: str) -> str:
    """Return the first segment of a path that has more; empty otherwise."""
    parts = path.split("/", 2)
    return parts[1] if len(parts) == 3 else ""
