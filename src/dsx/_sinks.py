"""Where the bytes of a transfer go: what such a place has to offer, and memory as the simplest one."""

from __future__ import annotations

import hashlib
import io
from typing import Protocol

from dsx.protocol.digests import HEAD_BYTES


class Sink(Protocol):
    """Where the bytes of one entry go.

    Attributes:
        etag: Version that the bytes so far are of; empty when there are none.
        size: Size of that version, in bytes.
        offset: How many bytes are there.
    """

    etag: str
    size: int
    offset: int

    @property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` of the bytes that are there."""

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes that are there, in hex."""

    def begin(self, etag: str, size: int) -> None:
        """Start from nothing with another version."""

    def write(self, block: bytes) -> None:
        """Append a block."""


class MemorySink:
    """Keeps an entry in memory, once."""

    def __init__(self) -> None:
        self.begin("", 0)

    def begin(self, etag: str, size: int) -> None:
        """Start from nothing with another version."""
        self.etag, self.size, self.offset = etag, size, 0
        self._file = io.BytesIO()  # grows without being copied, and gives its bytes away likewise
        self._hash = hashlib.sha256()

    def write(self, block: bytes) -> None:
        """Append a block."""
        self._file.write(block)
        self._hash.update(block)
        self.offset += len(block)

    @property
    def data(self) -> bytes:
        """The bytes that are there."""
        return self._file.getvalue()

    @property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` of them."""
        return bytes(self._file.getbuffer()[:HEAD_BYTES])

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes that are there, in hex."""
        return self._hash.hexdigest()
