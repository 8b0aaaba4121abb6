"""Put the hub together: settings in, ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from dsx.protocol.models import ProblemDetail
from dsx.protocol.version import __version__
from dsx_server.auth import Keyring
from dsx_server.front import Front
from dsx_server.index import Index, WaitingRoom
from dsx_server.problems import install_handlers
from dsx_server.routes import datasets, health, manifest
from dsx_server.routes.file import FileRoute
from dsx_server.routes.openapi import FILE_PATH, PROBLEM_RESPONSES
from dsx_server.settings import Settings
from dsx_server.storage import LocalStorage, Storage

READ_THREADS = 32
"""Threads that read entries; a cold NAS answers many reads at once better than one after another."""

_DESCRIPTION = "Serves folders as datasets. Every path but `/health` and this page needs the API key: press Authorize."


def create_app(settings: Settings, storage: Storage | None = None) -> Front:
    """Make the hub's ASGI application.

    Args:
        settings: What to serve, to whom, and where the index lies.
        storage: Where the datasets lie; by default the folders in ``settings.dataset_path``.
    """
    storage = storage or LocalStorage(settings.dataset_path)
    index = Index(settings.index_dir, storage)
    room = WaitingRoom(index)
    threads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="dsx-read")

    def close() -> None:
        threads.shutdown(wait=False, cancel_futures=True)
        room.close()

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
    return Front(app, {"file": FileRoute(storage, index, threads)}, Keyring(settings.api_key), close)


def _describe(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schema["paths"]["/file/{dataset}/{path}"] = FILE_PATH
        schema["components"]["schemas"]["ProblemDetail"] = ProblemDetail.model_json_schema()
        app.openapi_schema = schema
    return app.openapi_schema
