"""How the verbs of the ``dsx`` command write numbers for people."""

from __future__ import annotations

_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def format_bytes(count: float) -> str:
    """Write a number of bytes with a decimal unit, as disks are sold: ``1.5 MB``."""
    if count < 1000:
        return f"{count:.0f} bytes" if count != 1 else "1 byte"
    power = 1
    while count / 1000**power >= 999.95 and power < len(_UNITS):  # what would be written as 1000.0
        power += 1
    return f"{count / 1000**power:.1f} {_UNITS[power - 1]}"


def format_entries(count: int) -> str:
    """Write a number of entries."""
    return "1 entry" if count == 1 else f"{count:,} entries"


def format_files(count: int) -> str:
    """Write a number of files."""
    return "1 file" if count == 1 else f"{count:,} files"
