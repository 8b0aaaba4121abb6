"""``GET /health``: is the hub there? Needs no key."""

from __future__ import annotations

from fastapi import APIRouter

from dsx.protocol.models import Health
from dsx.protocol.version import __version__

router = APIRouter()


@router.get("/health", summary="Tell that the hub is up")
async def read_health() -> Health:
    """Answer as long as the hub takes requests. No key needed."""
    return Health(status="ok", version=__version__)
