"""The folders that one client puts files into: its cache, and those that calls name as ``dest``."""

from __future__ import annotations

import os
from pathlib import Path

from dsx._cache import Cache
from dsx._disk import is_same_file
from dsx._layout import FolderLayout
from dsx.errors import CacheDisabledError, InvalidRequestError

_INSTEAD = {"download_dataset": "name a folder with dest", "stream": "leave out cache=True"}


class Folders:
    """Finds the folder of a call. Threads may share it.

    Args:
        cache: The client's cache; None when it has none.
    """

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache
        self._others: dict[Path, Cache] = {}

    def find(self, call: str, dest: str | os.PathLike[str] | None = None) -> Cache:
        """Return the folder that a call of this name puts files into: one of somebody's own, or the cache.

        Raises:
            CacheDisabledError: No folder is named, and there is no cache.
            InvalidRequestError: The folder named cannot be one of somebody's own.
        """
        if dest is not None:
            return self._open(dest)
        if self._cache is None:
            instead = _INSTEAD.get(call, "use get_file_bytes()")
            raise CacheDisabledError(
                f"{call}() puts files into the cache, and this client was made with cache_dir=None; "
                f"give it a cache_dir, or {instead}"
            )
        return self._cache

    def close(self) -> None:
        """Bring what was written to rest, in all of them."""
        for folder in (self._cache, *self._others.values()):
            if folder is not None:
                folder.close()

    def _open(self, dest: str | os.PathLike[str]) -> Cache:
        if dest == "":
            raise InvalidRequestError("dest is empty; name a folder, or leave it out for the cache")
        root = Path(dest).expanduser().absolute()
        folder = self._others.setdefault(root, Cache(root, FolderLayout()))
        if folder.manifests.exists() or (self._cache is not None and is_same_file(root, self._cache.root)):
            raise InvalidRequestError(f"{root} is a cache: files of datasets lie in folders there; use another dest")
        return folder
