"""The three hashes of the wire: head hash (one entry, quick), digest (one entry, whole), revision (one manifest)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

HEAD_BYTES = 1024
"""How much of an entry its head hash covers, in bytes (contract)."""

ROW_SUMS = 2**256
"""A revision counts its sum of row hashes modulo this."""

_SHA256_MEMBER = re.compile(r"(?:\A|,)[ \t]*sha-256[ \t]*=[ \t]*:([A-Za-z0-9+/=]*):")
_SHA256_WANTED = re.compile(r"(?:\A|,)[ \t]*sha-256[ \t]*=[ \t]*([1-9]|10)[ \t]*(?:,|\Z)")

_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')

WANT_SHA256 = "sha-256=10"
"""Value of ``Want-Repr-Digest`` that asks the hub for an entry's digest."""


def head_hash(head: bytes | bytearray | memoryview) -> str:
    """Return the head hash: MD5, as 32 hex digits, of the first `HEAD_BYTES` of ``head``."""
    return hashlib.md5(head[:HEAD_BYTES], usedforsecurity=False).hexdigest()


def format_repr_digest(digest: str) -> str:
    """Write a SHA-256 of 64 hex digits as the value of a ``Repr-Digest`` header.

    Source:
        RFC 9530, section 3.
    """
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


def parse_repr_digest(value: str) -> str | None:
    """Read the SHA-256 of a ``Repr-Digest`` header as 64 hex digits; None when it carries none."""
    match = _SHA256_MEMBER.search(value)
    if match is None:
        return None
    try:
        digest = base64.b64decode(match[1], validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None


def is_sha256_wanted(value: str) -> bool:
    """Tell whether a ``Want-Repr-Digest`` header asks for SHA-256.

    Source:
        RFC 9530, section 4: a preference from 1 to 10; 0 means "not acceptable".
    """
    return _SHA256_WANTED.search(value) is not None


def is_strong_tag(etag: object) -> bool:
    """Tell whether ``etag`` is a strong entity tag that can be sent back (RFC 9110, section 8.8.3)."""
    return isinstance(etag, str) and _STRONG_TAG.fullmatch(etag) is not None


def hash_row(path: str, size: int, head: str, mtime_ns: int) -> int:
    """Return what one entry contributes to the revision of its manifest: a number below 2^256.

    Args:
        path: Its path; it has no NUL, so that the joined values can be read in one way only.
        size: In bytes.
        head: Its head hash, 32 hex digits.
        mtime_ns: Its modification time, ns since 1970.
    """
    row = f"{path}\0{size}\0{head}\0{mtime_ns}".encode()
    return int.from_bytes(hashlib.sha256(row).digest(), "big")


def format_revision(entries: int, row_sum: int) -> str:
    """Return the id, 32 hex digits, of the manifest with so many rows whose `hash_row` add up to ``row_sum``.

    A sum can be brought up to date from the rows that changed alone, in whatever order; only its 256 low bits count.
    """
    state = f"{entries}\0{row_sum % ROW_SUMS:064x}"
    return hashlib.sha256(state.encode()).hexdigest()[:32]


def compute_revision(rows: Iterable[tuple[str, int, str, int]]) -> str:
    """Return the id, 32 hex digits, of the state of a manifest.

    Args:
        rows: ``(path, size in bytes, head hash, mtime_ns)`` of every entry, in any order.
    """
    entries = row_sum = 0
    for row in rows:
        entries += 1
        row_sum += hash_row(*row)
    return format_revision(entries, row_sum)
