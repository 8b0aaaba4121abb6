"""HTTP to one hub: one connection pool per process, timeouts, no redirects, every error translated.

Nothing above this module sees an exception of requests or urllib3. What connections are made is in `dsx._way`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote, urlsplit

import requests
import urllib3
from requests.utils import select_proxy

from dsx._link import Link
from dsx._problems import parse_problem, parse_retry_after, word_problem
from dsx._process import PerProcess
from dsx._way import Way, find_settings
from dsx.config import HubAddress
from dsx.errors import (
    PROBLEMS,
    AccessDeniedError,
    ConflictError,
    DsxError,
    EntryNotFoundError,
    HubError,
    HubTimeoutError,
    HubUnavailableError,
    HubUnreachableError,
    IntegrityError,
    InvalidRequestError,
    NotFoundError,
    OfflineError,
    UnreadableError,
)
from dsx.protocol.text import printable

READ_TIMEOUT_S = 30.0
BLOCK_BYTES = 256 * 1024

SMALL_BODY_BYTES = 1024 * 1024
LARGE_BODY_BYTES = 2 * 1024**3
BOMB_FROM_BYTES = 64 * 1024**2
BOMB_RATIO = 200
"""A body that unpacks to this many times its size, past `BOMB_FROM_BYTES`, is no manifest: those reach about 25."""

# What the libraries below raise, most special first, with what it is for us. A test holds this table against them.
TRANSLATIONS: tuple[tuple[type[Exception], type[DsxError], bool], ...] = (
    (requests.exceptions.SSLError, HubUnreachableError, False),
    (requests.exceptions.ConnectTimeout, HubUnreachableError, True),
    (requests.exceptions.ReadTimeout, HubTimeoutError, True),
    (requests.exceptions.ConnectionError, HubUnreachableError, True),
    (requests.exceptions.ChunkedEncodingError, HubUnreachableError, True),
    (requests.exceptions.ContentDecodingError, IntegrityError, True),
    (requests.exceptions.InvalidURL, InvalidRequestError, False),
    (requests.exceptions.InvalidHeader, HubError, False),  # of the answer; ours are checked before
    (requests.exceptions.RequestException, HubError, False),
    (urllib3.exceptions.SSLError, HubUnreachableError, False),
    (urllib3.exceptions.ReadTimeoutError, HubTimeoutError, True),
    (urllib3.exceptions.DecodeError, IntegrityError, True),
    (urllib3.exceptions.LocationValueError, InvalidRequestError, False),
    (urllib3.exceptions.InvalidHeader, HubError, False),
    (urllib3.exceptions.HTTPError, HubUnreachableError, True),
    (OSError, HubUnreachableError, True),
    (ValueError, HubError, False),  # what the parsers below them let through
)

_BY_STATUS: dict[int, type[DsxError]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    412: ConflictError,  # nobody but us says If-Match
    429: HubUnavailableError,
    502: HubUnavailableError,
    503: HubUnavailableError,
    504: HubUnavailableError,
}


# The answer to a HEAD has no body that could say more.
_BY_STATUS_OF_HEAD: dict[int, type[DsxError]] = {
    404: EntryNotFoundError,
    409: ConflictError,
    500: UnreadableError,
}


class Transport:
    """Requests to one hub. Threads may share it; each process makes its own connections.

    Attributes:
        has_answered: Whether the hub has answered since this object was made. A hub that was there is waited for.
    """

    def __init__(self, address: HubAddress) -> None:
        self._address = address
        self._ways = PerProcess(lambda: Way(address))
        self._links = PerProcess(Link)
        self.has_answered = False

    @property
    def url(self) -> str:
        """The hub's base URL."""
        return self._address.url

    @property
    def is_offline(self) -> bool:
        """Whether the hub must not be asked for anything."""
        return self._address.is_offline

    @property
    def link(self) -> Link:
        """What the transfers of long entries have in flight."""
        return self._links.get()

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Answer]:
        """Send one request and give its answer, body unread; leaving the context lets go of the connection.

        Args:
            method: HTTP method.
            path: Path and query below the base URL, percent-encoded.
            headers: More request headers.
            body: Body of the request.
            timeout_s: Longest silence of the hub, in seconds; by default `READ_TIMEOUT_S`.

        Raises:
            DsxError: What the hub's error answer, or its absence, stands for.
        """
        if self.is_offline:
            raise OfflineError(f"DSX_OFFLINE is set, so that the hub is not asked for {unquote(path)}")
        try:
            seconds = READ_TIMEOUT_S if timeout_s is None else timeout_s
            response = self._ways.get().send(method, path, headers=headers or {}, body=body, timeout_s=seconds)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise translate(error, self._describe_way()) from error
        try:
            self.has_answered = True
            answer = Answer(response, method, self.url)
            if response.status >= 300 and response.status != 304:
                raise _error_from(answer, response.headers.get("Location"))
            yield answer
        finally:
            response.close()
            response.release_conn()

    def get_body(self, path: str, *, headers: Mapping[str, str] | None = None, timeout_s: float, limit: int) -> Body:
        """GET one JSON document of at most ``limit`` bytes, unpacked."""
        wanted = {"Accept": "application/json", "Accept-Encoding": "gzip"} | dict(headers or {})
        with self.open("GET", path, headers=wanted, timeout_s=timeout_s) as answer:
            return Body(answer.status, answer.headers, b"" if answer.status == 304 else answer.read_document(limit))

    def _describe_way(self) -> str:
        """Word where requests go, for a message: with a proxy between, that may be the one that does not answer."""
        proxy = select_proxy(self.url, find_settings(self._address)["proxies"])
        return f"{self.url} through the proxy {urlsplit(proxy).hostname}" if proxy else self.url

    def close(self) -> None:
        """Close this process's connections; a later request opens new ones."""
        way = self._ways.pop()
        if way is not None:
            way.close()

    def __reduce__(self) -> tuple[type[Transport], tuple[HubAddress]]:
        return type(self), (self._address,)


