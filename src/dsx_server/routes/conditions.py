"""Ranges and preconditions of ``/file``: pure functions from headers to a verdict.

Source:
    RFC 9110, sections 13 (conditional requests) and 14 (range requests).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import NamedTuple

_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.IGNORECASE | re.ASCII)
_TAG = re.compile(r'[ \t,]*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")[ \t]*(?:,[ \t,]*|\Z)')  # empty members are allowed


class Validators(NamedTuple):
    """What an entry can be compared by.

    Attributes:
        etag: Strong entity tag, with quotes.
        modified_s: Last modification, in whole seconds since 1970.
    """

    etag: str
    modified_s: int


class Verdict(NamedTuple):
    """How to answer: a status, and for 200 and 206 the bytes ``[start, stop)``."""

    status: int
    start: int = 0
    stop: int = 0


def decide(method: str, headers: Mapping[str, str], validators: Validators, size: int) -> Verdict:
    """Say how to answer a GET or HEAD for an entry of ``size`` bytes.

    Args:
        method: ``GET`` or ``HEAD``; a range counts for GET only.
        headers: Request headers by lower-case name; repeated ones joined with commas.
        validators: Of the entry as it is now.
        size: Of the entry as it is now, in bytes.

    Source:
        RFC 9110, section 13.2.2, for the order of the steps.
    """
    if _is_precondition_failed(headers, validators):
        return Verdict(412)
    if _is_not_modified(headers, validators):
        return Verdict(304)
    if method == "GET" and "range" in headers and _if_range_holds(headers.get("if-range"), validators):
        wanted = parse_range(headers["range"], size)
        if wanted is not None:
            return Verdict(416) if wanted == (0, 0) else Verdict(206, *wanted)
    return Verdict(200, 0, size)


def parse_range(value: str, size: int) -> tuple[int, int] | None:
    """Read a ``Range`` header against an entry of ``size`` bytes.

    Returns:
        ``(start, stop)``, half-open; ``(0, 0)`` when the range is valid and starts past the end; None when the header
        is to be ignored: malformed, another unit, or several ranges (the hub has ``/batch`` for those).

    Source:
        RFC 9110, section 14.1.2 and 14.2.
    """
    match = _RANGE.fullmatch(value)
    if match is None or match.group(1, 2) == ("", ""):
        return None
    # Numbers of any length: compared as digits, and only then made numbers no larger than they need to be.
    first, last = (digits and (digits.lstrip("0") or "0") for digits in match.group(1, 2))
    if not first:
        length = _bounded(last, size)
        if size == 0 and last != "0":
            return None  # all of nothing: a 206 could not say so
        return (size - length, size) if length else (0, 0)
    if last and (len(last), last) < (len(first), first):
        return None
    start = _bounded(first, size)
    if start == size:
        return 0, 0
    return start, _bounded(last, size - 1) + 1 if last else size


def parse_tags(value: str) -> list[str] | None:
    """Read a list of entity tags; None when it is malformed."""
    tags = []
    position = 0
    while position < len(value):
        match = _TAG.match(value, position)
        if match is None:
            return None
        tags.append(match[1])
        position = match.end()
    return tags


def matches_weakly(value: str, etag: str) -> bool:
    """Compare an ``If-None-Match`` header with an entity tag, weakness aside (RFC 9110, section 8.8.3.2)."""
    if value.strip() == "*":
        return True
    return etag.removeprefix("W/") in [tag.removeprefix("W/") for tag in parse_tags(value) or []]


def _is_precondition_failed(headers: Mapping[str, str], validators: Validators) -> bool:
    if (value := headers.get("if-match")) is not None:
        return value.strip() != "*" and validators.etag not in (parse_tags(value) or [])
    since = _parse_date(headers.get("if-unmodified-since"))
    return since is not None and validators.modified_s > since


def _is_not_modified(headers: Mapping[str, str], validators: Validators) -> bool:
    if (value := headers.get("if-none-match")) is not None:
        return matches_weakly(value, validators.etag)
    since = _parse_date(headers.get("if-modified-since"))
    return since is not None and validators.modified_s <= since


def _if_range_holds(value: str | None, validators: Validators) -> bool:
    """A range is served only of the content that the client has the rest of; in doubt the whole is sent.

    A date never proves that: the hub cannot know that the entry did not change twice in that second (RFC 9110, sections
    13.1.5 and 8.8.2.2).
    """
    return value is None or value.strip() == validators.etag


def _bounded(digits: str, limit: int) -> int:
    """Return the smaller of a number, of however many digits, and ``limit``."""
    return limit if len(digits) > len(str(limit)) else min(int(digits), limit)


def _parse_date(value: str | None) -> int | None:
    try:
        if value is None:
            return None
        moment = parsedate_to_datetime(value)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError, TypeError):
        return None
