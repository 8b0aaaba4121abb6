"""Tell a folder that was emptied from one whose disk is not mounted: the second must never look like the first."""

from __future__ import annotations

from dsx.errors import HubUnavailableError
from dsx.protocol.text import shown
from dsx_server.index.database import Database

SERVED = ""
"""Name under which the served folder's identity is kept; no dataset can have it."""


def note_folder(db: Database, name: str, identity: tuple[int, int]) -> None:
    """Remember (device, inode) of a folder that holds something."""
    if read_identity(db, name) == identity:
        return
    with db.write() as writing:
        writing.execute(
            "INSERT INTO datasets (name, device, inode) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET device = excluded.device, inode = excluded.inode",
            (name, *identity),
        )


def read_identity(db: Database, name: str) -> tuple[int, int] | None:
    """Return (device, inode) of a folder when it last held something; None when it never did."""
    with db.read() as reading:
        row = reading.execute(
            "SELECT device, inode FROM datasets WHERE name = ? AND inode IS NOT NULL", (name,)
        ).fetchone()
    return None if row is None else (row[0], row[1])


def list_noted(db: Database) -> set[str]:
    """Return the names of all folders that are remembered."""
    with db.read() as reading:
        return {row[0] for row in reading.execute("SELECT name FROM datasets WHERE inode IS NOT NULL")}


def forget_folders(db: Database, names: set[str]) -> None:
    """Forget the folders of these datasets."""
    with db.write() as writing:
        writing.executemany(
            "UPDATE datasets SET device = NULL, inode = NULL WHERE name = ?", ((name,) for name in names)
        )


def refuse_unmounted(db: Database, name: str, identity: tuple[int, int]) -> None:
    """Refuse to take an empty folder for what it seems, unless it is the very folder that held something before.

    One that was emptied is then to be forgotten: device numbers change with a restart of the machine.

    Raises:
        HubUnavailableError: Another folder held something there: a disk that is not mounted now.
    """
    known = read_identity(db, name)
    if known is None:
        return
    if known != identity:
        what = f"the folder of dataset {shown(name)}" if name else "the served folder"
        raise HubUnavailableError(
            f"{what} is empty and is not the folder that held files before: is its disk mounted? "
            "If it is meant to be empty, put a file into it once, or delete the hub's state folder"
        )
