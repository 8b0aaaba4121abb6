"""Where the bytes of datasets lie: `base` says what a storage does, `local` does it for folders."""

from dsx_server.storage.base import Found, Identity, OpenEntry, Storage
from dsx_server.storage.local import LocalStorage

__all__ = ["Found", "Identity", "LocalStorage", "OpenEntry", "Storage"]
