"""What the SDK has put into a folder of somebody's own, in a file, where no ledger can be kept: on a network disk.

A cache has its manifests to tell what is the SDK's own when the ledger is lost; such a folder has none. Without this
file, what changes on the hub would be in the way of itself. ``.dsx/published.json`` has one line of JSON a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dsx._ledger import Ledger, Record
from dsx.errors import InvalidPathError
from dsx.protocol.paths import check_dataset, check_path

_TYPES: list[list[type]] = [[str], [str], [int], [int], [str], [str], [int, type(None)]]


def restore_published(ledger: Ledger, file: Path) -> None:
    """Have a ledger in memory begin with what ``file`` says; nothing of it is believed unread."""
    if ledger.is_in_memory:
        ledger.restore(_read(file))


def format_published(ledger: Ledger) -> Iterator[bytes]:
    """Yield what `restore_published` reads."""
    for dataset, path, record in ledger.list_all_ours():
        yield json.dumps([dataset, path, *record[:5]], ensure_ascii=False).encode() + b"\n"


def _read(file: Path) -> Iterator[tuple[str, str, Record]]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            values = json.loads(line)
            if [type(value) in types for value, types in zip(values, _TYPES, strict=True)] != [True] * len(_TYPES):
                continue
            dataset, path = check_dataset(values[0]), check_path(values[1])
        except (ValueError, TypeError, RecursionError, InvalidPathError):
            continue
        yield dataset, path, Record._make([*values[2:], "", True, False])
