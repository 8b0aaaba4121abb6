"""What the cache does with the disk: make, move, hash, sync; and what the disk says, in our words."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dsx.errors import CacheError, DsxError

HASH_BLOCK_BYTES = 1024**2

SINGLE_FILES = 16
"""Up to this many files are synced one by one; for more, one call for the file system is cheaper."""


@contextmanager
def cache_errors(where: Path) -> Iterator[None]:
    """Say what the disk said about the cache, in our words."""
    try:
        yield
    except DsxError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        cure = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder and its permissions"
        )
        raise CacheError(f"the cache cannot be used at {where}: {reason}; {cure}, or use another cache_dir") from error


def stat_file(file: Path) -> os.stat_result | None:
    """Return the status of a regular file that is no link; None for anything else."""
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file; no, where one leads nowhere."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    state = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(HASH_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, however deep: ``Path.mkdir`` calls itself for each and gives up at 1000."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)


def remove_empty_folders(folder: Path, *, below: Path) -> None:
    """Remove a folder and those above it, up to ``below``, as far as they are empty."""
    while folder != below:
        try:
            folder.rmdir()
        except OSError:
            return  # somebody else's files are in it
        folder = folder.parent


def move_file(temporary: Path, target: Path) -> None:
    """Give a finished file its name; where that is on another file system, by way of a copy beside it."""
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{secrets.token_hex(8)}.dsx")
        try:
            shutil.copy2(temporary, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)


def sync_files(files: Sequence[Path]) -> None:
    """Return when the bytes of ``files``, all on one file system, are on the disk; pass over files that are gone."""
    if len(files) > SINGLE_FILES and (sync_all := _syncfs()) is not None:
        any(_with_open(file, sync_all) for file in files)  # the first that is there will do
        return
    for file in files:
        _with_open(file, os.fsync)


def _with_open(path: Path, call: Callable[[int], object]) -> bool:
    """Call with a descriptor of the file; tell whether it is there."""
    try:
        descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        call(descriptor)
    finally:
        os.close(descriptor)
    return True


@functools.cache
def _syncfs() -> Callable[[int], object] | None:
    """Return Linux's syncfs(2), which Python does not offer; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None

    def sync_file_system(descriptor: int) -> None:
        if function(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")

    return sync_file_system
