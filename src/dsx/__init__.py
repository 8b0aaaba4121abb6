"""DSX Hub's SDK: read datasets that lie on another machine.

::

    from dsx import DatasetHubClient

    hub = DatasetHubClient("http://192.168.1.5:8000", "my-key")
"""

from dsx._meter import StreamStats
from dsx._source import Sample
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
    OfflineError,
    RangeError,
    RevisionNotFoundError,
    UnreadableError,
)
from dsx.manifest import Manifest, ManifestEntry
from dsx.protocol.models import DatasetDiff, RevisionInfo
from dsx.protocol.version import __version__
from dsx.stream import SampleStream

__all__ = [
    "AccessDeniedError",
    "CacheDisabledError",
    "CacheError",
    "ConflictError",
    "DatasetDiff",
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
    "Manifest",
    "ManifestEntry",
    "MissingExtraError",
    "NotFoundError",
    "OfflineError",
    "RangeError",
    "RevisionInfo",
    "RevisionNotFoundError",
    "Sample",
    "SampleStream",
    "StreamStats",
    "UnreadableError",
    "__version__",
]
