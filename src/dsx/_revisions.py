"""Questions about the revisions of a dataset: which is the newest, which are kept, what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlencode

from pydantic import TypeAdapter, ValidationError

from dsx._columns_json import is_revision
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx._scan import SCAN_CODE, run_through_scan
from dsx._transport import LARGE_BODY_BYTES, READ_TIMEOUT_S, SMALL_BODY_BYTES, Transport, quote_path
from dsx.errors import HubError, HubUnavailableError, InvalidRequestError, RevisionNotFoundError
from dsx.protocol.models import DatasetDiff, DatasetInfo, RevisionInfo
from dsx.protocol.paths import check_dataset
from dsx.protocol.text import shown

SCAN_PAUSE_S = 1.0
DIFF_TIMEOUT_S = 120.0
"""Longest silence, in s, of a hub that compares two revisions."""

T = TypeVar("T")

_INFO: TypeAdapter[DatasetInfo] = TypeAdapter(DatasetInfo)
_REVISIONS = TypeAdapter(list[RevisionInfo])
_DIFF: TypeAdapter[DatasetDiff] = TypeAdapter(DatasetDiff)


class Revisions:
    """What one hub says of revisions.

    Args:
        transport: The hub.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get_newest(self, dataset: str) -> str:
        """Return the newest revision, once there is one."""
        url = _format_url(dataset)

        def ask() -> str:
            info = self._read(url, _INFO, limit=SMALL_BODY_BYTES)
            if info.revision is None:
                error = HubUnavailableError(f"{info.entries} entries found so far")
                error.code, error.retry_after_s = SCAN_CODE, SCAN_PAUSE_S
                raise error
            return info.revision

        return run_through_scan(ask, dataset, patience_s=FIRST_CONTACT_S)

    def list_kept(self, dataset: str) -> list[RevisionInfo]:
        """Return the revisions that the hub keeps, newest first."""
        url = _format_url(dataset, "/revisions")
        return _patiently(lambda: self._read(url, _REVISIONS, limit=LARGE_BODY_BYTES))

    def diff(self, dataset: str, a: str, b: str) -> DatasetDiff:
        """Return what differs between two revisions."""
        query = urlencode({"from": check_revision(dataset, a), "to": check_revision(dataset, b)})
        url = f"{_format_url(dataset, '/diff')}?{query}"
        with naming_revisions(dataset, a, b):
            return _patiently(lambda: self._read(url, _DIFF, limit=LARGE_BODY_BYTES, timeout_s=DIFF_TIMEOUT_S))

    def _read(self, url: str, kind: TypeAdapter[T], *, limit: int, timeout_s: float = READ_TIMEOUT_S) -> T:
        body = self._transport.get_body(url, timeout_s=timeout_s, limit=limit)
        try:
            return kind.validate_json(body.data)
        except ValidationError as error:
            raise HubError(
                f"what answers at {self._transport.url} sent something else than was asked for; is it an older hub?"
            ) from error


def check_revision(dataset: str, revision: str) -> str:
    """Return ``revision`` unchanged when it can name a revision.

    Raises:
        InvalidRequestError: It is no string.
        RevisionNotFoundError: No dataset has one of this name.
    """
    if not isinstance(revision, str):
        raise InvalidRequestError(f"a revision is a string of 32 hex digits; got {shown(revision)}")
    if not is_revision(revision):
        raise _make_not_found(dataset, revision)
    return revision


@contextmanager
def naming_revisions(dataset: str, *revisions: str) -> Iterator[None]:
    """Say in a RevisionNotFoundError how to list the revisions that there are."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise _make_not_found(dataset, *revisions) from error


def _make_not_found(dataset: str, *revisions: str) -> RevisionNotFoundError:
    named = " or no ".join(map(shown, dict.fromkeys(revisions)))
    return RevisionNotFoundError(
        f"dataset {shown(dataset)} has no revision {named}, or has it no longer; "
        f"hub.list_revisions({shown(dataset)}) lists those it has"
    )


def _format_url(dataset: str, more: str = "") -> str:
    return f"/datasets/{quote_path(check_dataset(dataset))}{more}"


def _patiently(call: Callable[[], T]) -> T:
    return Patience(FIRST_CONTACT_S).run(call)
