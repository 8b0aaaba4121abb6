"""Every error that DSX Hub raises on purpose, for both programs::

    DsxError
    ├── NotFoundError                  FileNotFoundError
    │   ├── DatasetNotFoundError
    │   ├── EntryNotFoundError
    │   └── RevisionNotFoundError
    ├── AccessDeniedError              PermissionError
    ├── HubUnreachableError            ConnectionError     retryable
    │   ├── HubUnavailableError                            retryable
    │   └── OfflineError
    ├── HubTimeoutError                TimeoutError        retryable
    ├── InvalidRequestError            ValueError
    │   ├── InvalidPathError
    │   ├── RangeError
    │   └── CacheDisabledError
    ├── ConflictError                  OSError
    ├── IntegrityError                 OSError             retryable
    ├── UnreadableError                OSError
    ├── HubError                       OSError
    ├── CacheError                     OSError
    ├── DownloadError                  OSError
    └── MissingExtraError              ImportError

Each leaf is also the builtin that a Python user already catches. Each can be built from one string and pickled,
because that is how DataLoader workers hand errors to their parent. ``retryable`` says whether asking again can help,
and nothing else decides a retry.

`PROBLEMS` maps the stable ``code`` of the hub's problem JSON to an HTTP status and to the class that the SDK raises.
"""

from __future__ import annotations

from typing import NamedTuple


class DsxError(Exception):
    """Base of every error of DSX Hub; its message says what happened, where, and what to do.

    Attributes:
        retryable: Whether the same call may succeed when it is made again.
        retry_after_s: Seconds that the hub asked to wait before that, or None.
        request_id: The id under which the hub logged the request, or None.
        code: The hub's stable name of the problem, a key of `PROBLEMS`; empty where there is none.
    """

    retryable: bool = False
    retry_after_s: float | None = None
    request_id: str | None = None
    code: str = ""


class NotFoundError(DsxError, FileNotFoundError):
    """What was asked for is not on the hub."""


class DatasetNotFoundError(NotFoundError):
    """The hub has no such dataset, or this key may not read it."""


class EntryNotFoundError(NotFoundError):
    """The dataset has no such entry."""


class RevisionNotFoundError(NotFoundError):
    """The dataset has no such revision, or has it no longer; ``hub.list_revisions(name)`` lists those it has."""


class AccessDeniedError(DsxError, PermissionError):
    """The hub did not accept the API key."""


class HubUnreachableError(DsxError, ConnectionError):
    """No hub answers at this address, or the connection broke."""

    retryable = True


class HubUnavailableError(HubUnreachableError):
    """The hub answers, but cannot serve at the moment: it starts, stops or is busy."""


class OfflineError(HubUnreachableError):
    """``DSX_OFFLINE`` is set, and the cache does not have what was asked for."""

    retryable = False

    @classmethod
    def name(cls, what: str) -> OfflineError:
        """Return the error that says that ``what`` is missing."""
        return cls(f"DSX_OFFLINE is set, and {what} is not in the cache; unset it to have the hub asked")


class HubTimeoutError(DsxError, TimeoutError):
    """The hub stopped answering for longer than the timeout."""

    retryable = True


class InvalidRequestError(DsxError, ValueError):
    """An argument or a setting cannot be right, whatever the hub holds."""


class InvalidPathError(InvalidRequestError):
    """A dataset name or a path that the gate does not admit, or that this system cannot hold."""


class RangeError(InvalidRequestError):
    """A byte range that starts past the end of the entry."""


class CacheDisabledError(InvalidRequestError):
    """The call needs the cache folder, and the client was made with ``cache_dir=None``."""


class ConflictError(DsxError, OSError):
    """The entry is no longer what the request or the manifest said it was."""


class IntegrityError(DsxError, OSError):
    """The bytes that arrived are not the bytes that the hub declared; they were thrown away."""

    retryable = True


class UnreadableError(DsxError, OSError):
    """The hub has the entry but its disk did not give it: permission denied, I/O error."""


class HubError(DsxError, OSError):
    """The hub failed, or answered with something that is not its protocol."""


class CacheError(DsxError, OSError):
    """The cache folder could not be read or written, or holds something in the way."""


class DownloadError(DsxError, OSError):
    """Some files of a download failed; the others are in the cache.

    Attributes:
        failures: Path of each entry that failed, with its error.
    """

    failures: dict[str, Exception]

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.failures = {}


class MissingExtraError(DsxError, ImportError):
    """An optional part of DSX Hub is not installed; the message is the pip line that adds it."""


class Problem(NamedTuple):
    """One row of `PROBLEMS`."""

    status: int
    error: type[DsxError]


PROBLEMS: dict[str, Problem] = {
    "unauthorized": Problem(401, AccessDeniedError),
    "dataset_not_found": Problem(404, DatasetNotFoundError),
    "entry_not_found": Problem(404, EntryNotFoundError),
    "revision_not_found": Problem(404, RevisionNotFoundError),
    "route_not_found": Problem(404, NotFoundError),
    "method_not_allowed": Problem(405, HubError),
    "conflict": Problem(409, ConflictError),
    "precondition_failed": Problem(412, ConflictError),
    "range_not_satisfiable": Problem(416, RangeError),
    "invalid_path": Problem(400, InvalidPathError),
    "invalid_request": Problem(422, InvalidRequestError),
    "internal": Problem(500, HubError),
    "unreadable": Problem(500, UnreadableError),
    "unavailable": Problem(503, HubUnavailableError),
    # Behind the codes that their classes stand for when it is the class that is answered.
    "too_large": Problem(413, InvalidRequestError),
    "busy": Problem(429, HubUnavailableError),
}