class Body:
    """An answer that was read to its end."""

    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data


class Answer:
    """An answer whose body has not been read.

    Attributes:
        status: HTTP status.
        method: Method of the request.
        headers: Response headers; their names in any case.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, method: str, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.method = method
        self.headers: Mapping[str, str] = response.headers

    @property
    def length(self) -> int | None:
        """The declared length of the body in bytes; None when there is none that can be trusted."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None

    def iter_blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Yield the body as it came over the wire, in blocks of ``block_bytes``."""
        while block := self._read(block_bytes, unpack=False):
            yield block

    def iter_arrivals(self, most_bytes: int) -> Iterator[bytes]:
        """Yield the body as it comes in, waiting for no more than is there; at most ``most_bytes`` at a time.

        When it breaks off, all that had come before has been yielded.
        """
        # read() waits until a block is full, and drops what it has of it when the connection breaks.
        read = getattr(self._response, "read1", self._response.read)  # urllib3 has it since 2.1
        while block := self._call(lambda: read(most_bytes, decode_content=False)):
            yield block

    def abort(self) -> None:
        """End the body, from another thread: whoever waits for its next bytes gets an error at once."""
        shutdown = getattr(self._response, "shutdown", None)  # urllib3 has it since 2.3; else the timeout ends it
        if shutdown is not None:
            with suppress(ValueError, RuntimeError, OSError):  # it has ended by itself
                shutdown()

    def read_document(self, limit: int) -> bytes:
        """Return the whole body, unpacked.

        Raises:
            IntegrityError: It is longer than ``limit`` bytes or unpacks to far more than it can hold.
        """
        parts = []
        total = 0
        while block := self._read(BLOCK_BYTES * 4, unpack=True):
            parts.append(block)
            total += len(block)
            if total > limit or total > max(BOMB_FROM_BYTES, BOMB_RATIO * self._response.tell()):
                error = IntegrityError(f"the answer of {self._url} is larger than any that a hub would give; not read")
                error.retryable = False
                raise error
        return b"".join(parts)

    def _read(self, count: int, *, unpack: bool) -> bytes:
        return self._call(lambda: self._response.read(count, decode_content=unpack))

    def _call(self, read: Callable[[], bytes | None]) -> bytes:
        try:
            return read() or b""
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise translate(error, self._url) from error


def quote_path(*segments: str) -> str:
    """Percent-encode dataset and path for a URL; their slashes stay."""
    return "/".join(quote(segment, safe="/") for segment in segments)


def translate(error: Exception, url: str) -> DsxError:
    """Say in our words what a library below said."""
    if getattr(_innermost(error), "errno", None) in (errno.EMFILE, errno.ENFILE):
        return HubError("this process has too many open files; close some, or raise its limit (ulimit -n)")
    for theirs, ours, retryable in TRANSLATIONS:
        if isinstance(error, theirs):
            translated = ours(_word(error, ours, url))
            translated.retryable = retryable
            return translated
    return HubError(f"the request to {url} failed: {type(error).__name__}")


def _word(error: Exception, ours: type[DsxError], url: str) -> str:
    reason = _innermost_reason(error)
    if "WRONG_VERSION_NUMBER" in reason or "record layer" in reason:
        return f"what answers at {url} does not speak https; try http:// in base_url"
    if ours is HubTimeoutError:
        return f"the hub at {url} stopped answering ({reason}); is it overloaded, or the network down?"
    if ours is IntegrityError:
        return f"the answer of the hub at {url} cannot be unpacked ({reason})"
    if ours is InvalidRequestError:
        return f"no request can be made to {url} ({reason}); check base_url"
    if ours is HubError:
        return f"the request to {url} failed ({reason})"
    return f"no hub answers at {url} ({reason}); is it running, and is base_url right?"


def _innermost(error: BaseException) -> BaseException:
    """Dig the system's own error out of what requests and urllib3 wrapped around it."""
    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        inner = inner or error.__cause__
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _innermost_reason(error: BaseException) -> str:
    error = _innermost(error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    said = re.search(r"\[Errno -?\d+\] (.+?)\)?\Z", text)
    return printable(said[1] if said else text)


def _error_from(answer: Answer, location: str | None) -> DsxError:
    """Build the error that an error answer stands for."""
    if location is not None and answer.status < 400:
        return HubError(
            f"{answer._url} sends on to {printable(location)}; the key is not sent there: "
            "if that is the hub, use it as base_url"
        )
    try:
        problem = parse_problem(answer.read_document(SMALL_BODY_BYTES))
    except DsxError:
        problem = {}
    code = str(problem.get("code"))
    row = PROBLEMS.get(code)
    known = _BY_STATUS | _BY_STATUS_OF_HEAD if answer.method == "HEAD" else _BY_STATUS
    if row is None and answer.status not in known:
        return HubError(f"what answers at {answer._url} is not a DSX hub (status {answer.status}); check base_url")
    kind = row.error if row else known[answer.status]
    text = word_problem(problem) or f"the hub answered with status {answer.status}"
    if kind is NotFoundError:
        text = f"{text} (base_url is {answer._url}: is that the hub?)"
    if kind is AccessDeniedError:
        text = f"the hub at {answer._url} did not accept the API key; check that api_key equals the hub's DSX_API_KEY"
    error = kind(text)
    error.code = code if row else ""
    error.retry_after_s = parse_retry_after(answer.headers.get("Retry-After"))
    error.request_id = printable(answer.headers.get("X-Request-Id", "")) or None
    return error
