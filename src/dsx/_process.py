"""Values that belong to one process: rebuilt after a fork or in another process, never shared."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

quiet = threading.RLock()
"""Held by whoever is inside a library that has locks of its own, like SQLite; nobody is, while the process forks.

A lock that another thread holds at that moment stays held in the child for ever, and those cannot be made anew."""

before_fork: list[Callable[[], None]] = []
"""Called while `quiet` is held, before the process forks; to close what a child must not inherit open."""

# What a child inherits of its parent is neither used nor closed in the child: closing an inherited SQLite connection or
# socket would disturb the parent. It is kept here so that no finaliser runs.
_inherited: list[object] = []
_all: weakref.WeakSet[PerProcess[Any]] = weakref.WeakSet()


class PerProcess(Generic[T]):
    """A value made on first use in each process, once.

    A lock that another thread held while the process forked stays held in the child for ever. So a child gets new
    locks, before any of its code runs.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T | None = None
        self._lock = threading.Lock()
        _all.add(self)

    def get(self) -> T:
        """Return this process's value, making it if need be."""
        value = self._value
        if value is None:
            with self._lock:
                if self._value is None:
                    self._value = self._make()
                return self._value
        return value

    def has(self) -> bool:
        """Tell whether this process has made its value."""
        return self._value is not None

    def pop(self) -> T | None:
        """Forget this process's value and return it; None when there is none."""
        with self._lock:
            value, self._value = self._value, None
            return value

    def _start_anew(self) -> None:
        _inherited.append(self._value)
        self._value = None
        self._lock = threading.Lock()


def _prepare_fork() -> None:
    quiet.acquire()
    for call in before_fork:
        call()


def _start_all_anew() -> None:
    quiet.release()
    for value in list(_all):
        value._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_prepare_fork, after_in_parent=quiet.release, after_in_child=_start_all_anew)
