"""What the cache does with the disk: make, move, hash, sync; and what the disk says, in our words."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dsx.errors import CacheError, DsxError
from dsx.protocol.digests import head_hash

HASH_BLOCK_BYTES = 1024**2
HASHING_THREADS = 4
PARALLEL_FROM_BYTES = 64 * 1024
"""Mean size of files, in bytes, from which on threads read several at once."""


_NETWORK_TYPES = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_KNOWS_LINKS = os.access in os.supports_follow_symlinks

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
        raise CacheError(
            f"the cache cannot be used at {where}: {reason}; {cure}, or use another folder, as cache_dir or dest"
        ) from error


def is_unwritable(error: BaseException | None) -> bool:
    """Tell whether what the system said means that nothing more can be written there."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


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


class FileHashes(NamedTuple):
    """What a file is found to be: its size in bytes, its head hash and its SHA-256, in hex."""

    size: int
    head_hash: str
    digest: str


def hash_files(names: Sequence[str], total_bytes: int) -> list[FileHashes | None]:
    """Read files that are not long, of ``total_bytes`` in all; None for one that cannot be read."""
    if total_bytes < len(names) * PARALLEL_FROM_BYTES:
        return [_hash_short(name) for name in names]  # of small ones, threads take longer
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return list(pool.map(_hash_short, names))


def _hash_short(name: str) -> FileHashes | None:
    try:
        with open(name, "rb", buffering=0) as opened:
            data = opened.readall()
    except OSError:
        return None
    return FileHashes(len(data), head_hash(data), hashlib.sha256(data).hexdigest())


def write_new_file(name: str, data: bytes) -> int:
    """Write a file that is not there yet, and return its time of modification, ns.

    Strings and descriptors: of many small files, `open` and `Path` would take longer than the system does.
    """
    descriptor = os.open(name, _NEW_FILE, 0o666)
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, memoryview(data)[written:])
        if os.name == "posix":
            return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
    return os.stat(name).st_mtime_ns  # elsewhere it is settled when the file is closed


def is_anything_at(name: str) -> bool:
    """Tell whether there is anything of this name, be it a link that leads nowhere."""
    if _KNOWS_LINKS:  # quicker: no exception when there is nothing
        return os.access(name, os.F_OK, follow_symlinks=False)
    return os.path.lexists(name)


def is_free_of_links(folder: Path, *, below: Path) -> bool:
    """Tell whether the way from ``below`` to ``folder`` leads through no link."""
    way = [folder.relative_to(below), *folder.relative_to(below).parents]
    return not any((below / each).is_symlink() for each in way[:-1])


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


def is_network_disk(folder: Path) -> bool:
    """Tell whether ``folder`` lies on a file system whose locks and shared memory cannot be relied on.

    Only Linux says so in a file; elsewhere the answer is no, and SQLite's own errors have to do.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    real = Path(os.path.realpath(folder))
    best, kind = "", ""
    for _, point, fstype, *_ in (line.split(" ") for line in mounts):
        mount = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        if real.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, fstype
    return kind in _NETWORK_TYPES


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
