"""A progress bar, where there is somebody to see it and ``tqdm`` to draw it."""

from __future__ import annotations

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


def _make_bar(label: str, total_bytes: int) -> Any:
    in_notebook = "ipykernel" in sys.modules
    if not (in_notebook or sys.stderr.isatty()):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total_bytes, desc=label, unit="B", unit_scale=True, unit_divisor=1024)
