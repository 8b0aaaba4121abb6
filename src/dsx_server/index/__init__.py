"""What datasets hold, known without reading them again."""

from dsx_server.index.history import Difference, PublishedRevision
from dsx_server.index.index import Index
from dsx_server.index.revisions import RevisionInfo, Row
from dsx_server.index.waiting import FIRST_SCAN_S, FRESH_WITHIN_S, FirstScanError, WaitingRoom

__all__ = [
    "FIRST_SCAN_S",
    "FRESH_WITHIN_S",
    "Difference",
    "FirstScanError",
    "Index",
    "PublishedRevision",
    "RevisionInfo",
    "Row",
    "WaitingRoom",
]
