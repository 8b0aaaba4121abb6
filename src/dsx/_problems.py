"""What a hub says of a problem: its JSON, and when to come again."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from dsx.protocol.frames import MAX_PROBLEM_BYTES
from dsx.protocol.text import printable


def parse_problem(data: bytes) -> dict[str, Any]:
    """Read problem JSON; what is none is empty."""
    try:
        problem = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}


def is_problem(data: bytes) -> bool:
    """Tell whether bytes are problem JSON as a hub sends it of an entry."""
    return data.startswith(b"{") and len(data) <= MAX_PROBLEM_BYTES and isinstance(parse_problem(data).get("code"), str)


def word_problem(problem: Mapping[str, Any]) -> str:
    """Return what a problem says, fit for a message; empty when it says nothing."""
    detail = problem.get("detail")
    return printable(detail[:2000]) if isinstance(detail, str) else ""


def parse_retry_after(value: str | None) -> float | None:
    """Read ``Retry-After``: seconds or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
