"""Who may see which dataset, asked the same way by every route."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from dsx.errors import DatasetNotFoundError
from dsx.protocol.text import shown
from dsx_server.auth import Principal
from dsx_server.index import Index

_NAMES_SHOWN = 20

# Only so that the OpenAPI document says it and /docs has its Authorize button: the front door has checked the key.
KEY_NEEDED = Security(HTTPBearer(auto_error=False, scheme_name="ApiKey", description="The hub's API key."))


def _principal(request: Request) -> Principal:
    principal: Principal = request.scope["dsx.principal"]
    return principal


def _index(request: Request) -> Index:
    index: Index = request.app.state.index
    return index


CurrentPrincipal = Annotated[Principal, Depends(_principal)]
CurrentIndex = Annotated[Index, Depends(_index)]


def list_readable(principal: Principal, index: Index) -> list[str]:
    """Return the names of the datasets that ``principal`` may read, sorted."""
    return [name for name in index.list_datasets() if principal.may_read(name)]


@contextmanager
def reading(dataset: str, principal: Principal, index: Index) -> Iterator[None]:
    """Let the body read ``dataset`` if ``principal`` may; one that it may not read does not exist for it.

    Raises:
        DatasetNotFoundError: Either way with the same words, naming only datasets that the principal may read.
    """
    try:
        if not principal.may_read(dataset):
            raise DatasetNotFoundError(dataset)
        yield
    except DatasetNotFoundError:
        names = list_readable(principal, index)
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        has = ", ".join(names[:_NAMES_SHOWN]) + more or "none yet"
        raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub; it has: {has}") from None
