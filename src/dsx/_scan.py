"""Waiting for a hub that is still looking at a dataset for the first time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dsx._progress import Notice
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx.errors import DsxError, HubUnavailableError
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

LONGEST_PAUSE_S = 300.0
"""A hub that asks to come back later than this, in s, is not waited for."""

STALLED_S = 600.0
"""How long, in s, a hub is waited for that says the same words again and again: its scan makes no progress."""

SCAN_CODE = "unavailable"

T = TypeVar("T")


def run_through_scan(call: Callable[[], T], dataset: str, *, patience_s: float = FIRST_CONTACT_S) -> T:
    """Return what ``call`` returns, as soon as the hub has looked at the dataset, however long that takes.

    It says what it waits for. Any other failure is tried again as always.

    Args:
        call: Asks the hub.
        dataset: Name of the dataset.
        patience_s: How long to try again after other failures, in s.

    Raises:
        DsxError: The hub refused, stayed away, or said the same for `STALLED_S`.
    """
    patience = Patience(patience_s)
    said, said_at = "", time.monotonic()
    with Notice() as notice:
        while True:
            try:
                return call()
            except HubUnavailableError as error:
                pause_s = error.retry_after_s
                if error.code != SCAN_CODE or pause_s is None or pause_s > LONGEST_PAUSE_S:
                    patience.wait_after(error)
                    continue
                if str(error) != said:
                    said, said_at = str(error), time.monotonic()
                    text = f"waiting for the hub's first look at dataset {shown(dataset)}: {said}"
                    log.info(text)
                    notice.say(text)
                elif time.monotonic() - said_at > STALLED_S:
                    raise
                time.sleep(max(pause_s, 0.1))
                patience = Patience(patience_s)
            except DsxError as error:
                patience.wait_after(error)
