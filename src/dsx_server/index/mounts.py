"""Tell a folder that was emptied from one whose disk is not mounted: the second must never look like the first."""

from __future__ import annotations

import sqlite3

from dsx.errors import HubUnavailableError
from dsx.protocol.text import shown

SERVED = ""
"""Name under which the served folder's identity is kept; no dataset can have it."""


def note_folder(db: sqlite3.Connection, name: str, identity: tuple[int, int]) -> None:
    """Remember (device, inode) of a folder that holds something."""
    db.execute(
        "INSERT INTO datasets (name, device, inode) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET device = excluded.device, inode = excluded.inode",
        (name, *identity),
    )


def forget_folders(db: sqlite3.Connection, names: set[str]) -> None:
    """Forget the folders of all datasets but ``names``: those that were removed may come back as others."""
    known = {row[0] for row in db.execute("SELECT name FROM datasets WHERE inode IS NOT NULL")}
    gone = [(name,) for name in known - names]
    db.executemany("UPDATE datasets SET device = NULL, inode = NULL WHERE name = ?", gone)


def refuse_unmounted(db: sqlite3.Connection, name: str, identity: tuple[int, int]) -> None:
    """Refuse to take an empty folder for what it seems, unless it is the very folder that held something before.

    Raises:
        HubUnavailableError: Another folder held something there: a disk that is not mounted now.
    """
    row = db.execute("SELECT device, inode FROM datasets WHERE name = ? AND inode IS NOT NULL", (name,)).fetchone()
    if row is not None and (row[0], row[1]) != identity:
        what = f"the folder of dataset {shown(name)}" if name else "the served folder"
        raise HubUnavailableError(
            f"{what} is empty and is not the folder that held files before: is its disk mounted? "
            "If it is meant to be empty, put a file into it once, or delete the hub's state folder"
        )
    # The very folder that held something was emptied. Device numbers change with a restart of the machine: forget it.
    db.execute("UPDATE datasets SET device = NULL, inode = NULL WHERE name = ?", (name,))
