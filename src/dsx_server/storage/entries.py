"""One open file of a dataset, and what the system's errors mean."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import NoReturn

from dsx.errors import DsxError, EntryNotFoundError, HubUnavailableError, UnreadableError
from dsx.protocol.text import shown
from dsx_server.storage.base import Identity
from dsx_server.storage.beneath import NOT_THERE, OUT_OF_DESCRIPTORS
from dsx_server.storage.walking import identity_of

SETTLE_NS = 20_000_000
"""An entry younger than this (ns) is stat'ed again before its identity is trusted.

Two writes within one tick of the kernel's clock leave equal times; a tick is at most 10 ms (CONFIG_HZ=100)."""


class LocalEntry:
    """One open file; see `OpenEntry`."""

    def __init__(self, descriptor: int, path: str, identity: Identity | None = None) -> None:
        self._descriptor = descriptor
        self._path = path
        self.identity = _settled_identity(descriptor) if identity is None else identity

    def read(self, start: int, stop: int) -> bytes:
        """Read the bytes ``[start, stop)``; fewer when the file ends before ``stop``."""
        try:
            data = _pread(self._descriptor, stop - start, start)
            if len(data) == stop - start:
                return data
            parts = [data]
            while data and (start := start + len(data)) < stop:
                data = _pread(self._descriptor, stop - start, start)
                parts.append(data)
        except OSError as error:
            raise UnreadableError(f"{shown(self._path)} cannot be read on the hub: {error.strerror}") from error
        return b"".join(parts)

    def is_unchanged(self) -> bool:
        """Tell whether the file still is in the state it was opened in."""
        return identity_of(os.fstat(self._descriptor)) == self.identity

    def close(self) -> None:
        """Close the file; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> LocalEntry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class CachedEntry(LocalEntry):
    """One open file, of which can be read without waiting what is in memory; see `CachedEntry` in `base`."""

    def read_cached(self, start: int, stop: int) -> bytearray | None:
        """Read the bytes ``[start, stop)`` if the file has them and all are in the page cache."""
        block = bytearray(stop - start)
        try:
            count = os.preadv(self._descriptor, (block,), start, _NOWAIT) if block else 0
        except (OSError, AttributeError):  # not in memory; or a disk, or a system, that knows no such question
            return None
        return block if count == stop - start else None

    def is_unchanged(self) -> bool:
        """Tell whether the file still is in the state it was opened in."""
        return is_in_state(os.fstat(self._descriptor), self.identity)


def is_in_state(status: os.stat_result, identity: Identity) -> bool:
    """Tell whether a file that was stat'ed is in this state; quicker than two identities."""
    state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return state == identity or identity_of(status) == identity


def raise_for(error: OSError, dataset: str, path: str) -> NoReturn:
    """Translate what the system said; only "not there" becomes not found, everything else is a failure to read."""
    if error.errno in NOT_THERE:
        raise entry_not_found(dataset, path) from error
    raise cannot_read(shown(f"{dataset}/{path}"), error) from error


def cannot_read(what: str, error: OSError) -> DsxError:
    """Word a failure to read: of the disk, or of the hub, if that has too many open files just now."""
    if error.errno in OUT_OF_DESCRIPTORS:
        busy = HubUnavailableError("the hub has too many open files at the moment; try again")
        busy.retry_after_s = 1
        return busy
    return UnreadableError(f"{what} cannot be read on the hub: {error.strerror}")


def entry_not_found(dataset: str, path: str) -> EntryNotFoundError:
    """Word that a dataset has no such entry."""
    return EntryNotFoundError(f"dataset {shown(dataset)} has no entry {shown(path)}; get_manifest() lists those it has")


def _settled_identity(descriptor: int) -> Identity:
    """Return the file's identity, waiting out the clock tick of a write that has only just happened."""
    for _ in range(3):
        status = os.fstat(descriptor)
        age_ns = time.time_ns() - status.st_ctime_ns
        if not 0 <= age_ns < SETTLE_NS:
            break
        time.sleep((SETTLE_NS - age_ns) / 1e9)
    return identity_of(status)


def _pread_by_seeking(descriptor: int, length: int, offset: int) -> bytes:
    """Stand in for ``os.pread`` on Windows; an open entry belongs to one request, so the offset is its own."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


_pread = getattr(os, "pread", _pread_by_seeking)

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
