"""Put the hub together: settings in, ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp

from dsx.protocol.models import BatchRequest, ProblemDetail
from dsx.protocol.version import __version__
from dsx_server.activity import Activity
from dsx_server.auth import Keyring
from dsx_server.backstage import Backstage
from dsx_server.front import Front
from dsx_server.index import Index, WaitingRoom
from dsx_server.problems import install_handlers
from dsx_server.remote import RemoteScans
from dsx_server.routes import datasets, health, manifest
from dsx_server.routes.batch import BatchRoute
from dsx_server.routes.file import FileRoute
from dsx_server.routes.file_digests import DigestBook
from dsx_server.routes.openapi import BATCH_PATH, FILE_PATH, PROBLEM_RESPONSES
from dsx_server.settings import Settings
from dsx_server.storage import LocalStorage, Storage

READ_THREADS = 32
"""Threads that read entries; a cold NAS answers many reads at once better than one after another."""

_DESCRIPTION = "Serves folders as datasets. Every path but `/health` and this page needs the API key: press Authorize."


def create_app(settings: Settings, storage: Storage | None = None, *, scans: RemoteScans | None = None) -> Front:
    """Make the hub's ASGI application.

    Args:
        settings: What to serve, to whom, and where the index lies.
        storage: Where the datasets lie; by default the folders in ``settings.dataset_path``.
        scans: Whoever scans, when that is another process; by default this one does.
    """
    storage = storage or LocalStorage(settings.dataset_path)
    if scans is None:
        backstage = Backstage(settings, storage)
        backstage.start()
        index, activity = backstage.index, backstage.activity
        room = WaitingRoom(index, backstage.keeper)
    else:
        backstage = None
        index, activity = Index(settings.index_dir, storage), Activity(scans.note_busy)
        index.db.on_damage = scans.note_damaged
        room = WaitingRoom(index, scans)
    threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="dsx-read")
    digests = DigestBook(index, learns=settings.digests != "off")
    batch = BatchRoute(storage, index)

    def close() -> None:
        threads.shutdown(wait=False, cancel_futures=True)
        room.close()
        digests.close()
        batch.close()
        (backstage or index).close()

    app = _make_fastapi(room, close)
    routes: dict[str, ASGIApp] = {"file": FileRoute(storage, index, digests, threads), "batch": batch}
    return Front(app, routes, keyring=Keyring(settings.api_key), activity=activity, close=close)


def _make_fastapi(room: WaitingRoom, close: Callable[[], None]) -> FastAPI:
    """Make the part of the hub that is not about speed."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        close()

    app = FastAPIOffline(
        title="DSX Hub",
        version=__version__,
        description=_DESCRIPTION,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.index = room
    app.include_router(health.router, tags=["hub"])
    for module in (datasets, manifest):
        app.include_router(module.router, tags=["datasets"], responses=PROBLEM_RESPONSES)
    install_handlers(app)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]  # -- FastAPI's documented way to extend it
    return app


def _describe(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema["paths"]["/file/{dataset}/{path}"] = FILE_PATH
        schema["paths"]["/batch/{dataset}"] = BATCH_PATH
        for model in (ProblemDetail, BatchRequest):
            schema["components"]["schemas"][model.__name__] = model.model_json_schema()
        app.openapi_schema = schema
    return app.openapi_schema
