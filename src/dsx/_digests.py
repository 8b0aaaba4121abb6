"""Asks the hub for the SHA-256 of an entry, which it may have to read as a whole for that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping

from dsx._retry import Patience
from dsx._transport import READ_TIMEOUT_S, Transport
from dsx._wanted import Wanted
from dsx.errors import DsxError
from dsx.protocol.digests import WANT_SHA256

HASHING_BYTES_PER_S = 20e6
"""Slowest disk of a hub that a digest is waited for."""

STOP_POLL_S = 0.25


def read_digest(transport: Transport, wanted: Wanted, *, size: int, etag: str = "") -> Mapping[str, str]:
    """Ask for the headers of an entry, with the SHA-256 of its content.

    Args:
        transport: The hub.
        wanted: The entry.
        size: Its size in bytes, as far as known: the hub may have to read as much.
        etag: The version meant; another one is a `ConflictError`. Empty means whichever there is.
    """
    headers = {"Want-Repr-Digest": WANT_SHA256, "Accept-Encoding": "identity"} | ({"If-Match": etag} if etag else {})
    timeout_s = READ_TIMEOUT_S + size / HASHING_BYTES_PER_S
    with transport.open("HEAD", wanted.url, headers=headers, timeout_s=timeout_s) as answer:
        return answer.headers


class Inquiry:
    """Asks the hub for the headers of an entry in a thread, while its bytes come."""

    def __init__(self, ask: Callable[[], Mapping[str, str]]) -> None:
        self._ask = ask
        self._said: Mapping[str, str] | None = None
        self._thread = threading.Thread(target=self._work, name="dsx-digest", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with contextlib.suppress(DsxError):  # then it is asked for once more, and that error is raised
            self._said = self._ask()

    def wait(self, patience: Patience) -> Mapping[str, str] | None:
        """Return what the hub said, waiting for it; None when it did not say it."""
        while self._thread.is_alive() and not patience.is_stopped:
            self._thread.join(STOP_POLL_S)
        return self._said
