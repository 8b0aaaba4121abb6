"""Removing from a folder what the SDK has put there and the dataset, or what is wanted of it, no longer has."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from dsx._cache import Cache
from dsx._disk import cache_errors, hash_file, is_free_of_links, remove_empty_folders, stat_file
from dsx._ledger import Record
from dsx.errors import InvalidPathError
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

PRUNED_AT_ONCE = 500


def list_surplus(cache: Cache, dataset: str, ours: Iterable[str], keep: Container[str]) -> Iterator[str]:
    """Name the files that `prune_folder` would remove, unless it finds that somebody has edited them or shares them.

    Args:
        cache: The folder.
        dataset: Name of the dataset.
        ours: Paths of the files that the ledger lists as put there for it.
        keep: Paths of the entries that it is to have.
    """
    for path in ours:
        if path not in keep:
            try:
                is_there = stat_file(cache.target(dataset, path)) is not None
            except (InvalidPathError, OSError):
                continue
            if is_there:
                yield path


def prune_folder(cache: Cache, dataset: str, keep: Container[str]) -> int:
    """Remove the files that the ledger lists as put there for ``dataset`` and that are not to be kept.

    A file stays when it is not what the ledger says, when a link leads to it, and when another dataset has it too.
    Folders that become empty are removed.

    Args:
        cache: The folder.
        dataset: Name of the dataset.
        keep: Paths of the entries that it is to have.

    Returns:
        How many files were removed.
    """
    surplus = [path for path in cache.ledger.list_ours(dataset) if path not in keep]
    removed = 0
    for start in range(0, len(surplus), PRUNED_AT_ONCE):
        with cache_errors(cache.root):
            removed += _prune(cache, dataset, surplus[start : start + PRUNED_AT_ONCE])
    if removed:
        cache.keep_published()
    return removed


def _prune(cache: Cache, dataset: str, paths: list[str]) -> int:
    ledger = cache.ledger
    records = ledger.get_many(dataset, paths)
    shared = ledger.hand_over(dataset, paths)
    removed = 0
    forgotten = {path: record for path, record in records.items() if path in shared}
    folders: dict[Path, bool] = {}
    try:
        for path, record in records.items():
            if path in shared:
                continue
            try:
                file = cache.target(dataset, path)
            except InvalidPathError:  # a ledger that somebody has tampered with
                continue
            if file.parent not in folders:
                folders[file.parent] = is_free_of_links(file.parent, below=cache.root)
            if folders[file.parent] and _is_as_published(file, record):
                file.unlink(missing_ok=True)
                removed += 1
            elif folders[file.parent] and not file.exists() and not file.is_symlink():
                pass  # it is gone already
            else:
                log.warning("%s is no longer what dsx put there; it was not deleted", shown(str(file)))
            forgotten[path] = record
    finally:
        ledger.forget_unless_renewed(dataset, forgotten)
    for folder, is_free in folders.items():
        if is_free:
            remove_empty_folders(folder, below=cache.root)
    return removed


def _is_as_published(file: Path, record: Record) -> bool:
    """Tell whether a file is what the SDK put there, reading it where only its time differs."""
    status = stat_file(file)
    if status is None or status.st_size != record.size:
        return False
    return status.st_mtime_ns == record.mtime_ns or hash_file(file) == record.digest
