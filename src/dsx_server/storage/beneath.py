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
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

HAS_OPENAT = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")

# O_NONBLOCK: opening a FIFO would wait for a writer. O_NOCTTY: opening a terminal would adopt it.
_LEAF = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_LEAF_NOFOLLOW = _LEAF | getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_PATH", 0)

NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


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

    The result is empty for ``root`` itself.

    Raises:
        FileNotFoundError: The target does not exist or lies outside ``root``.
        OSError: Links that go in a circle (ELOOP), or the system's other reasons.
    """
    real = os.path.realpath(os.path.join(root, path), strict=True)  # noqa: PTH118 -- strings on the hot path
    prefix = root if root.endswith(os.sep) else root + os.sep
    if real == root:
        return ""
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


@contextmanager
def open_folder_beneath(root: str, path: str) -> Iterator[int | None]:
    """Open the folder ``path`` beneath ``root`` without following a link, for the body of a ``with``.

    Args:
        root: A real path: no link in it.
        path: POSIX path relative to ``root``; empty for ``root`` itself.

    Yields:
        A descriptor that can be listed and opened in; None on a system that has no such thing.

    Raises:
        OSError: It is not there, is no folder, has a link in its path, or may not be read.
    """
    if not HAS_OPENAT:
        yield None
        return
    at = os.open(root, _FOLDER)
    try:
        for folder in path.split("/") if path else ():
            above, at = at, os.open(folder, _FOLDER, dir_fd=at)
            os.close(above)
        above, at = at, os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)  # one that can be listed
        os.close(above)
        yield at
    finally:
        os.close(at)


class KeptFolders:
    """Folders beneath a root that stay open while entries in them are read; leaving the context closes them.

    Not for long: a folder that is moved out of the root meanwhile is still read from.

    Args:
        root: A real path: no link in it.
        most: About how many to keep.

    Attributes:
        root: A descriptor of the root.
    """

    def __init__(self, root: str, most: int) -> None:
        self._most = most
        self.root = os.open(root, _FOLDER)
        self._kept: dict[str, int] = {}

    def find(self, path: str) -> int:
        """Return a descriptor of the folder ``path``, relative to the root; no link is followed to it.

        Raises:
            OSError: It is not there, is no folder, has a link in its path, or may not be read.
        """
        at = self._kept.get(path)
        if at is not None:
            return at
        if not path:
            return self.root
        if len(self._kept) >= self._most:
            self._forget()
        above, _, name = path.rpartition("/")
        at = self._kept[path] = os.open(name, _FOLDER, dir_fd=self._find_above(above))
        return at

    def _find_above(self, path: str) -> int:
        if not path or path in self._kept:
            return self._kept.get(path, self.root)
        at = os.dup(self.root)
        try:
            for name in path.split("/"):
                above, at = at, os.open(name, _FOLDER, dir_fd=at)
                os.close(above)
        except BaseException:
            os.close(at)
            raise
        self._kept[path] = at
        return at

    def _forget(self) -> None:
        while self._kept:
            os.close(self._kept.popitem()[1])

    def __enter__(self) -> KeptFolders:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._forget()
        os.close(self.root)


def open_in(folder: int, name: str) -> int:
    """Open the file ``name`` in an open folder for reading, and return its descriptor.

    What has just been listed as a regular file may have been swapped for something else: the caller looks.

    Raises:
        OSError: It is a link (ELOOP), or the system's other reasons.
    """
    return os.open(name, _LEAF_NOFOLLOW, dir_fd=folder)


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
