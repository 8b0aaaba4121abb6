"""``GET /datasets`` and below: what is there, and what was there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from dsx.protocol.models import DatasetDiff, DatasetInfo, RevisionInfo
from dsx_server.index import FRESH_WITHIN_S, FirstScanError
from dsx_server.routes.access import KEY_NEEDED, CurrentIndex, CurrentPrincipal, ask, list_readable, load

router = APIRouter(dependencies=[KEY_NEEDED])


@router.get("/datasets", summary="List the datasets")
async def list_datasets(principal: CurrentPrincipal, index: CurrentIndex) -> list[str]:
    """Names of the datasets that this key may read, sorted."""
    return await index.run(list_readable, principal, index.index)


@router.get("/datasets/{dataset}", summary="Describe one dataset")
async def read_dataset(dataset: str, principal: CurrentPrincipal, index: CurrentIndex) -> DatasetInfo:
    """Entries, bytes, revision, time of the last scan, and what was left out of the manifest, by reason.

    During a dataset's first scan: the entries found so far, and no revision.
    """
    try:
        info = await load(index, principal, dataset, patience_s=FRESH_WITHIN_S)
    except FirstScanError as error:
        return DatasetInfo(name=dataset, entries=error.entries, bytes=0, scanning=True, left_out={})
    return DatasetInfo(
        name=dataset,
        entries=info.entries,
        bytes=info.bytes,
        revision=info.id,
        scanned_at=_format_time(info.scanned_ns),
        scanning=await index.count_scanned(dataset) is not None,
        digest_share=min(1.0, info.digests / info.entries) if info.entries else 1.0,
        left_out=info.left_out,
    )


@router.get("/datasets/{dataset}/revisions", summary="List the revisions of one dataset")
async def list_revisions(dataset: str, principal: CurrentPrincipal, index: CurrentIndex) -> list[RevisionInfo]:
    """Revisions that the hub keeps, newest first: the last ten, and those that were asked for within 30 days."""
    await load(index, principal, dataset)
    kept = await ask(index, principal, dataset, lambda index: index.list_revisions(dataset))
    return [
        RevisionInfo(revision=each.id, created_at=_format_time(each.created_ns), entries=each.entries, bytes=each.bytes)
        for each in kept
    ]


@router.get("/datasets/{dataset}/diff", summary="Compare two revisions of one dataset")
async def compare_revisions(
    dataset: str,
    principal: CurrentPrincipal,
    index: CurrentIndex,
    a: Annotated[str, Query(alias="from", description="A revision.")],
    b: Annotated[str, Query(alias="to", description="Another revision.")],
) -> DatasetDiff:
    """Paths that were added, changed and removed from one revision to the other, sorted."""
    difference = await ask(index, principal, dataset, lambda index: index.compare(dataset, a, b))
    return DatasetDiff.model_validate({"from": a, "to": b, **difference._asdict()})


def _format_time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
