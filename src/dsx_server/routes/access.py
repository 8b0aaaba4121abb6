"""Who may see which dataset, asked the same way by every route."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from dsx.errors import DatasetNotFoundError, InvalidPathError
from dsx.protocol.text import shown
from dsx_server.auth import Principal
from dsx_server.index import FIRST_SCAN_S, Index, RevisionInfo, WaitingRoom

_NAMES_SHOWN = 20

T = TypeVar("T")

# Only so that the OpenAPI document says it and /docs has its Authorize button: the front door has checked the key.
KEY_NEEDED = Security(HTTPBearer(auto_error=False, scheme_name="ApiKey", description="The hub's API key."))


# Coroutines, since FastAPI would hand plain functions to a thread.
async def _principal(request: Request) -> Principal:
    principal: Principal = request.scope["dsx.principal"]
    return principal


async def _index(request: Request) -> WaitingRoom:
    room: WaitingRoom = request.app.state.index
    return room


CurrentPrincipal = Annotated[Principal, Depends(_principal)]
CurrentIndex = Annotated[WaitingRoom, Depends(_index)]


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
        if principal.may_read(dataset):
            with suppress(DatasetNotFoundError, InvalidPathError):
                index.check(dataset)  # which knows one whose disk is missing
        names = list_readable(principal, index)
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        has = ", ".join(names[:_NAMES_SHOWN]) + more or "none yet"
        raise DatasetNotFoundError(f"dataset {shown(dataset)} is not on this hub; it has: {has}") from None


async def ask(room: WaitingRoom, principal: Principal, dataset: str, call: Callable[[Index], T]) -> T:
    """Ask the index something about ``dataset``, in a thread, if ``principal`` may read it.

    Raises:
        DatasetNotFoundError: As `reading` has it.
    """

    def work() -> T:
        with reading(dataset, principal, room.index):
            return call(room.index)

    return await room.run(work)


async def load(
    room: WaitingRoom, principal: Principal, dataset: str, *, patience_s: float = FIRST_SCAN_S
) -> RevisionInfo:
    """Return the newest revision of ``dataset``, as `WaitingRoom.load` has it, if it may be read.

    Raises:
        DatasetNotFoundError: As `reading` has it.
    """
    try:
        if not principal.may_read(dataset):
            raise DatasetNotFoundError(dataset)
        return await room.load(dataset, patience_s=patience_s)
    except DatasetNotFoundError:
        await ask(room, principal, dataset, _raise_not_found)
        raise


def _raise_not_found(_index: Index) -> None:
    raise DatasetNotFoundError
