"""What a batch request says: read with a bound, checked, and counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.types import Receive

from dsx.errors import InvalidPathError, InvalidRequestError
from dsx.protocol.models import MAX_BATCH_BYTES, MAX_BATCH_ENTRIES, BatchRequest
from dsx_server.problems import ProblemError, raise_no_route
from dsx_server.routes.batch_budget import Share
from dsx_server.storage import Read

BODY_WAIT_S = 30.0
"""How long, in s, the next bytes of a request may take to come."""

ENTRY_BYTES = 200
"""What one entry of a request takes in memory, in bytes, beside the characters of its path."""

_WHOLE = 2**63

# A string that never ends goes to the end of the body: else every quote in it would be tried as the beginning of one.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)

# A read has three values, and there may be members that this program does not know.
_MAX_COMMAS = 3 * MAX_BATCH_ENTRIES + 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a batch asks for: whole entries, or ``ranges`` of them."""

    paths: list[str]
    ranges: list[tuple[str, int, int]] | None
    revision: str | None
    body_bytes: int

    @property
    def count(self) -> int:
        """How many entries."""
        return len(self.paths if self.ranges is None else self.ranges)

    @property
    def held_bytes(self) -> int:
        """About how much memory this takes, in bytes."""
        return self.body_bytes + ENTRY_BYTES * self.count

    def slice(self, start: int, stop: int) -> Sequence[Read]:
        """Return the entries ``[start, stop)`` as the storage takes them."""
        if self.ranges is not None:
            return self.ranges[start:stop]
        return [(path, 0, _WHOLE) for path in self.paths[start:stop]]


def parse_dataset(raw_path: bytes) -> str:
    """Read the dataset out of the request's path, percent-decoding it once.

    Raises:
        InvalidPathError: What comes out is not UTF-8.
        ProblemError: It is not of the form ``/batch/{dataset}``.
    """
    parts = raw_path.split(b"/")
    if len(parts) != 3 or unquote_to_bytes(parts[1]) != b"batch" or not parts[2]:
        raise_no_route(raw_path.decode("latin-1"))
    try:
        return unquote_to_bytes(parts[2]).decode()
    except UnicodeDecodeError as error:
        raise InvalidPathError("the path is not UTF-8 once its percent-encoding is undone") from error


def check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse at once a body that is too long or no JSON.

    Raises:
        InvalidRequestError: It is no JSON.
        ProblemError: It is too long.
    """
    fields = dict(headers)
    kind = fields.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json":
        raise InvalidRequestError("a batch request is JSON: send it with 'Content-Type: application/json'")
    declared = fields.get(b"content-length", b"0")
    if not declared.isdigit() or len(declared) > 18 or int(declared) > MAX_BATCH_BYTES:
        _refuse_size()


async def read_body(receive: Receive, share: Share) -> bytes:
    """Read a request's body, of at most `MAX_BATCH_BYTES`, into a share of the budget.

    Raises:
        InvalidRequestError: It did not come.
        ProblemError: It is too long, or the budget is spent.
    """
    body = bytearray()
    while True:
        try:
            async with asyncio.timeout(BODY_WAIT_S):
                message = await receive()
        except TimeoutError:
            raise InvalidRequestError(f"no more of the request came within {BODY_WAIT_S:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise InvalidRequestError("the client went away before its request was whole")
        body += message.get("body", b"")
        if len(body) > MAX_BATCH_BYTES:
            _refuse_size()
        share.resize(len(body))
        if not message.get("more_body", False):
            return bytes(body)


def parse_wanted(body: bytes) -> Wanted:
    """Read a request.

    Raises:
        InvalidRequestError: It is no JSON, or not what a batch request is.
        ProblemError: It asks for too much.
    """
    if body.count(b",") > _MAX_COMMAS and _STRING.sub(b"", body).count(b",") > _MAX_COMMAS:
        _refuse_size()  # before it becomes millions of objects
    try:
        request = BatchRequest.model_validate_json(body)
    except ValidationError as error:
        mistakes = "; ".join(_describe(mistake) for mistake in error.errors(include_input=False, include_url=False)[:5])
        raise InvalidRequestError(f"the request is not valid: {mistakes}") from None
    wanted = Wanted(request.paths or [], request.reads, request.revision, len(body))
    if wanted.count > MAX_BATCH_ENTRIES:
        _refuse_size()
    return wanted


def _describe(mistake: ErrorDetails) -> str:
    where = ".".join(map(str, mistake["loc"]))
    return f"{where}: {mistake['msg']}" if where else str(mistake["msg"])


def _refuse_size() -> NoReturn:
    raise ProblemError(
        "too_large",
        f"a batch may ask for {MAX_BATCH_ENTRIES} entries in {MAX_BATCH_BYTES} bytes of JSON; ask for them in several",
    )
