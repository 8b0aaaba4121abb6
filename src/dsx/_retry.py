"""How long an operation keeps trying: with jitter, a limit, and a reason for every try."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dsx.errors import DsxError, IntegrityError

log = logging.getLogger("dsx")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0

FIRST_CONTACT_S = 3.0
"""How long, in s, to look for a hub that has never answered, and for what is not a transfer."""

TRANSFER_S = 60.0
"""How long, in s, a transfer waits for a hub that was there before: long enough for a restart."""

T = TypeVar("T")


class Patience:
    """The time that one operation may spend on trying again.

    Args:
        seconds: How long to go on, in seconds.
        stop: Ends every wait when it is set.
    """

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()
        self._tries = 0
        self._wrong_bytes = 0
        self._deadline = time.monotonic() + seconds

    @property
    def is_stopped(self) -> bool:
        """Whether the operation was told to stop."""
        return self._stop.is_set()

    def note_progress(self, seconds: float) -> None:
        """Bytes have come that were never there before: go on for ``seconds`` from now."""
        self._tries = 0
        self._deadline = time.monotonic() + seconds

    def wait_after(self, error: DsxError) -> None:
        """Wait before another try, or raise ``error`` when there shall be none.

        There is none when the error says that trying again cannot help, when the time is over, and when wrong bytes
        came for the second time. A ``Retry-After`` is obeyed; otherwise the delay doubles, with jitter.
        """
        self._wrong_bytes += isinstance(error, IntegrityError)
        if not error.retryable or self._wrong_bytes > 1 or self.is_stopped:
            raise error
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**self._tries) * random.uniform(0.5, 1)  # noqa: S311 -- jitter
        delay_s = max(delay_s, error.retry_after_s or 0)
        if time.monotonic() + delay_s > self._deadline:
            raise error
        self._tries += 1
        log.debug("trying again in %.1f s: %s", delay_s, error)
        self._stop.wait(delay_s)

    def run(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, trying again as long as that makes sense."""
        while True:
            try:
                return call()
            except DsxError as error:
                self.wait_after(error)
