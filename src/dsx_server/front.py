"""The front door: every request passes here before anything else looks at it.

In this order: a request id; the key (all but a few fixed paths need one, so that no route can forget to ask); the data
routes, which are plain ASGI because FastAPI would cost them most of their speed; then FastAPI. On the way out: one log
line, and one JSON shape for whatever went wrong.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsx.errors import DsxError, HubTimeoutError
from dsx.protocol.models import PROBLEM_TYPE
from dsx_server.activity import Activity
from dsx_server.auth import Keyring
from dsx_server.problems import ProblemError, describe_error, format_problem

log = logging.getLogger("dsx.hub")
access_log = logging.getLogger("dsx.access")

PUBLIC_PATHS = frozenset({"/health", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
PUBLIC_PREFIX = "/static-offline-docs/"

_KEY_NEEDED = "this hub needs its API key: send 'Authorization: Bearer <key>'; it must equal the hub's DSX_API_KEY"


class Front:
    """The ASGI application that uvicorn runs.

    Args:
        app: FastAPI with all other routes.
        data_routes: First path segment of each data route, with its ASGI application.
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
        self.close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        try:
            await self._answer(scope, receive, exchange)
        except asyncio.CancelledError:
            exchange.verdict = "stopped"
        except Exception as error:  # noqa: BLE001 -- the outermost door: a client gets an answer whatever happens
            await exchange.fail(error)
        finally:
            exchange.log_line()

    async def _answer(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        scope["dsx.request_id"] = exchange.request_id
        path = scope["path"]
        if path not in PUBLIC_PATHS and not path.startswith(PUBLIC_PREFIX):
            principal = self._keyring.authenticate(scope["headers"])
            if principal is None:
                raise ProblemError("unauthorized", _KEY_NEEDED, {"WWW-Authenticate": "Bearer"})
            scope["dsx.principal"] = principal
        data_route = self._data_routes.get(path.split("/", 2)[1]) if path.count("/") >= 2 else None
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
        self.request_id = secrets.token_hex(6)
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

    def log_line(self) -> None:
        """Write the access line: the path as it was sent, percent-encoded, without its query."""
        if not access_log.isEnabledFor(logging.INFO):
            return
        scope: Mapping[str, Any] = self._scope
        sent = 0 if scope["method"] == "HEAD" else self._sent_bytes
        verdict = self.verdict or ("" if self._complete else "aborted")
        access_log.info(
            "%s %s %s %d %d B %.1f ms id=%s%s",
            scope["client"][0] if scope.get("client") else "-",
            scope["method"],
            scope["raw_path"].decode("ascii", "backslashreplace"),
            self._status,
            sent,
            (time.perf_counter() - self._began) * 1000,
            self.request_id,
            f" {verdict}" if verdict else "",
        )
