"""Foreign text in messages: names and words of others must not do anything to a terminal or a log."""

from __future__ import annotations

_SHOWN_CHARS = 200


def shown(text: object) -> str:
    """Quote any text for a message: control characters escaped, long ones cut."""
    whole = repr(text)
    return whole if len(whole) <= _SHOWN_CHARS else f"{whole[:_SHOWN_CHARS]}..."


def printable(text: str) -> str:
    """Escape what is not printable, without quotes around."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
