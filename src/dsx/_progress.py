"""What is under way, said where there is somebody to see it: a bar when ``tqdm`` can draw it, a line of words."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Any


class Progress:
    """Counts bytes; draws them when stderr is a terminal or the code runs in a notebook.

    Args:
        label: What is under way.
        total_bytes: How many bytes there are in all.
    """

    def __init__(self, label: str, total_bytes: int) -> None:
        self._bar: Any = _make_bar(label, total_bytes)

    def add(self, count: int) -> None:
        """Note that ``count`` more bytes are there."""
        if self._bar is not None:
            self._bar.update(count)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class Notice:
    """One line of words on stderr that is written over by the next; nothing where nobody would see it."""

    def __init__(self) -> None:
        self._width = 0

    def say(self, text: str) -> None:
        """Show ``text`` in place of what was shown."""
        if _is_watched():
            text = text[: shutil.get_terminal_size().columns - 1]  # a longer one could not be written over
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)

    def __enter__(self) -> Notice:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._width:
            sys.stderr.write("\n")


def _is_watched() -> bool:
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def _make_bar(label: str, total_bytes: int) -> Any:
    if not total_bytes or not _is_watched():
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total_bytes, desc=label, unit="B", unit_scale=True)
