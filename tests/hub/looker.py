"""An index whose scans a test makes itself, and a check of everything in it against the disk."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dsx_server.index import Index, Keeper, RevisionInfo
from dsx_server.index.scan import Scanner
from dsx_server.storage import Head, Listing, LocalStorage


class CountingStorage(LocalStorage):
    """Real files; counts what is opened and walked."""

    def __init__(self, served: Path) -> None:
        super().__init__(served)
        self.opened: Counter[str] = Counter()
        self.walks = 0
        self.on_walk: Callable[[], None] = lambda: None
        self.on_listing: Callable[[Listing], None] = lambda _: None

    def walk(self, dataset: str, folder: str = "") -> Iterator[Listing]:
        self.walks += 1
        self.on_walk()
        for listing in super().walk(dataset, folder):
            self.on_listing(listing)
            yield listing._replace(read_heads=partial(self._read_heads, listing))

    def _read_heads(self, listing: Listing, names: Sequence[str]) -> Iterator[Head | str]:
        self.opened.update(listing.folder + name for name in names)
        return listing.read_heads(names)


class Looker:
    """An index and a keeper that scans only when it is asked to."""

    def __init__(self, state: Path, storage: LocalStorage) -> None:
        state.mkdir(exist_ok=True)
        self.state = state
        self.storage = storage
        self.index = Index(state, storage)
        self.keeper = Keeper(
            self.index.db,
            storage,
            list_datasets=self.index.list_datasets,
            rescan_s=30,
            on_news=lambda _: None,
            on_rebuilt=self.index.snapshots.clear,
        )

    def refresh(self, dataset: str) -> RevisionInfo:
        """Scan, and return the newest revision."""
        self.index.check(dataset)
        self.keeper.refresh(dataset)
        newest = self.index.find_newest(dataset)
        assert newest is not None
        return newest

    def scan_folders(self, dataset: str, folders: Sequence[str]) -> bool:
        """Look at some folders only, and tell whether that was enough."""
        return Scanner(self.index.db, self.storage, dataset).scan_folders(folders) is not None

    def load(self, dataset: str) -> dict[str, Any]:
        """Scan, and return the newest manifest as columns."""
        self.refresh(dataset)
        with self.index.open_manifest(dataset, None, "columns").file as file:
            columns: dict[str, Any] = json.loads(gzip.decompress(file.read()))
        return columns

    def close(self) -> None:
        """Let go of the state folder."""
        self.keeper.close()
        self.index.close()


def md5(data: bytes) -> str:
    return hashlib.md5(data[:1024]).hexdigest()


def read_tree(folder: Path) -> dict[str, tuple[int, str, int]]:
    """Return size, head hash and mtime of every file, from the disk."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            data, status = path.read_bytes(), path.stat()
            found[path.relative_to(folder).as_posix()] = (len(data), md5(data), status.st_mtime_ns)
    return found


def compute_revision(rows: dict[str, tuple[int, str, int]]) -> str:
    """Compute a revision as ``docs/http-api.md`` says."""
    total = 0
    for path, (size, head, mtime_ns) in rows.items():
        total += int(hashlib.sha256(f"{path}\0{size}\0{head}\0{mtime_ns}".encode()).hexdigest(), 16)
    return hashlib.sha256(f"{len(rows)}\0{total % 2**256:064x}".encode()).hexdigest()[:32]


def check_index(state: Path, served: Path, dataset: str) -> None:
    """Hold every row and every sum of the index against the disk."""
    disk = read_tree(served / dataset)
    db = sqlite3.connect(state / "index.sqlite")
    try:
        key, entries, total, row_sum, known = db.execute(
            "SELECT id, entries, bytes, row_sum, digests FROM datasets WHERE name = ?", (dataset,)
        ).fetchone()
        rows = {
            path: (size, head.hex(), mtime_ns)
            for path, size, head, mtime_ns in db.execute(
                "SELECT path, size, head_hash, mtime_ns FROM entries WHERE dataset = ? AND died IS NULL", (key,)
            )
        }
        assert rows == disk
        assert (entries, total) == (len(disk), sum(size for size, _, _ in disk.values()))
        living = "FROM entries WHERE dataset = ? AND died IS NULL"
        assert db.execute(f"SELECT count(*), count(digest) {living}", (key,)).fetchone() == (len(disk), known)
        text = f"{entries}\0{int.from_bytes(row_sum, 'big'):064x}"
        assert hashlib.sha256(text.encode()).hexdigest()[:32] == compute_revision(disk)
        folders = {path for (path,) in db.execute("SELECT path FROM folders WHERE dataset = ?", (key,))}
        real = {Path(parent).relative_to(served / dataset).as_posix() for parent, _, _ in os.walk(served / dataset)}
        assert folders == {"" if each == "." else f"{each}/" for each in real}
    finally:
        db.close()
