"""Watch folders and print what changes, on Linux: a process of its own, started by `watching`.

It asks the system itself, by inotify, and for changes alone: what the hub reads makes no event. It imports nothing of
the hub, so that it is there at once and small. Elsewhere `watch_process` does the same.

Standard input closes when the hub ends, and this process with it. A line of output is JSON: a string, the path of
something that changed; ``null``: from now on everything is watched; ``{"many": true}``: so much changed that some of
it is not told, or was lost; or ``{"error": ...}``, and the process ends. Of the files that changed in one folder one is
named; of a folder that has come, every folder in it. A slash at the end: the attributes of a watched folder changed.
"""

from __future__ import annotations

import errno
import json
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence

DEBOUNCE_S = 0.2
"""Changes that come one after another are told after so long, in s, at the latest."""

STEP_S = 0.02
"""How long, in s, the system collects events before they are read; its queue holds 16,384."""

RENEW_S = 30.0
"""After the system has lost events everything is watched anew, but not more often than this, in s."""

MANY = 4000
"""With more changed folders than this, it is only told that there are many."""

CHECK_FOLDERS = 256
"""How often, in folders, events are read that come while folders are gone through."""

READ_BYTES = 256 * 1024
KEPT_READS = 256
"""So many reads are kept until folders have been gone through; after that the system's queue may overflow."""


def main(folders: Sequence[str]) -> int:
    """Watch ``folders`` and all below them until standard input closes."""
    try:
        print_changes(folders)
    except (ImportError, OSError) as error:
        say({"error": str(error)})
    return 1


def print_changes(folders: Sequence[str]) -> None:
    """Print what changes; ends with `SystemExit` when standard input closes."""
    tree = Tree(folders)
    say(None)
    renewed = float("-inf")
    while True:
        tree.collect()
        if tree.is_incomplete and time.monotonic() >= renewed + RENEW_S:
            tree.close()
            tree = Tree(folders)
            tree.collect()
            tree.is_many = True
            renewed = time.monotonic()
        say(*tree.take_changes())
        tree.wait(max(0.0, renewed + RENEW_S - time.monotonic()) if tree.is_incomplete else None)


def say(*values: object) -> None:
    """Print each value on a line."""
    sys.stdout.writelines(json.dumps(value) + "\n" for value in values)
    sys.stdout.flush()


