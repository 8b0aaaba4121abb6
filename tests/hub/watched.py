"""The process that watches on Linux, run alone, and a picture of folders that is kept up to date by what it says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from dsx_server.index import watching

WAIT_S = 20
AGAIN_S = 0.5
"""After so long, in s, a change that was not told is made once more: it may have been one of many."""


class WatchProcess:
    """One process that watches some folders; leaving the context ends it.

    Args:
        tops: The folders.
        fence: A folder of their own, whose path sorts behind theirs: a change in it ends what is told of before.
        launcher: A command that starts the process, to which its own is added.
        on_line: Told of everything that is said.
    """

    def __init__(
        self,
        *tops: Path,
        fence: Path,
        launcher: Sequence[str] = (),
        on_line: Callable[[object], object] = lambda _: None,
    ) -> None:
        self._fence = fence
        self._on_line = on_line
        self._fences = 0
        self._said: list[object] = []
        self._came = threading.Condition()
        fence.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-P", str(watching.PROGRAM), *map(os.fspath, tops), os.fspath(fence)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> WatchProcess:
        self.wait_for(lambda said: None in said or not self._thread.is_alive(), "it watches")
        if None not in self._said and self.process.wait(WAIT_S) == 77:
            pytest.skip("this machine does not allow what the test needs")
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.kill()
        self._thread.join(WAIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def pause(self) -> None:
        """Let the process take no events."""
        self.process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def take(self) -> list[object]:
        """Return all that was said of what happened until now, except of the fence and that it is ready."""
        until = time.monotonic() + WAIT_S
        is_told = False
        while not is_told and time.monotonic() < until:
            self._fences += 1
            path = self._fence / str(self._fences)
            path.touch()
            with self._came:
                is_told = self._came.wait_for(lambda path=path: os.fspath(path) in self._said, AGAIN_S)
        assert is_told, f"the end was not told of within {WAIT_S} s: {self._said}"
        with self._came:
            said, self._said = self._said, []
        fence = os.fspath(self._fence)
        return [each for each in said if each is not None and not (isinstance(each, str) and each.startswith(fence))]

    def wait_for(self, is_true: Callable[[list[object]], bool], what: str) -> None:
        """Wait until what was said is as it should be."""
        with self._came:
            assert self._came.wait_for(lambda: is_true(self._said), WAIT_S), f"{what}: {self._said}"

    def count_watches(self) -> int:
        """Return how many folders the system watches for it, without the fence."""
        folder = Path(f"/proc/{self.process.pid}/fdinfo")
        return sum(len(re.findall("^inotify ", each.read_text(), re.MULTILINE)) for each in folder.iterdir()) - 1

    def _read(self) -> None:
        for line in self.process.stdout or ():
            said = json.loads(line)
            self._on_line(said)
            with self._came:
                self._said.append(said)
                self._came.notify_all()
        with self._came:
            self._came.notify_all()


class Contents(NamedTuple):
    """What lies in one folder: the state of each file, the inode of each folder."""

    files: dict[str, tuple[int, ...]]
    folders: dict[str, int]


class Picture:
    """What somebody knows of a folder who looks only where he is told to, as a hub does.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.fspath(root)
        self.folders: dict[str, Contents] = {}
        self._take_in("")

    def take(self, said: object) -> None:
        """Look where something is said to have changed."""
        if said == {"many": True}:
            self.folders.clear()
            self._take_in("")
        elif isinstance(said, str):
            for _, folder in watching._locate(said, {"": watching.Watchable(self.root, (0, 0))}):
                self._look(folder)

    def _look(self, folder: str) -> None:
        """Look at one folder that is known, and below it at what is new."""
        if folder not in self.folders:
            return
        before, now = self.folders[folder], _list(f"{self.root}/{folder}")
        if now is None:
            self._forget(folder)
            return
        self.folders[folder] = now
        for name in before.folders.keys() | now.folders.keys():
            if before.folders.get(name) != now.folders.get(name):
                self._forget(f"{folder}{name}/")
                self._take_in(f"{folder}{name}/")

    def _take_in(self, folder: str) -> None:
        found = _list(f"{self.root}/{folder}")
        if found is not None:
            self.folders[folder] = found
            for name in found.folders:
                self._take_in(f"{folder}{name}/")

    def _forget(self, folder: str) -> None:
        for each in [each for each in self.folders if each.startswith(folder)]:
            del self.folders[each]


def _list(path: str) -> Contents | None:
    """List one folder; None when it is gone."""
    found = Contents({}, {})
    try:
        for each in os.scandir(path):
            try:
                status = each.stat(follow_symlinks=False)
            except FileNotFoundError:  # an event is to come
                continue
            if each.is_dir(follow_symlinks=False):
                found.folders[each.name] = status.st_ino
            else:
                found.files[each.name] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found
