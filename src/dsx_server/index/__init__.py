"""What datasets hold, known without reading them again."""

from dsx_server.index.history import Difference, PublishedRevision
from dsx_server.index.index import Index
from dsx_server.index.revisions import RevisionInfo, Row
from dsx_server.index.waiting import WaitingRoom

__all__ = ["Difference", "Index", "PublishedRevision", "RevisionInfo", "Row", "WaitingRoom"]
