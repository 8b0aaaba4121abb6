"""Read a dataset's folder and say what it holds now. Entries that have not changed are not opened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from dsx.errors import EntryNotFoundError, UnreadableError
from dsx.protocol.digests import HEAD_BYTES, head_hash
from dsx_server.index.revisions import Row
from dsx_server.storage import Found, Storage

RACY_NS = 2_000_000_000
"""An entry changed this recently (ns) before it was read is read again next time; FAT counts time in steps of 2 s."""


class Scan(NamedTuple):
    """What one look at a dataset found.

    Attributes:
        rows: Every entry, sorted by path.
        left_out: How many files and folders are no entries, by reason.
        opened: How many entries had to be opened.
    """

    rows: list[Row]
    left_out: dict[str, int]
    opened: int


PROGRESS_ENTRIES = 1000
"""How often, in entries, a scan says how far it is."""


def scan_dataset(
    storage: Storage, dataset: str, known: Mapping[str, Row], *, on_progress: Callable[[int], object]
) -> Scan:
    """Walk ``dataset`` and hash the head of what is new, changed or racy.

    Args:
        storage: Where the dataset lies.
        dataset: Its name.
        known: What the index says of it, by path.
        on_progress: Told how many entries were found so far.

    Raises:
        DatasetNotFoundError: There is no such dataset.
        UnreadableError: A folder could not be read.
    """
    left_out: Counter[str] = Counter()
    rows = []
    opened = 0
    for found in storage.walk(dataset, left_out):
        row = known.get(found.path)
        if row is None or row.racy or row.identity != found.identity:
            opened += 1
            row = _read_entry(storage, dataset, found, left_out)
        if row is not None:
            rows.append(row)
            if len(rows) % PROGRESS_ENTRIES == 0:
                on_progress(len(rows))
    rows.sort(key=lambda row: row.path)
    return Scan(rows, dict(sorted(left_out.items())), opened)


def _read_entry(storage: Storage, dataset: str, found: Found, left_out: Counter[str]) -> Row | None:
    try:
        with storage.open(dataset, found.path) as entry:
            head = entry.read(0, HEAD_BYTES)
            identity = entry.identity
    except EntryNotFoundError:
        return None  # removed since it was listed
    except UnreadableError:
        left_out["unreadable"] += 1
        return None
    now_ns = time.time_ns()
    racy = min(abs(now_ns - identity.mtime_ns), abs(now_ns - identity.ctime_ns)) < RACY_NS
    return Row(found.path, identity, head_hash(head), racy)
