"""The headers of a ``/file`` answer. Nothing of an entry's name gets into them but a media type from a fixed table."""

from __future__ import annotations

import functools
import mimetypes
import posixpath
import time
from email.utils import formatdate
from typing import NamedTuple

from dsx.protocol.digests import format_repr_digest, head_hash
from dsx_server.routes.conditions import Validators, Verdict
from dsx_server.storage import Identity

RawHeaders = list[tuple[bytes, bytes]]

_LAST_DATE_S = 253_402_300_799  # 9999-12-31, the last day an HTTP date can name

# Built-in tables only: the answer must not depend on which /etc/mime.types the storage PC has.
_TYPES = mimetypes.MimeTypes(filenames=())


class Description(NamedTuple):
    """What the headers of every answer say of an entry in one state.

    Attributes:
        identity: The state.
        validators: What the entry can be compared by.
        headers: Those that every 200 and 206 has.
        is_lasting: Whether they stay right as long as the state does.
    """

    identity: Identity
    validators: Validators
    headers: RawHeaders
    is_lasting: bool


def validators_of(identity: Identity) -> Validators:
    """Return what the entry can be compared by; a date in the future is given as now (RFC 9110, section 8.8.2.1)."""
    modified_s = identity.mtime_ns // 10**9
    return Validators(
        etag=identity.etag,
        modified_s=max(0, min(modified_s, int(time.time()), _LAST_DATE_S)),
    )


def describe_entry(path: str, identity: Identity, head: bytes | bytearray) -> Description:
    """Return what the headers of every answer say of an entry.

    Args:
        path: Its path, of which only the ending counts.
        identity: Its state.
        head: The bytes that its head hash covers.
    """
    validators = validators_of(identity)
    headers = [
        _format_type(posixpath.splitext(path)[1]),
        (b"etag", validators.etag.encode()),
        _format_modified(validators.modified_s),
        (b"accept-ranges", b"bytes"),
        (b"x-dsx-hash", head_hash(head).encode()),
        (b"x-dsx-mtime-ns", b"%d" % identity.mtime_ns),
        (b"x-content-type-options", b"nosniff"),
    ]
    is_past = validators.modified_s == identity.mtime_ns // 10**9
    return Description(identity, validators, headers, is_past)


def answer_headers(description: Description, verdict: Verdict, digest: str | None) -> RawHeaders:
    """Return the headers of a 200 or 206, in the form that ASGI wants."""
    headers = [*description.headers, (b"content-length", b"%d" % (verdict.stop - verdict.start))]
    if verdict.status == 206:
        span = f"bytes {verdict.start}-{verdict.stop - 1}/{description.identity.size}"
        headers.append((b"content-range", span.encode()))
    if digest:
        headers.append((b"repr-digest", format_repr_digest(digest).encode()))
    return headers


@functools.lru_cache(maxsize=1024)
def _format_type(ending: str) -> tuple[bytes, bytes]:
    """Return the media type that goes with the ending of a name.

    A .gz is served as it lies there: its compression is its content, not an encoding of the transfer.
    """
    # "./" keeps an ending from being read as a part of a URL, whose type could be anything.
    kind, encoding = _TYPES.guess_type("./x" + ending, strict=False)
    return b"content-type", b"application/octet-stream" if encoding or kind is None else kind.encode()


@functools.lru_cache(maxsize=1024)
def _format_modified(modified_s: int) -> tuple[bytes, bytes]:
    return b"last-modified", formatdate(modified_s, usegmt=True).encode()
