"""``GET /datasets`` and ``GET /datasets/{dataset}``: what is there."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

from dsx.protocol.models import DatasetInfo
from dsx_server.routes.access import KEY_NEEDED, CurrentIndex, CurrentPrincipal, CurrentStorage, list_readable, reading

router = APIRouter(dependencies=[KEY_NEEDED])


@router.get("/datasets", summary="List the datasets")
def list_datasets(principal: CurrentPrincipal, storage: CurrentStorage) -> list[str]:
    """Names of the datasets that this key may read, sorted."""
    return list_readable(principal, storage)


@router.get("/datasets/{dataset}", summary="Describe one dataset")
def read_dataset(
    dataset: str, principal: CurrentPrincipal, storage: CurrentStorage, index: CurrentIndex
) -> DatasetInfo:
    """Entries, bytes, revision, time of the last scan, and what was left out of the manifest, by reason."""
    with reading(dataset, principal, storage):
        info = index.refresh(dataset)
    return DatasetInfo(
        name=dataset,
        entries=info.entries,
        bytes=info.bytes,
        revision=info.id,
        scanned_at=datetime.fromtimestamp(info.scanned_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        left_out=info.left_out,
    )