class Inotify:
    """What the system offers, with a mask of what changes files and folders.

    Source:
        inotify(7); the numbers are those of <sys/inotify.h>.
    """

    ATTRIB = 0x4
    MOVED_FROM = 0x40
    DELETE = 0x200
    MOVE_SELF = 0x800
    OVERFLOW = 0x4000
    IGNORED = 0x8000
    IS_FOLDER = 0x40000000

    _MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE = 0x2, 0x8, 0x80, 0x100
    # MODIFY tells of a file that is kept open, CLOSE_WRITE when it has all been written.
    _CHANGES = ATTRIB | MOVED_FROM | DELETE | MOVE_SELF | _MODIFY | _CLOSE_WRITE | _MOVED_TO | _CREATE
    _ONLY_FOLDERS, _NO_LINKS, _NOT_UNLINKED = 0x1000000, 0x2000000, 0x4000000
    _MASK = _CHANGES | _ONLY_FOLDERS | _NO_LINKS | _NOT_UNLINKED
    _HEADER = struct.Struct("iIII")

    def __init__(self) -> None:
        import ctypes  # a Python without it is told of like any other error

        self._libc = ctypes.CDLL(None, use_errno=True)
        self._get_errno = ctypes.get_errno
        self.descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            code = self._get_errno()
            hint = "; sysctl fs.inotify.max_user_instances" if code == errno.EMFILE else ""
            raise OSError(code, os.strerror(code) + hint)

    def add(self, path: str) -> int:
        """Watch a folder, and return the number of the watch; it is the same for one that is watched already."""
        watch: int = self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), self._MASK)
        if watch < 0:
            code = self._get_errno()
            raise OSError(code, os.strerror(code), path)
        return watch

    def remove(self, watch: int) -> None:
        """End a watch; that it may have ended by itself is no error."""
        self._libc.inotify_rm_watch(self.descriptor, watch)

    def read(self) -> bytes:
        """Return some events; nothing when there are none."""
        try:
            return os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return b""

    def parse(self, events: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield the number of a watch, what happened, and to what in the folder: empty for the folder itself."""
        at = 0
        while at < len(events):
            watch, mask, _, length = self._HEADER.unpack_from(events, at)
            at += self._HEADER.size + length
            yield watch, mask, events[at - length : at].rstrip(b"\0")


class Folder:
    """A place that is watched; a top has no parent, and its whole path for a name."""

    __slots__ = ("below", "name", "parent", "watch")

    def __init__(self, watch: int, parent: Folder | None, name: str) -> None:
        self.watch = watch
        self.parent = parent
        self.name = name
        self.below: dict[str, Folder] | None = None

    @property
    def path(self) -> str:
        """Where it lies."""
        names, at = [self.name], self.parent
        while at is not None:
            names.append(at.name)
            at = at.parent
        return "/".join(reversed(names))


class Tree:
    """Some folders and all below them, each watched, and what has changed in them.

    Events come in order, but late: what is at the place that one names may be something else by now. So an event only
    says where to look. What was known at a place that something left is dropped, what is there now is watched, and
    what else happened in between is told by an event that is still to come. A folder is listed after its watch was
    set, and told of after that: what was put into it before, whoever scans it then will find.

    A folder that is mounted at several places has one watch for all of them.

    Args:
        folders: The tops; none lies in another.

    Attributes:
        is_incomplete: Whether events were lost, so that there may be folders that are not watched.
        is_many: Whether more changed than is named.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._inotify = Inotify()
        self._poll = select.poll()
        self._poll.register(self._inotify.descriptor, select.POLLIN)
        self._poll.register(sys.stdin.fileno(), select.POLLIN)
        self._unread: deque[bytes] = deque()
        self._count = 0
        self._places: dict[int, tuple[Folder, ...]] = {}
        self._refused: set[Folder] = set()  # something in them could not be watched
        self._changed: set[str] = set()
        self._files: dict[int, bytes] = {}
        self._tops = {path for path in folders if not self._watch_top(path)}  # those to which something happened
        self._changed.clear()  # what is there when everything is watched is no change
        self.is_many = self.is_incomplete = False

    def close(self) -> None:
        """End all watches."""
        os.close(self._inotify.descriptor)

    def wait(self, timeout_s: float | None) -> None:
        """Wait until there are events.

        Raises:
            SystemExit: Standard input has closed.
        """
        for descriptor, _ in self._poll.poll(None if timeout_s is None else 1000 * timeout_s):
            if descriptor == sys.stdin.fileno() and not os.read(descriptor, READ_BYTES):
                raise SystemExit(0)

    def collect(self) -> None:
        """Take events until there are none for the moment."""
        until = time.monotonic() + DEBOUNCE_S
        while self._take_all() and time.monotonic() < until:
            time.sleep(STEP_S)

    def take_changes(self) -> list[object]:
        """Return what is to be said of what was collected."""
        said: list[object] = []
        found = self._tops
        if self.is_many or len(self._changed) + len(self._files) > MANY:
            said.append({"many": True})
        else:
            found |= self._changed
            for watch, name in self._files.items():
                shown = os.fsdecode(name).encode(errors="replace").decode()  # one that is not UTF-8 is no entry's
                found.update(f"{folder.path}/{shown}" for folder in self._places.get(watch, ()))
        self._tops, self._changed, self._files = set(), set(), {}
        self.is_many = False
        return said + sorted(found)

    def _take_all(self) -> bool:
        """Take all events that there are; tell whether there were any."""
        self._read_events()
        is_any = bool(self._unread)
        while self._unread:
            for watch, mask, name in self._inotify.parse(self._unread.popleft()):
                if name and not mask & Inotify.IS_FOLDER:
                    self._files.setdefault(watch, name)
                elif mask & Inotify.OVERFLOW:
                    self.is_many = self.is_incomplete = True
                else:
                    for folder in self._places.get(watch, ()):
                        self._take(folder, mask, os.fsdecode(name))
        return is_any

    def _read_events(self) -> None:
        while len(self._unread) < KEPT_READS and (events := self._inotify.read()):
            self._unread.append(events)

    def _take(self, folder: Folder, mask: int, name: str) -> None:
        """Take an event that tells of a folder: of ``folder`` itself, or of the one called ``name`` in it."""
        if folder.watch < 0:  # another place of the same watch was above it, and has just been dropped
            return
        if name:
            if mask & (Inotify.MOVED_FROM | Inotify.DELETE) and folder.below and name in folder.below:
                self._drop(folder.below[name])
            self._look(folder, name)
        elif mask & Inotify.IGNORED:  # it was deleted, or its disk is not mounted any more
            self._drop(folder)
            if folder.parent is None:
                self._tops.add(folder.path)
            else:
                self._look(folder.parent, folder.name)
        elif mask & Inotify.MOVE_SELF:
            if folder.parent is None:
                self._tops.add(folder.path)
        elif mask & Inotify.ATTRIB:
            self._take_attributes(folder)

    def _look(self, parent: Folder, name: str) -> None:
        """Watch what is at a place in a watched folder by now, if that is a folder, and tell of it."""
        if not _can_be_named(name):
            self._files.setdefault(parent.watch, os.fsencode(name))
            return
        path = f"{parent.path}/{name}"
        self._tell(path)
        known = parent.below.get(name) if parent.below else None
        folder = self._watch(path, parent, name)
        if folder is not None and folder is not known:
            self._watch_below(folder, path)

    def _take_attributes(self, folder: Folder) -> None:
        if folder in self._refused:
            self._refused.remove(folder)
            self._watch_below(folder, folder.path)
        if folder.parent is None:  # of another, the folder above tells
            self._tell(folder.path + "/")

    def _tell(self, path: str) -> None:
        if len(self._changed) <= MANY:
            self._changed.add(path)

    def _watch_top(self, path: str) -> bool:
        """Watch a folder and all below it; tell whether it is there."""
        try:
            folder = self._watch(path, None, path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if folder is not None:
            self._watch_below(folder, path)
        return True

    def _watch_below(self, top: Folder, path: str) -> None:
        """Watch all folders below a watched one, and tell of it and of them."""
        pending = [(top, path)]
        while pending:
            parent, path = pending.pop()
            self._tell(path)
            for name in _list_folders(path):
                below = f"{path}/{name}"
                folder = self._watch(below, parent, name)
                if folder is not None:
                    pending.append((folder, below))

    def _watch(self, path: str, parent: Folder | None, name: str) -> Folder | None:
        """Watch the folder at a place, and return the place; None when it is gone or cannot be watched.

        Raises:
            FileNotFoundError, NotADirectoryError: It should be a top.
            OSError: The system has no more watches.
        """
        self._note_one_more()
        known = parent.below.get(name) if parent is not None and parent.below else None
        try:
            watch = self._inotify.add(path)
        except OSError as error:
            if known is not None:
                self._drop(known)
            self._pass_over(error, parent)
            return None
        if known is not None:
            if known.watch == watch:
                return known
            self._drop(known)
        folder = Folder(watch, parent, name)
        if parent is not None:
            if parent.below is None:
                parent.below = {}
            parent.below[name] = folder
        self._places[watch] = (*self._places.get(watch, ()), folder)
        return folder

    def _pass_over(self, error: OSError, parent: Folder | None) -> None:
        """Go on without a folder that cannot be watched, unless that is so for the next one as well."""
        if error.errno in (errno.ENOSPC, errno.ENOMEM):
            raise OSError(
                error.errno,
                f"{len(self._places)} folders are watched, and the system allows no more: sysctl "
                "fs.inotify.max_user_watches is the limit for all programs of this user together",
            ) from error
        if parent is None and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error
        if parent is not None and isinstance(error, PermissionError):
            self._refused.add(parent)

    def _drop(self, top: Folder) -> None:
        """Forget a place and all below it; a watch that no place is left of is ended."""
        if top.parent is not None and top.parent.below:
            top.parent.below.pop(top.name, None)
        pending = [top]
        while pending:
            folder = pending.pop()
            pending += (folder.below or {}).values()
            rest = tuple(each for each in self._places[folder.watch] if each is not folder)
            if rest:
                self._places[folder.watch] = rest
            else:
                del self._places[folder.watch]
                self._inotify.remove(folder.watch)
                self._note_one_more()  # the end of a watch is an event too
            folder.watch = -1
            self._refused.discard(folder)

    def _note_one_more(self) -> None:
        """Count the folders gone through, and see now and then what has come meanwhile."""
        self._count += 1
        if self._count % CHECK_FOLDERS == 0:
            self._read_events()
            self.wait(0)


def _list_folders(path: str) -> list[str]:
    """Return the names of the folders in a folder; nothing when it is gone, which an event will tell."""
    try:
        with os.scandir(path) as found:
            return [each.name for each in found if each.is_dir(follow_symlinks=False) and _can_be_named(each.name)]
    except OSError:
        return []


def _can_be_named(name: str) -> bool:
    """Tell whether a name is UTF-8: what is not, and all that lies in it, is none of the entries."""
    return name.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
