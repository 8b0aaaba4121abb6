"""From an ``Authorization`` header to a `Principal`. Whoever has none gets no further than the front door."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_HEADER_BYTES = 8192
"""Longest ``Authorization`` header looked at; a longer one is a wrong one."""

# RFC 9110, section 11.1: the scheme's case does not matter; one or more spaces before the key.
_BEARER = re.compile(rb"bearer +(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a key stands for.

    Attributes:
        name: Name of the key, as the log shows it.
    """

    name: str

    def may_read(self, dataset: str) -> bool:  # noqa: ARG002 -- one key reads all; named keys will not
        """Tell whether this principal may read ``dataset``; one that it may not read does not exist for it."""
        return True


class Keyring:
    """The keys that the hub accepts. Holds only their hashes, so that no ``repr`` or traceback can show one."""

    def __init__(self, api_key: str) -> None:
        self._hash = hashlib.sha256(api_key.encode()).digest()
        self._principal = Principal(name="default")

    def authenticate(self, headers: Sequence[tuple[bytes, bytes]]) -> Principal | None:
        """Return who sent a request with these headers, or None when that is nobody we know.

        Hashes are compared, in constant time: neither the length nor the content of the right key can be measured. A
        request with two ``Authorization`` headers is ambiguous and therefore nobody's.
        """
        found = None
        for name, value in headers:
            if name == b"authorization":
                if found is not None:
                    return None
                found = value
        if found is None or len(found) > MAX_HEADER_BYTES:
            return None
        match = _BEARER.fullmatch(found.strip())
        if match is None or not hmac.compare_digest(hashlib.sha256(match[1]).digest(), self._hash):
            return None
        return self._principal
