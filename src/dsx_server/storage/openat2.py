"""Open a file only if that needs no waiting: Linux' ``openat2`` with ``RESOLVE_CACHED``, which Python has no call for.

Source:
    openat2(2). ``RESOLVE_CACHED`` is there since Linux 5.12: an open fails with EAGAIN where a folder on the way would
    have to be read from the disk, or asked for over a network.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from typing import TypeAlias

HERE = -100
"""In place of the descriptor of a folder: a path is whole, or begins in the working directory (``AT_FDCWD``)."""

_OPENAT2 = 437  # on every architecture that Python runs on

_NO_MAGICLINKS = 0x02
_NO_SYMLINKS = 0x04
_BENEATH = 0x08
_CACHED = 0x20


class How(ctypes.Structure):
    """What the system is to do: ``struct open_how``."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


OpenCached: TypeAlias = Callable[[int, bytes, How], int]
"""Opens a path, relative to the descriptor of a folder: a descriptor, or -1 for any reason."""

_PATH = getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

FOLDER = How(_PATH | getattr(os, "O_DIRECTORY", 0), 0, _CACHED | _NO_MAGICLINKS)
"""A folder, to open something in; links to it are followed."""

LOOK = How(_PATH | _NOFOLLOW, 0, _CACHED | _NO_SYMLINKS)
LOOK_BENEATH = How(_PATH | _NOFOLLOW, 0, _CACHED | _NO_SYMLINKS | _BENEATH)
"""Anything, to ask what it is; whatever that is, nothing happens to it. No link is followed."""

READ = How(_READ | _NOFOLLOW, 0, _CACHED | _NO_SYMLINKS)
READ_BENEATH = How(_READ | _NOFOLLOW, 0, _CACHED | _NO_SYMLINKS | _BENEATH)
"""A file, to read. No link is followed."""


@functools.cache
def find_open_cached() -> OpenCached | None:
    """Return what opens in this way; None where the system cannot."""
    if not sys.platform.startswith("linux") or not hasattr(os, "RWF_NOWAIT"):
        return None
    try:
        # PyDLL keeps Python's lock: the call never waits, and handing the lock to and fro would cost more than it does.
        call = ctypes.PyDLL(None).syscall
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(How), ctypes.c_size_t]
    call.restype = ctypes.c_long
    size = ctypes.sizeof(How)

    def open_cached(at: int, path: bytes, how: How) -> int:
        descriptor: int = call(_OPENAT2, at, path, how, size)
        return descriptor

    descriptor = open_cached(HERE, b"/", LOOK)
    if descriptor < 0:
        return None  # an older kernel, or one that was told to refuse the call
    os.close(descriptor)
    return open_cached
