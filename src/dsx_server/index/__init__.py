"""What datasets hold, known without reading them again."""

from dsx_server.index.digesting import Digester
from dsx_server.index.digests import Learned
from dsx_server.index.history import Difference, PublishedRevision
from dsx_server.index.index import Index
from dsx_server.index.keeper import Keeper
from dsx_server.index.revisions import RevisionInfo
from dsx_server.index.rows import Row
from dsx_server.index.scan import is_racy
from dsx_server.index.schema import claim_folder
from dsx_server.index.snapshots import Format, Snapshot
from dsx_server.index.waiting import FIRST_SCAN_S, FRESH_WITHIN_S, FirstScanError, Scans, WaitingRoom
from dsx_server.index.watching import Watcher, can_watch

__all__ = [
    "FIRST_SCAN_S",
    "FRESH_WITHIN_S",
    "Difference",
    "Digester",
    "FirstScanError",
    "Format",
    "Index",
    "Keeper",
    "Learned",
    "PublishedRevision",
    "RevisionInfo",
    "Row",
    "Scans",
    "Snapshot",
    "WaitingRoom",
    "Watcher",
    "can_watch",
    "claim_folder",
    "is_racy",
]
