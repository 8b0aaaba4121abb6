"""How much the SDK has put into a cache folder, and how just that is deleted: through no link, from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dsx._cache import Cache
from dsx._disk import cache_errors, hash_file, is_free_of_links, remove_empty_folders, stat_file
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


class CachedDataset(NamedTuple):
    """What one dataset has in a cache.

    Attributes:
        name: Its name.
        files: How many files the SDK has put there, manifests and unfinished downloads among them.
        bytes: What they take.
    """

    name: str
    files: int
    bytes: int


def list_cached(cache: Cache) -> list[CachedDataset]:
    """Return what each dataset has in the cache, sorted by name."""
    found = []
    for name in _list_datasets(cache):
        sizes = [file.lstat().st_size for file in _list_files(cache, name)]
        if sizes:
            found.append(CachedDataset(name, len(sizes), sum(sizes)))
    return found


class Pruned(NamedTuple):
    """What pruning did.

    Attributes:
        freed: How many bytes are gone.
        left: How many bytes of entries are left.
    """

    freed: int
    left: int


def prune_cache(cache: Cache, limit: int) -> Pruned:
    """Remove what was not used for longest until the entries have at most ``limit`` bytes, or the rest is in use."""
    if not _has_anything(cache):
        return Pruned(0, 0)
    excess = cache.ledger.count_bytes() - limit
    freed = cache.parts.quota.free(excess) if excess > 0 else 0
    return Pruned(freed, cache.ledger.count_bytes())


class Checked(NamedTuple):
    """What reading all files of a cache has shown.

    Attributes:
        right: How many are as they were verified.
        unknown: How many were never verified, because a ledger was lost.
        damaged: The names of those that are not, as ``dataset/path``.
        missing: The names of those that are gone.
    """

    right: int
    unknown: int
    damaged: list[str]
    missing: list[str]


def verify_cache(cache: Cache) -> Checked:
    """Read every file that the SDK has put there and compare its SHA-256; what is wrong is believed no more."""
    right = unknown = 0
    damaged: list[str] = []
    missing: list[str] = []
    if not _has_anything(cache):
        return Checked(0, 0, [], [])
    for dataset, path, record in cache.ledger.list_all_ours():
        if not dataset:
            continue  # a manifest; it has a checksum of its own, or is written anew
        file = cache.target(dataset, path)
        with cache_errors(file):
            status = stat_file(file)
            if status is None:
                missing.append(f"{dataset}/{path}")
            elif not record.digest:
                unknown += 1
            elif status.st_size == record.size and hash_file(file) == record.digest:
                right += 1
            else:
                damaged.append(f"{dataset}/{path}")
                cache.ledger.doubt([(dataset, path, record.mtime_ns)])
    return Checked(right, unknown, damaged, missing)


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
