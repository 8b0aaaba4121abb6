"""Without the hub: what a client with ``DSX_OFFLINE=1`` reads comes from its cache, verified, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dsx._batch import Outlet, Result
from dsx._cache import Cache
from dsx._reads import Origin, Read
from dsx.errors import DsxError, OfflineError
from dsx.protocol.text import shown


class CacheOnly:
    """Brings reads from the cache. Threads may share it.

    Args:
        cache: The cache; None when the client has none.
    """

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache

    def bring(self, origin: Origin, reads: Sequence[Read], outlet: Outlet, stop: threading.Event) -> None:
        """Deliver what the cache has, in order, and an error in the place of what it has not."""
        for read in reads:
            if stop.is_set():
                return
            outlet.deliver([self._read(origin.dataset, read)])

    def _read(self, dataset: str, read: Read) -> Result:
        if read.refusal is not None:
            return read.refusal
        try:
            record = None if self._cache is None else self._cache.find(dataset, read.path)
            if self._cache is None or record is None or (read.entry is not None and not record.is_entry(read.entry)):
                return OfflineError.name(shown(f"{dataset}/{read.path}"))
            start, stop = read.span or (0, record.size)
            with open(self._cache.target(dataset, read.path), "rb") as file:
                file.seek(start)
                return file.read(max(0, stop - start))
        except DsxError as error:
            return error
        except OSError:  # gone since it was found
            return OfflineError.name(shown(f"{dataset}/{read.path}"))
