"""What a request to ``/file`` says, read out of its target and headers; pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, unquote_to_bytes

from dsx.errors import InvalidPathError
from dsx.protocol.digests import is_sha256_wanted
from dsx.protocol.text import shown
from dsx_server.auth import Principal
from dsx_server.problems import ProblemError, raise_no_route
from dsx_server.routes.conditions import Verdict
from dsx_server.storage import Identity

WHOLE_BYTES = 256 * 1024
"""Answers up to this size, in bytes, are read and sent in one go; longer ones in blocks."""


class Target(NamedTuple):
    """Which entry a request names."""

    dataset: str
    path: str


class FileRequest(NamedTuple):
    """What a request for an entry says."""

    method: str
    target: Target
    headers: Mapping[str, str]
    principal: Principal
    revision: str | None

    @property
    def wants_digest(self) -> bool:
        """Whether it asks for the digest of the whole entry."""
        return is_sha256_wanted(self.headers.get("want-repr-digest", ""))


def parse_target(raw_path: bytes) -> Target:
    """Read dataset and path out of the request's path, percent-decoding each once.

    Raises:
        InvalidPathError: What comes out is not UTF-8.
        ProblemError: It is not of the form ``/file/{dataset}/{path}``.
    """
    parts = raw_path.split(b"/", 3)
    if len(parts) != 4 or unquote_to_bytes(parts[1]) != b"file" or not parts[2] or not parts[3]:
        raise_no_route(raw_path.decode("latin-1"))
    try:
        return Target(unquote_to_bytes(parts[2]).decode(), unquote_to_bytes(parts[3]).decode())
    except UnicodeDecodeError as error:
        raise InvalidPathError("the path is not UTF-8 once its percent-encoding is undone") from error


def parse_revision(query: bytes) -> str | None:
    """Read the revision that a query names; None when it names none."""
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("revision") if query else None
    return None if values is None else values[-1]


def join_headers(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Make one value of repeated headers, as RFC 9110, section 5.3, has it."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def refuse(verdict: Verdict, target: Target, identity: Identity) -> None:
    """Raise the problem that a verdict of 412 or 416 is."""
    if verdict.status == 412:
        detail = f"{shown(target.path)} is no longer the version that the request asked for"
        raise ProblemError("precondition_failed", detail, {"ETag": identity.etag})
    if verdict.status == 416:
        detail = f"the range starts past the end of {shown(target.path)}, which has {identity.size} bytes"
        raise ProblemError("range_not_satisfiable", detail, {"Content-Range": f"bytes */{identity.size}"})
