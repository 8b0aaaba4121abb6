"""Values that belong to one process: rebuilt after a fork or in another process, never shared."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# What a child inherits of its parent is neither used nor closed in the child: closing an inherited SQLite connection or
# socket would disturb the parent. It is kept here so that no finaliser runs.
_inherited: list[object] = []


class PerProcess(Generic[T]):
    """A value made on first use in each process.

    No lock is taken before the process id has been looked at: a lock that was held while the process forked stays held
    in the child for ever. Two threads that come first at the same time may both make a value; one of them wins.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}

    def get(self) -> T:
        """Return this process's value, making it if need be."""
        pid = os.getpid()
        value = self._values.get(pid)
        if value is None:
            _inherited.extend(self._values.pop(other) for other in list(self._values) if other != pid)
            value = self._values.setdefault(pid, self._make())
        return value

    def has(self) -> bool:
        """Tell whether this process has made its value."""
        return os.getpid() in self._values

    def pop(self) -> T | None:
        """Forget this process's value and return it; None when there is none."""
        return self._values.pop(os.getpid(), None)

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_values": {}}
