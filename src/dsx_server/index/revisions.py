"""Published states of datasets: the newest, and how the living rows become one."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import NamedTuple

from dsx.protocol.digests import format_revision


class RevisionInfo(NamedTuple):
    """The newest published state of a dataset, and what is known of its folder.

    Attributes:
        id: Id of the revision.
        number: Its number within the dataset.
        entries: How many entries it has.
        bytes: Sum of their sizes.
        scanned_ns: When the folder was last read whole, ns since 1970.
        scan_s: How long that took, in s.
        left_out: How many things in the folder are no entries, by reason.
        digests: Of how many of the entries that are there now the digest is known.
        digest_version: Counts up when a manifest would show other digests than before.
    """

    id: str
    number: int
    entries: int
    bytes: int
    scanned_ns: int
    scan_s: float
    left_out: dict[str, int]
    digests: int
    digest_version: int

    @property
    def tag(self) -> str:
        """What tells this manifest from others of the dataset: the revision, and which digests it shows."""
        return format_tag(self.id, self.digest_version)


def format_tag(revision: str, digest_version: int) -> str:
    """Return what tells one manifest of a dataset from its others, also from those of an index before this one.

    Versions count up from the time at which the index was made.
    """
    return f"{revision}.{digest_version}"


def find_key(db: sqlite3.Connection, dataset: str) -> int | None:
    """Return the key of a dataset; None when it has none yet."""
    row = db.execute("SELECT id FROM datasets WHERE name = ?", (dataset,)).fetchone()
    return None if row is None else row[0]


def make_key(db: sqlite3.Connection, dataset: str) -> int:
    """Return the key of a dataset, which gets one."""
    db.execute("INSERT INTO datasets (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (dataset,))
    key: int = db.execute("SELECT id FROM datasets WHERE name = ?", (dataset,)).fetchone()[0]
    return key


def read_info(db: sqlite3.Connection, dataset: str) -> RevisionInfo | None:
    """Return the newest revision of ``dataset``, or None when none was published."""
    row = db.execute(
        "SELECT r.id, r.number, r.entries, r.bytes, d.scanned_ns, d.scan_s, d.left_out, d.digests, d.digest_version"
        " FROM datasets d JOIN revisions r ON r.dataset = d.id WHERE d.name = ? ORDER BY r.number DESC LIMIT 1",
        (dataset,),
    ).fetchone()
    return None if row is None else RevisionInfo._make([*row[:6], json.loads(row[6]), *row[7:]])


def find_newest_number(db: sqlite3.Connection, key: int) -> int:
    """Return the number of the newest revision; 0 when none was published."""
    number: int = db.execute("SELECT coalesce(max(number), 0) FROM revisions WHERE dataset = ?", (key,)).fetchone()[0]
    return number


def publish_living(db: sqlite3.Connection, key: int) -> bool:
    """Make a revision of the living rows, and tell whether it is another than the newest."""
    entries, total, row_sum = db.execute("SELECT entries, bytes, row_sum FROM datasets WHERE id = ?", (key,)).fetchone()
    revision = format_revision(entries, int.from_bytes(row_sum, "big"))
    newest = db.execute(
        "SELECT id, number FROM revisions WHERE dataset = ? ORDER BY number DESC LIMIT 1", (key,)
    ).fetchone()
    if newest is not None and newest[0] == revision:
        return False
    number = 1 if newest is None else newest[1] + 1
    db.execute(
        "INSERT INTO revisions (dataset, number, id, created_ns, entries, bytes) VALUES (?, ?, ?, ?, ?, ?)",
        (key, number, revision, time.time_ns(), entries, total),
    )
    return True


def is_published(db: sqlite3.Connection, dataset: str) -> bool:
    """Tell whether the newest revision is made of the living rows."""
    row = db.execute("SELECT id, entries, row_sum FROM datasets WHERE name = ?", (dataset,)).fetchone()
    if row is None:
        return True
    newest = db.execute("SELECT id FROM revisions WHERE dataset = ? ORDER BY number DESC LIMIT 1", (row[0],)).fetchone()
    return newest is not None and newest[0] == format_revision(row[1], int.from_bytes(row[2], "big"))
