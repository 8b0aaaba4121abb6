"""Learn of changes from the system, where it tells of them: hints where to scan, never the truth itself."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dsx.errors import DsxError
from dsx_server.index.keeper import Keeper
from dsx_server.storage import Storage, Watchable

log = logging.getLogger("dsx.index")

HAS_INOTIFY = sys.platform == "linux"

PROGRAM = Path(__file__).with_name("watch_inotify.py" if HAS_INOTIFY else "watch_process.py")

AGAIN_S = 30.0
AGAIN_AT_MOST_S = 3600.0
"""A watch that ended is set up again after the first time, in s; after the second at the latest, when it ends again."""

LOOK_S = 0.5
"""How often, in s, it is looked whether there are other folders to watch."""


def can_watch() -> bool:
    """Tell whether folders can be watched: elsewhere than on Linux it takes a package."""
    return HAS_INOTIFY or importlib.util.find_spec("watchfiles") is not None


class Watcher:
    """A thread that tells a keeper what changed, and the process behind it; `close` ends both.

    Args:
        storage: Says which folders can be watched.
        keeper: Is told what changed, and what is watched.
    """

    def __init__(self, storage: Storage, keeper: Keeper) -> None:
        self._storage = storage
        self._keeper = keeper
        self._stop = threading.Event()
        self._watches: list[_Watch] = []
        self._not_before = 0.0
        self._pause_s = AGAIN_S
        self._thread = threading.Thread(target=self._run, name="dsx-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._stop.set()

    def _run(self) -> None:
        # Every entry that a first scan opens would be an event; what changes behind its back is found when watching.
        while not self._keeper.is_settled():
            if self._stop.wait(LOOK_S):
                return
        while not self._stop.wait(LOOK_S):
            try:
                self._bring_up()
            except (DsxError, OSError) as error:
                log.debug("what is to be watched cannot be found out: %s", error)
        for watch in self._watches:
            watch.close()

    def _bring_up(self) -> None:
        """Watch what is to be watched now; an old watch ends only when a new one is ready."""
        for watch in [each for each in self._watches if not each.is_alive()]:
            self._watches.remove(watch)
            self._lose(watch)
        newest = self._watches[-1] if self._watches else None
        if newest is not None and newest.is_ready:
            self._pause_s = AGAIN_S
            for watch in self._watches[:-1]:
                watch.close()
            self._watches = [newest]
        folders = self._storage.list_watchable()
        is_old = newest is not None and newest.is_ready and (newest.is_stale or newest.folders != folders)
        if folders and (newest is None or is_old) and time.monotonic() > self._not_before:
            self._watches.append(_Watch(folders, self._keeper))

    def _lose(self, watch: _Watch) -> None:
        """Go on without a watch that has ended by itself; each time that happens, the next is longer in coming."""
        self._not_before = time.monotonic() + self._pause_s
        if not self._watches:
            self._keeper.note_watched({})
        if self._pause_s == AGAIN_S:
            log.warning(
                "changes cannot be watched (%s); they are looked for every DSX_RESCAN_S seconds instead",
                watch.error or "the process that watched has ended",
            )
        self._pause_s = min(2 * self._pause_s, AGAIN_AT_MOST_S)


class _Watch:
    """One process that watches certain folders.

    Attributes:
        folders: What it watches, by dataset.
        is_ready: Whether it is set up.
        is_stale: Whether something happened to one of these folders themselves: it may be another by now, or come to
            be one, also under the same inode.
        error: Why it has ended, as far as it said so.
    """

    def __init__(self, folders: Mapping[str, Watchable], keeper: Keeper) -> None:
        self.folders = folders
        self.is_ready = self.is_stale = False
        self.error = ""
        self._keeper = keeper
        self._process = subprocess.Popen(  # noqa: S603 -- our own program, and folders that the operator named
            [sys.executable, "-P", str(PROGRAM), *_outermost(each.path for each in folders.values())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="ascii",
            start_new_session=True,  # Ctrl-C is for the hub, which then ends it
        )
        self._thread = threading.Thread(target=self._read, name="dsx-watch-read", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether it still watches."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _read(self) -> None:
        with self._process as process:
            for line in process.stdout or ():
                try:
                    self._take(json.loads(line))
                except Exception:  # the outermost door of this thread
                    log.exception("what watching said cannot be understood")

    def _take(self, said: object) -> None:
        if said is None:
            log.debug("watching the folders of %d datasets", len(self.folders))
            self.is_ready = True
            self._keeper.note_watched(self.folders)
            self._keeper.note_all_changed()  # what happened while it was set up nobody has seen
        elif isinstance(said, str):
            for dataset, folder in _locate(said, self.folders):
                self._keeper.note_change(dataset, folder)
                self.is_stale = self.is_stale or said == self.folders[dataset].path
        elif said == {"many": True}:  # the system may have lost some of them without a word
            self._keeper.note_all_changed()
        elif isinstance(said, dict):
            self.error = str(said.get("error"))


def _locate(path: str, folders: Mapping[str, Watchable]) -> Iterator[tuple[str, str]]:
    """Yield the datasets, and the folders in them, in whose listing a change at ``path`` shows."""
    for dataset, (root, _) in folders.items():
        if path == root:
            yield dataset, ""
        elif path.startswith(root + os.sep):
            relative = path[len(root) + 1 :].replace(os.sep, "/")
            yield dataset, relative[: relative.rfind("/") + 1]
            if not path.endswith(os.sep) and os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir() raises where it may not look
                yield dataset, relative + "/"


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return the folders that do not lie in another of them."""
    found: list[str] = []
    for folder in sorted(set(folders)):
        if not found or not folder.startswith(found[-1] + os.sep):
            found.append(folder)
    return found
