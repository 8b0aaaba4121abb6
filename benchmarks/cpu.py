"""How much CPU time processes take. Imports little, so that a process may measure itself with it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from memory import list_children


def read_cpu_s(pid: int) -> float:
    """Return the CPU time, in s, that a process, its children and theirs have taken; 0 where there is no ``/proc``.

    Source:
        proc_pid_stat(5), fields 14 to 17.
    """
    return sum(map(_read_own_cpu_s, [pid, *list_children(pid)]))


def measure_own_cpu_s() -> float:
    """Return the CPU time, in s, that this process and those of its children that have ended have taken."""
    times: Iterable[float] = os.times()[:4]
    return sum(times)


def _read_own_cpu_s(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
