"""The headers of a ``/file`` answer. Nothing of an entry's name gets into them but a media type from a fixed table."""

from __future__ import annotations

import mimetypes
import time
from email.utils import formatdate

from dsx.protocol.digests import HEAD_BYTES, format_repr_digest, head_hash
from dsx_server.routes.conditions import Validators, Verdict
from dsx_server.storage import Identity, OpenEntry

_LAST_DATE_S = 253_402_300_799  # 9999-12-31, the last day an HTTP date can name

# Built-in tables only: the answer must not depend on which /etc/mime.types the storage PC has.
_TYPES = mimetypes.MimeTypes(filenames=())


def validators_of(identity: Identity) -> Validators:
    """Return what the entry can be compared by; a date in the future is given as now (RFC 9110, section 8.8.2.1)."""
    modified_s = identity.mtime_ns // 10**9
    return Validators(
        etag=identity.etag,
        modified_s=max(0, min(modified_s, int(time.time()), _LAST_DATE_S)),
    )


def read_head(entry: OpenEntry, verdict: Verdict, body: bytes) -> bytes:
    """Return the bytes that the head hash covers, out of ``body`` where it has them."""
    wanted = min(HEAD_BYTES, entry.identity.size)
    if verdict.start == 0 and len(body) >= wanted:
        return body[:wanted]
    return entry.read(0, wanted)


def entry_headers(
    path: str, entry: OpenEntry, verdict: Verdict, head: bytes, digest: str | None
) -> list[tuple[bytes, bytes]]:
    """Return the headers of a 200 or 206, in the form that ASGI wants."""
    validators = validators_of(entry.identity)
    # "./" keeps a name like "data:text/html,a.png" from being read as a URL, whose type could be anything.
    kind, encoding = _TYPES.guess_type("./" + path.rsplit("/", 1)[-1], strict=False)
    headers = {
        # A .gz is served as it lies there: its compression is its content, not an encoding of the transfer.
        "content-type": "application/octet-stream" if encoding or kind is None else kind,
        "content-length": str(verdict.stop - verdict.start),
        "etag": validators.etag,
        "last-modified": formatdate(validators.modified_s, usegmt=True),
        "accept-ranges": "bytes",
        "x-dsx-hash": head_hash(head),
        "x-dsx-mtime-ns": str(entry.identity.mtime_ns),
        "x-content-type-options": "nosniff",
    }
    if verdict.status == 206:
        headers["content-range"] = f"bytes {verdict.start}-{verdict.stop - 1}/{entry.identity.size}"
    if digest is not None:
        headers["repr-digest"] = format_repr_digest(digest)
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
