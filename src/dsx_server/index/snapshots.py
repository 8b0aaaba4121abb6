"""Manifests as they go over the wire, ready on the disk: made once, sent to everybody.

A snapshot is one file, gzip, in ``snapshots/`` of the state folder. It is a cache, and may be deleted at any time.
SQLite writes the JSON itself, some thousand rows at a time: no row becomes a Python object, and other threads run
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypeAlias

from dsx.errors import HubUnavailableError
from dsx_server.index.compress import GzipWriter
from dsx_server.index.database import Database
from dsx_server.index.history import find_revision
from dsx_server.index.revisions import format_tag
from dsx_server.index.rows import ALIVE_AT

Format: TypeAlias = Literal["rows", "columns"]

FOLDER_NAME = "snapshots"
ROWS_AT_ONCE = 20_000
KEPT = 6
"""How many snapshots of a dataset are kept, the least recently used going first."""

_ABANDONED_S = 3600

_COLUMNS = {
    "paths": "json_group_array(path)",
    "sizes": "json_group_array(size)",
    "mtimes_ns": "json_group_array(mtime_ns)",
    "hashes": "json_group_array(lower(hex(head_hash)))",
    "digests": "json_group_array(CASE WHEN digest IS NOT NULL THEN lower(hex(digest)) END)",
}
_HEX = {"hashes", "digests"}
_ROW = "json_group_array(json_object('path', path, 'size', size, 'hash', lower(hex(head_hash))))"
_PAGE = (
    f"SELECT * FROM entries WHERE dataset = :key AND path > :after AND {ALIVE_AT} ORDER BY path LIMIT {ROWS_AT_ONCE}"
)


class Piece(NamedTuple):
    """A piece of JSON, and whether it is hashes for the most part."""

    data: bytes
    is_hex: bool


class Snapshot(NamedTuple):
    """A manifest, open for reading.

    Attributes:
        tag: What tells it from other manifests of the dataset.
        file: Its JSON, compressed; whoever has the snapshot closes it.
        gzip_bytes: Size of the file.
        json_bytes: Size of what is in it.
    """

    tag: str
    file: BinaryIO
    gzip_bytes: int
    json_bytes: int


class Snapshots:
    """The snapshots of one state folder. Threads and processes may share it.

    Args:
        db: The index.
        state_dir: The state folder.
    """

    def __init__(self, db: Database, state_dir: Path) -> None:
        self._db = db
        self._folder = state_dir / FOLDER_NAME
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def open(self, dataset: str, revision: str | None, form: Format) -> Snapshot:
        """Open the manifest of one revision, or of the newest, making it when there is none ready.

        Raises:
            RevisionNotFoundError: There is no such revision.
            HubUnavailableError: It cannot be made, the disk being full for example.
        """
        with self._locks[dataset], self._db.read() as db:
            key, number, revision = find_revision(db, dataset, revision)
            version = db.execute("SELECT digest_version FROM datasets WHERE id = ?", (key,)).fetchone()[0]
            tag = format_tag(revision, version)
            found = self._find(key, tag, form)
            if found is None:
                with self._reporting():
                    self._make(f"{key}-{tag}", form, write_json(db, form, key=key, number=number, revision=revision))
                    self._prune(key)
                found = self._find(key, tag, form)
        if found is None:
            raise HubUnavailableError("a manifest that had just been made was removed from the hub's state folder")
        return found

    def clear(self) -> None:
        """Remove all of them."""
        for file in self._folder.glob("*"):
            with contextlib.suppress(OSError):
                file.unlink()

    def _find(self, key: int, tag: str, form: Format) -> Snapshot | None:
        stem = f"{key}-{tag}"
        for path in self._folder.glob(f"{stem}-*.{form}.json.gz"):
            with contextlib.suppress(FileNotFoundError):
                file = path.open("rb")
                os.utime(path)
                json_bytes = int(path.name.removeprefix(f"{stem}-").partition(".")[0])
                return Snapshot(tag, file, os.fstat(file.fileno()).st_size, json_bytes)
        return None

    def _make(self, stem: str, form: Format, pieces: Iterator[Piece]) -> None:
        self._folder.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".tmp", dir=self._folder)
        temporary = Path(name)
        try:
            with open(descriptor, "wb") as file:
                json_bytes = _compress(pieces, file)
            temporary.replace(self._folder / f"{stem}-{json_bytes}.{form}.json.gz")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _prune(self, key: int) -> None:
        kept = sorted((-_find_time(file), file) for file in self._folder.glob(f"{key}-*.json.gz"))
        abandoned = [f for f in self._folder.glob("*.tmp") if time.time() - _find_time(f) > _ABANDONED_S]
        for file in [file for _, file in kept[KEPT:]] + abandoned:
            with contextlib.suppress(OSError):  # on Windows, one that is being read
                file.unlink()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HubUnavailableError(
                f"the hub cannot write a manifest into its state folder: {error.strerror}; is its disk full?"
            ) from error


def _compress(pieces: Iterator[Piece], file: BinaryIO) -> int:
    """Compress the pieces into a file, each while SQLite makes the next, and return how long they are together."""
    writer = GzipWriter(file)
    with ThreadPoolExecutor(1, thread_name_prefix="dsx-gzip") as thread:
        under_way: Future[None] | None = None
        for data, is_hex in pieces:
            if under_way is not None:
                under_way.result()
            under_way = thread.submit(writer.write, data, is_hex=is_hex)
        if under_way is not None:
            under_way.result()
    writer.finish()
    return writer.size


def _find_time(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # somebody else has just moved or removed it
        return time.time()


def write_json(db: sqlite3.Connection, form: Format, *, key: int, number: int, revision: str) -> Iterator[Piece]:
    """Yield the JSON of a manifest in pieces: the contract's array of rows, or one object of columns."""
    ends = _find_pages(db, key, number)
    if form == "rows":
        for array in _write_array(db, _ROW, ends, key=key, number=number):
            yield Piece(array, is_hex=False)
        return
    yield Piece(b'{"revision":"%s"' % revision.encode(), is_hex=False)
    for name, expression in _COLUMNS.items():
        yield Piece(b',"%s":' % name.encode(), is_hex=name in _HEX)
        for array in _write_array(db, expression, ends, key=key, number=number):
            yield Piece(array, is_hex=name in _HEX)
    yield Piece(b"}", is_hex=False)


def _find_pages(db: sqlite3.Connection, key: int, number: int) -> list[str]:
    """Return the last path of every page of the revision's rows."""
    ends: list[str] = []
    after: str | None = ""
    while after is not None:
        values = {"key": key, "number": number, "after": after}
        after = db.execute(f"SELECT max(path) FROM ({_PAGE})", values).fetchone()[0]
        if after is not None:
            ends.append(after)
    return ends


def _write_array(db: sqlite3.Connection, expression: str, ends: list[str], *, key: int, number: int) -> Iterator[bytes]:
    query = (
        f"SELECT CAST({expression} AS BLOB) FROM (SELECT * FROM entries WHERE dataset = :key AND path > :after"
        f" AND path <= :end AND {ALIVE_AT} ORDER BY path)"
    )
    before = b"["
    after = ""
    for end in ends:
        array = db.execute(query, {"key": key, "number": number, "after": after, "end": end}).fetchone()[0]
        yield before + array[1:-1]
        before, after = b",", end
    yield b"]" if ends else b"[]"
