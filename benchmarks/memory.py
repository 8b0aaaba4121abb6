"""How much memory processes take. Imports little, so that a process may measure itself with it."""

from __future__ import annotations

import importlib
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

SAMPLE_S = 0.02
"""Pause between two looks at a process, in s."""

MEGABYTE = 1_000_000


class Memory(NamedTuple):
    """What one process takes, in bytes: now, and at most since it began."""

    rss: int
    peak: int


def read_memory(pid: int) -> Memory | None:
    """Return what a process takes; None when it is gone.

    The peak is ``VmHWM``, not ``ru_maxrss``: that one begins with the peak of the process that started this one.

    Source:
        proc_pid_status(5). Without ``/proc``, psutil, which knows no peak but on Windows.
    """
    if not Path("/proc/self").is_dir():
        psutil = importlib.import_module("psutil")
        try:
            info = psutil.Process(pid).memory_info()
        except psutil.NoSuchProcess:
            return None
        return Memory(info.rss, getattr(info, "peak_wset", info.rss))
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            fields = dict(line.split(":", 1) for line in status)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "VmRSS" not in fields:  # it has ended and was not waited for yet
        return None
    rss, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Memory(rss, peak)


def reset_peak(pid: int) -> Memory | None:
    """Let the peak of a process begin anew, where the system can, and return what it takes.

    Source:
        proc_pid_clear_refs(5): 5 resets ``VmHWM``.
    """
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass  # the peak is then that of its whole life: no less
    return read_memory(pid)


def list_children(pid: int) -> list[int]:
    """Return the processes that a process has started and theirs; none where there is no ``/proc``."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="utf-8") as children:
                found += map(int, children.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found + [grandchild for child in found for grandchild in list_children(child)]


class MemoryWatch:
    """Looks at processes, one after another, from a thread of its own, and keeps the peak of each under a label.

    Attributes:
        peaks: The most that was seen, in bytes, by label: a process with all that it has started.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}

    def watch(self, pid: int, label: str) -> threading.Thread:
        """Begin to look at a process, until it ends."""
        thread = threading.Thread(target=self._watch, args=[pid, label], daemon=True)
        thread.start()
        return thread

    def _watch(self, pid: int, label: str) -> None:
        while (own := read_memory(pid)) is not None:
            others = [memory.rss for child in list_children(pid) if (memory := read_memory(child)) is not None]
            self.peaks[label] = max(self.peaks.get(label, 0), own.peak, own.rss + sum(others))
            time.sleep(SAMPLE_S)
