"""Ctrl-C and SIGTERM, noted when they come and raised where nothing is half made."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Interrupts:
    """Between ``with`` and its end, signals that would end the process are noted; `check` raises them.

    An exception out of a signal handler may fall between making a folder or a process and noting that it must be
    removed, or into an import or a finaliser, which print it and go on.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: Another signal came; the status is 128 and its number.
        """
        if self._noted == signal.SIGINT:
            raise KeyboardInterrupt
        if self._noted is not None:
            raise SystemExit(128 + self._noted)

    def __enter__(self) -> Interrupts:
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self.check()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = number
