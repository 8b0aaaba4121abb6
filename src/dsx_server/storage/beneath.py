"""Open a file that lies beneath a folder, whatever links there are and whoever swaps them meanwhile.

The rule for links: one is followed when its *resolved* target lies beneath the same root, whether its text is
absolute or relative. Where the system has ``openat`` (Linux, macOS), every segment is opened relative to the one
before it without following links; only when a link is met is the whole path resolved, and then the resolved path,
which has no links, is opened in the same way. A link that appears between the two makes the open fail; it never leads
outside.

Elsewhere (Windows) the path is resolved, opened, and resolved again.
"""

from __future__ import annotations

import errno
import os
import stat

HAS_OPENAT = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")

# O_NONBLOCK: opening a FIFO would wait for a writer. O_NOCTTY: opening a terminal would adopt it.
_LEAF = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_LEAF_NOFOLLOW = _LEAF | getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_PATH", 0)


class _LinkMetError(Exception):
    """A segment of the path is a symbolic link."""


def open_beneath(root: str, path: str) -> int:
    """Open the regular file ``path`` beneath ``root`` for reading and return its descriptor.

    Args:
        root: A real path: no link in it.
        path: POSIX path relative to ``root`` that passed the gate.

    Raises:
        FileNotFoundError: There is none, it is no regular file, or it lies outside.
        OSError: The system's other reasons, unchanged.
    """
    if not HAS_OPENAT:
        return open_resolved(root, path)
    try:
        return _open_without_links(root, path)
    except _LinkMetError:
        real = resolve_beneath(root, path)
    try:
        return _open_without_links(root, real)
    except _LinkMetError:
        raise _not_found(path) from None


def resolve_beneath(root: str, path: str) -> str:
    """Resolve every link in ``path`` and return the result relative to ``root``, with ``/`` between segments.

    Raises:
        FileNotFoundError: The target does not exist or lies outside ``root``.
        OSError: Links that go in a circle (ELOOP), or the system's other reasons.
    """
    real = os.path.realpath(os.path.join(root, path), strict=True)  # noqa: PTH118 -- strings on the hot path
    prefix = root if root.endswith(os.sep) else root + os.sep
    if not real.startswith(prefix):
        raise _not_found(path)
    return real[len(prefix) :].replace(os.sep, "/")


def open_resolved(root: str, path: str) -> int:
    """Open as `open_beneath` does, on a system without ``openat``; a swap meanwhile is found afterwards."""
    real = os.path.join(root, *resolve_beneath(root, path).split("/"))  # noqa: PTH118 -- strings on the hot path
    if not stat.S_ISREG(os.stat(real, follow_symlinks=False).st_mode):
        raise _not_found(path)
    descriptor = os.open(real, _LEAF_NOFOLLOW)
    try:
        # What the path leads to now, without links, must be what was opened: whoever swapped it back is found too.
        again = os.path.join(root, *resolve_beneath(root, path).split("/"))  # noqa: PTH118 -- strings on the hot path
        if not os.path.samestat(os.fstat(descriptor), os.stat(again, follow_symlinks=False)):
            raise _not_found(path)
    except BaseException:
        os.close(descriptor)
        raise
    return _checked(descriptor, path)


def _open_without_links(root: str, path: str) -> int:
    *folders, name = path.split("/")
    at = os.open(root, _FOLDER)
    try:
        for folder in folders:
            below = _open_folder(folder, at)
            os.close(at)
            at = below
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            raise _LinkMetError
        if not stat.S_ISREG(mode):
            raise _not_found(path)
        return _checked(os.open(name, _LEAF_NOFOLLOW, dir_fd=at), path)
    finally:
        os.close(at)


def _open_folder(name: str, at: int) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=at)
    except OSError as error:
        # For a link Linux says ENOTDIR and macOS ELOOP; for a plain file both say ENOTDIR.
        may_be_link = error.errno in (errno.ENOTDIR, errno.ELOOP)
        if may_be_link and stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            raise _LinkMetError from None
        raise


def _checked(descriptor: int, path: str) -> int:
    """The file may have been swapped for a device since it was looked at."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_found(path)
    return descriptor


def _not_found(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
