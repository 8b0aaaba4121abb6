"""Connections to the index: one that writes, and as many as are needed that read; no SQL is here.

SQLite's write-ahead log lets a reader see one state for as long as it reads, also while a scan writes. Other processes
of the same hub have connections of their own to the same file.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsx.errors import HubUnavailableError
from dsx_server.index.schema import FILE_NAME, connect, open_anew, open_index

READERS_KEPT = 8

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WHAT_TO_DO = {
    sqlite3.SQLITE_FULL: "the disk of its state folder is full; free some space",
    sqlite3.SQLITE_READONLY: "its state folder can no longer be written; see its permissions and its disk",
    sqlite3.SQLITE_IOERR: "the disk of its state folder fails; see the system's log",
    sqlite3.SQLITE_CANTOPEN: "its state folder is gone or has no room; restart the hub when it is there again",
    sqlite3.SQLITE_BUSY: "another program holds its index; try again",
}


class Database:
    """The index file of one state folder. Threads may share it.

    Args:
        folder: The state folder.

    Attributes:
        generation: How often the file was made anew.
        is_damaged: Whether something read from the file made no sense; `rebuild` is the cure.
        on_damage: Called when that is found.

    Raises:
        SettingsError: The folder cannot hold an index.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._writer = open_index(self._file)
        self._inode = self._find_inode()
        self._write_lock = threading.RLock()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._readers_inode = self._inode
        self._is_closed = False
        self.generation = 0
        self.is_damaged = False
        self.on_damage: Callable[[], object] = bool

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose reads within the body all see one state.

        Raises:
            HubUnavailableError: The file cannot be read.
        """
        with self._translating():
            connection = self._take_reader()
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)

    @contextmanager
    def write(self, generation: int | None = None) -> Iterator[sqlite3.Connection]:
        """Do what the body does in one transaction, or nothing of it.

        Args:
            generation: That of the file which the body knows keys of; None when it knows none.

        Raises:
            HubUnavailableError: The file cannot be written, or is another than the body knows.
        """
        with self._write_lock, self._translating():
            self._follow_file()
            if generation not in (None, self.generation):
                raise HubUnavailableError("the hub's index was made anew meanwhile; try again")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def rebuild(self) -> None:
        """Set the damaged file aside and begin a new one.

        Raises:
            SettingsError: The state folder is gone, or cannot be written.
        """
        with self._write_lock:
            self._close_readers()
            self._writer.close()
            self._writer = open_anew(self._file)
            self._inode = self._find_inode()
            self.generation += 1
            self.is_damaged = False

    def check(self) -> None:
        """Raise HubUnavailableError, and note the damage, when the file is gone."""
        self._find_inode()

    def close(self) -> None:
        """Close all connections that nobody uses; the others close when they are given back."""
        with self._write_lock:
            self._is_closed = True
            self._writer.close()
            self._close_readers()

    def _take_reader(self) -> sqlite3.Connection:
        with self._readers_lock:
            if self._is_closed:
                raise HubUnavailableError("the hub is stopping")
            inode = self._find_inode()
            if inode != self._readers_inode:
                self._readers_inode = inode
                while self._readers:
                    self._readers.pop().close()
            if self._readers:
                return self._readers.pop()
        return connect(self._file)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._readers_lock:
            if not self._is_closed and len(self._readers) < READERS_KEPT:
                self._readers.append(connection)
                return
        connection.close()

    def _close_readers(self) -> None:
        with self._readers_lock:
            while self._readers:
                self._readers.pop().close()

    def _follow_file(self) -> None:
        """Use the file that is there: another process of this hub may have made it anew."""
        if self._find_inode() != self._inode:
            self._close_readers()
            self._writer.close()
            self._writer = open_index(self._file)
            self._inode = self._find_inode()
            self.generation += 1

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            if self._is_closed:
                raise HubUnavailableError("the hub is stopping") from error
            raise
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in _DAMAGED or str(error).startswith("no such table"):
                self._note_damage()
                unavailable = HubUnavailableError("the hub's index was damaged and is being made anew; try again")
                unavailable.retry_after_s = 2
                raise unavailable from error
            if code not in _WHAT_TO_DO:
                raise
            raise HubUnavailableError(f"the hub cannot use its index: {_WHAT_TO_DO[code]} ({error})") from error

    def _find_inode(self) -> int:
        try:
            return os.stat(self._file).st_ino
        except FileNotFoundError as error:
            self._note_damage()
            raise HubUnavailableError(
                f"the hub cannot use its index: {_WHAT_TO_DO[sqlite3.SQLITE_CANTOPEN]}"
            ) from error

    def _note_damage(self) -> None:
        self.is_damaged = True
        self.on_damage()
