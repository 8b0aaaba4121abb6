"""``GET /manifest/{dataset}``: every entry of a dataset, as the contract's rows or as columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dsx.protocol.models import ManifestColumns, ManifestRow
from dsx_server.index import Row
from dsx_server.routes.access import KEY_NEEDED, CurrentIndex, CurrentPrincipal, ask, load
from dsx_server.routes.conditions import matches_weakly

GZIP_LEVEL = 5
GZIP_FROM_BYTES = 1024

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
    format: Literal["rows", "columns"] = "rows",  # noqa: A002 -- the name is the query parameter's
    revision: str | None = None,
) -> Response:
    """Return all entries, sorted by path; ``format=columns`` adds revision, mtimes and digests, and is smaller.

    The ETag stands for the revision: send it back in ``If-None-Match`` to learn whether anything changed. With
    ``revision`` it is the manifest of that revision, whatever the dataset holds now.
    """
    if revision is None:
        info, rows = await load(index, principal, dataset)
        pinned = info.id
    else:
        pinned = revision
        rows = await ask(index, principal, dataset, lambda index: index.load_revision(dataset, pinned))
    etag = f'W/"{pinned}"'
    headers = {"ETag": etag, "Vary": "Accept-Encoding", "Cache-Control": "private, no-cache"}
    if matches_weakly(", ".join(request.headers.getlist("if-none-match")), etag):
        return Response(status_code=304, headers=headers)
    body = await index.run(lambda: format_rows(rows) if format == "rows" else format_columns(pinned, rows))
    if len(body) >= GZIP_FROM_BYTES and takes_gzip(", ".join(request.headers.getlist("accept-encoding"))):
        body = await index.run(gzip.compress, body, GZIP_LEVEL, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type="application/json")


def format_rows(rows: Sequence[Row]) -> bytes:
    """Write the contract's array of objects."""
    return _to_json([{"path": row.path, "size": row.identity.size, "hash": row.head_hash} for row in rows])


def format_columns(revision: str, rows: Sequence[Row]) -> bytes:
    """Write one object of arrays; see `ManifestColumns`."""
    return _to_json(
        {
            "revision": revision,
            "paths": [row.path for row in rows],
            "sizes": [row.identity.size for row in rows],
            "mtimes_ns": [row.identity.mtime_ns for row in rows],
            "hashes": [row.head_hash for row in rows],
            "digests": [None] * len(rows),
        }
    )


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


def _to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
