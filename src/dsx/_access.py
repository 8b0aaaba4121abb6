"""What the calls of one client share: the hub, what is known of it, and the folders that files are put into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsx._batch import Batches
from dsx._cache import Cache
from dsx._folders import Folders
from dsx._manifests import Manifests
from dsx._offline import CacheOnly
from dsx._transport import Transport
from dsx.config import HubAddress


class Access:
    """The way of one client to its hub. Threads share it; pickled, it is address and folder, and all else is made anew.

    Args:
        address: The hub, and the key for it.
        cache_dir: The cache folder; None for none.
        cache_limit_bytes: How many bytes the entries in it may have; None for any number.
    """

    def __init__(self, address: HubAddress, cache_dir: Path | None, cache_limit_bytes: int | None = None) -> None:
        self.address = address
        self.cache_dir = cache_dir
        self.cache_limit_bytes = cache_limit_bytes
        self.transport = Transport(address)
        self.cache = None if cache_dir is None else Cache(cache_dir, limit_bytes=cache_limit_bytes)
        self.manifests = Manifests(self.transport, self.cache)
        self.batches = Batches(self.transport)
        if address.is_offline:
            self.batches.stand_in = CacheOnly(self.cache).bring
        self.folders = Folders(self.cache)

    def close(self) -> None:
        """End this process's connections and bring what it wrote to rest."""
        self.transport.close()
        self.folders.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Access, (self.address, self.cache_dir, self.cache_limit_bytes)
