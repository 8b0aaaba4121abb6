"""DSX Hub's SDK: read datasets that lie on another machine.

::

    from dsx import DatasetHubClient

    hub = DatasetHubClient("http://192.168.1.5:8000", "my-key")
"""

from dsx.client import DatasetHubClient
from dsx.errors import (
    AccessDeniedError,
    CacheDisabledError,
    CacheError,
    ConflictError,
    DatasetNotFoundError,
    DownloadError,
    DsxError,
    EntryNotFoundError,
    HubError,
    HubTimeoutError,
    HubUnavailableError,
    HubUnreachableError,
    IntegrityError,
    InvalidPathError,
    InvalidRequestError,
    MissingExtraError,
    NotFoundError,
    RangeError,
    RevisionNotFoundError,
    UnreadableError,
)
from dsx.protocol.version import __version__

__all__ = [
    "AccessDeniedError",
    "CacheDisabledError",
    "CacheError",
    "ConflictError",
    "DatasetHubClient",
    "DatasetNotFoundError",
    "DownloadError",
    "DsxError",
    "EntryNotFoundError",
    "HubError",
    "HubTimeoutError",
    "HubUnavailableError",
    "HubUnreachableError",
    "IntegrityError",
    "InvalidPathError",
    "InvalidRequestError",
    "MissingExtraError",
    "NotFoundError",
    "RangeError",
    "RevisionNotFoundError",
    "UnreadableError",
    "__version__",
]
