"""Where the bytes of datasets lie: `base` says what a storage does, `local` does it for folders."""

from dsx_server.storage.base import (
    GONE,
    UNREADABLE,
    CachedEntry,
    Content,
    Head,
    Identity,
    Item,
    Listing,
    OpenEntry,
    Place,
    Places,
    Read,
    Reader,
    Storage,
    Watchable,
)
from dsx_server.storage.local import LocalStorage

__all__ = [
    "GONE",
    "UNREADABLE",
    "CachedEntry",
    "Content",
    "Head",
    "Identity",
    "Item",
    "Listing",
    "LocalStorage",
    "OpenEntry",
    "Place",
    "Places",
    "Read",
    "Reader",
    "Storage",
    "Watchable",
]
