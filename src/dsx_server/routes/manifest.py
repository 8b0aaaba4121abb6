"""``GET /manifest/{dataset}``: every entry of a dataset, as the contract's rows or as columns."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from typing import BinaryIO

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from dsx.protocol.models import ManifestColumns, ManifestRow
from dsx_server.index import Format, WaitingRoom
from dsx_server.routes.access import KEY_NEEDED, CurrentIndex, CurrentPrincipal, ask, load
from dsx_server.routes.conditions import matches_weakly

BLOCK_BYTES = 256 * 1024

_HEADERS = {"Vary": "Accept-Encoding", "Cache-Control": "private, no-cache"}

router = APIRouter(dependencies=[KEY_NEEDED])


@router.get(
    "/manifest/{dataset}",
    summary="Get the manifest of a dataset",
    response_model=list[ManifestRow] | ManifestColumns,
    responses={304: {"description": "The manifest still is what the ETag in If-None-Match stands for."}},
)
async def read_manifest(
    dataset: str,
    request: Request,
    principal: CurrentPrincipal,
    index: CurrentIndex,
    format: Format = "rows",  # noqa: A002 -- the name is the query parameter's
    revision: str | None = None,
) -> Response:
    """Return all entries, sorted by path; ``format=columns`` adds revision, mtimes and digests, and is smaller.

    The ETag stands for the revision: send it back in ``If-None-Match`` to learn whether anything changed. With
    ``revision`` it is the manifest of that revision, whatever the dataset holds now.
    """
    if revision is None:
        tag = (await load(index, principal, dataset)).tag
    else:
        tag = await ask(index, principal, dataset, lambda index: index.note_asked(dataset, revision))
    if matches_weakly(", ".join(request.headers.getlist("if-none-match")), f'W/"{tag}"'):
        return Response(status_code=304, headers={"ETag": f'W/"{tag}"'} | _HEADERS)
    snapshot = await ask(index, principal, dataset, lambda index: index.open_manifest(dataset, revision, format))
    headers = {"ETag": f'W/"{snapshot.tag}"'} | _HEADERS
    if takes_gzip(", ".join(request.headers.getlist("accept-encoding"))):
        headers |= {"Content-Encoding": "gzip", "Content-Length": str(snapshot.gzip_bytes)}
        blocks = read_blocks(index, snapshot.file.read, snapshot.file)
    else:
        headers["Content-Length"] = str(snapshot.json_bytes)
        blocks = read_blocks(index, gzip.GzipFile(fileobj=snapshot.file).read, snapshot.file)
    return StreamingResponse(blocks, headers=headers, media_type="application/json")


async def read_blocks(index: WaitingRoom, read: Callable[[int], bytes], file: BinaryIO) -> AsyncIterator[bytes]:
    """Yield what ``read`` gives, block by block, and close the file behind it."""
    try:
        while block := await index.run(read, BLOCK_BYTES):
            yield block
    finally:
        file.close()


def takes_gzip(accept_encoding: str) -> bool:
    """Tell whether a client takes gzip: it is named, or ``*`` is, and not refused with ``q=0``.

    Source:
        RFC 9110, section 12.5.3.
    """
    weights = {}
    for member in accept_encoding.split(","):
        coding, _, parameter = member.partition(";")
        name, _, weight = parameter.strip().partition("=")
        refused = name.strip().lower() == "q" and weight.strip().rstrip("0") in ("", "0.", ".")
        weights[coding.strip().lower()] = not refused
    return weights.get("gzip", weights.get("*", False))
