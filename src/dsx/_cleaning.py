"""How much the SDK has put into a cache folder, and how just that is deleted: through no link, from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dsx._cache import Cache
from dsx._disk import cache_errors, is_free_of_links, remove_empty_folders, stat_file
from dsx._layout import check_cacheable
from dsx._manifest_files import list_columns_files, list_named_files, name_dataset


def measure_cache(cache: Cache, dataset: str | None) -> int:
    """Return the bytes that `clear_cache` would free, for one dataset or all."""
    names = _list_datasets(cache) if dataset is None else [check_cacheable(dataset)]
    if not _has_anything(cache):
        return 0
    return sum(file.lstat().st_size for name in names for file in _list_files(cache, name))


def clear_cache(cache: Cache, dataset: str | None) -> int:
    """Delete what the SDK put there, for one dataset or all, and return the bytes freed."""
    names = _list_datasets(cache) if dataset is None else [check_cacheable(dataset)]
    if not _has_anything(cache):
        return 0
    freed = 0
    for name in names:
        for file in list(_list_files(cache, name)):
            with cache_errors(file):
                size = file.lstat().st_size
                file.unlink(missing_ok=True)
            freed += size
        ours = cache.ledger.list_ours(name)
        for folder in {cache.target(name, path).parent for path in ours}:
            if is_free_of_links(folder, below=cache.root):
                remove_empty_folders(folder, below=cache.root)
        cache.ledger.forget_dataset(name)
        cache.ledger.forget("", [cache.manifest_file(name).name])
    return freed


def _has_anything(cache: Cache) -> bool:
    """Tell whether the SDK has been here; asked before anything is opened, so that looking makes nothing."""
    return cache.private.is_dir() or any(list_named_files(cache.root, cache.manifests))


def _list_datasets(cache: Cache) -> list[str]:
    if not _has_anything(cache):
        return []
    kept = {name_dataset(file) for file in cache.manifests.glob("*.json")}
    interrupted = set(cache.workshop.list_datasets())
    return sorted((kept | interrupted | set(cache.ledger.list_datasets())) - {""})


def _list_files(cache: Cache, dataset: str) -> Iterator[Path]:
    """Yield what the SDK has put there for ``dataset`` and can be reached without a link."""
    for path in cache.ledger.list_ours(dataset):
        if _is_reachable(cache, file := cache.target(dataset, path)):
            yield file
    manifest = cache.manifest_file(dataset)
    is_ours = cache.ledger.get("", manifest.name) is not None
    documents = [*([manifest] if is_ours else []), *list_columns_files(cache.manifests, dataset)]
    for file in [*documents, *cache.workshop.list_resting(dataset)]:
        if _is_reachable(cache, file):
            yield file


def _is_reachable(cache: Cache, file: Path) -> bool:
    """Tell whether ``file`` is a regular file inside the cache with no link on the way."""
    return stat_file(file) is not None and is_free_of_links(file.parent, below=cache.root)
