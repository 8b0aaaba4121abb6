"""The digests of entries: kept with the state that they are of, and shown in manifests in steps.

Every new digest would make another manifest. So manifests show them when their number has doubled, and when it is
complete: a client that revalidates loads the manifest of a large dataset a few times, not once a second.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dsx_server.index.revisions import find_key
from dsx_server.storage import Identity

SHOWN_FROM = 1000
"""With fewer new digests than this, a manifest is not made anew unless they complete it."""

_SAME = "dataset = ? AND path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? AND inode = ? AND died IS NULL"


class Learned(NamedTuple):
    """The digest of an entry in one state."""

    dataset: str
    path: str
    identity: Identity
    digest: str


def find_digest(db: sqlite3.Connection, dataset: str, path: str, identity: Identity) -> str | None:
    """Return the digest of an entry in this very state; None when it is unknown."""
    key = find_key(db, dataset)
    row = db.execute(f"SELECT digest FROM entries WHERE {_SAME}", (key, path, *identity)).fetchone()
    return None if row is None or row[0] is None else row[0].hex()


def record_digests(db: sqlite3.Connection, learned: Iterable[Learned]) -> set[str]:
    """Keep digests with the living rows that are in the states that they are of, and show them when it is time.

    Returns:
        The datasets whose manifests show more from now on.
    """
    news = set()
    by_dataset = defaultdict(list)
    for each in learned:
        by_dataset[each.dataset].append(each)
    for dataset, group in by_dataset.items():
        key = find_key(db, dataset)
        if key is None:
            continue
        found = db.executemany(
            f"UPDATE entries SET digest = ? WHERE {_SAME} AND racy = 0 AND digest IS NULL",
            ((bytes.fromhex(each.digest), key, each.path, *each.identity) for each in group),
        ).rowcount
        if found > 0:
            db.execute("UPDATE datasets SET digests = digests + ? WHERE id = ?", (found, key))
        if _show_when_due(db, key):
            news.add(dataset)
    return news


def read_unknown(db: sqlite3.Connection, key: int, *, after: str, limit: int) -> Sequence[tuple[str, Identity]]:
    """Return living entries without a digest, with paths after ``after``, sorted."""
    rows = db.execute(
        "SELECT path, size, mtime_ns, ctime_ns, inode FROM entries WHERE dataset = ? AND path > ?"
        " AND died IS NULL AND digest IS NULL AND racy = 0 ORDER BY path LIMIT ?",
        (key, after, limit),
    )
    return [(path, Identity(*identity)) for path, *identity in rows]


def _show_when_due(db: sqlite3.Connection, key: int) -> bool:
    entries, known, shown = db.execute(
        "SELECT entries, digests, digests_shown FROM datasets WHERE id = ?", (key,)
    ).fetchone()
    is_due: bool = known != shown and (known == entries or known >= max(2 * shown, SHOWN_FROM))
    if is_due:
        db.execute(
            "UPDATE datasets SET digests_shown = digests, digest_version = digest_version + 1 WHERE id = ?", (key,)
        )
    return is_due
