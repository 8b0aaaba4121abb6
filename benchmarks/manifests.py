"""Whether a manifest is whole: held against the disk, column by column."""

from __future__ import annotations

import gzip
import json
import threading
import time
from itertools import islice
from operator import lt
from pathlib import Path
from types import TracebackType
from typing import Any

from dsx.protocol.digests import compute_revision
from hubs import Answer
from measuring import BenchmarkError
from trees import FILE_BYTES, OWN, Rows, Tree

CHURN_FILES = 20
CHURN_PAUSE_S = 0.005


def unpack(answer: Answer) -> dict[str, Any]:
    """Return the document in an answer with columns.

    Raises:
        BenchmarkError: It is no such document.
    """
    if answer.status != 200:
        raise BenchmarkError(f"GET /manifest: status {answer.status}: {answer.body[:300].decode(errors='replace')}")
    try:
        packed = answer.headers.get("content-encoding") == "gzip"
        document = json.loads(gzip.decompress(answer.body) if packed else answer.body)
    except (ValueError, EOFError, OSError) as error:
        raise BenchmarkError(f"GET /manifest: the body cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise BenchmarkError("GET /manifest: no columns came")
    return document


def find_fault(document: dict[str, Any], expected: Rows) -> str:
    """Return what is wrong with a manifest, or nothing: files of a benchmark's own may be in it, or not.

    Args:
        document: What the hub sent.
        expected: The rows that never change.
    """
    paths, sizes, mtimes_ns, hashes = (document[name] for name in ("paths", "sizes", "mtimes_ns", "hashes"))
    lengths = {name: len(column) for name, column in document.items() if isinstance(column, list)}
    if set(lengths.values()) != {len(paths)}:
        return f"the columns differ in length: {lengths}"
    if not all(map(lt, paths, islice(paths, 1, None))):
        return "the paths are not sorted, or one comes twice"
    if compute_revision(zip(paths, sizes, hashes, mtimes_ns, strict=True)) != document["revision"]:
        return "the rows do not add up to the revision"
    stays = [row for row, path in enumerate(paths) if OWN not in path]
    for name, column in zip(expected._fields, (paths, sizes, mtimes_ns, hashes), strict=True):
        if [column[row] for row in stays] != getattr(expected, name):
            return f"the {name} of files that did not change are not those on the disk"
    return ""


class Churn:
    """Adds and removes files of a tree without a pause, in a thread, to the end of its context.

    Attributes:
        changes: How many files were added or removed.
    """

    def __init__(self, tree: Tree) -> None:
        self.changes = 0
        folders = sorted(tree.root.iterdir())
        self._files = [folders[n * len(folders) // CHURN_FILES] / f"{OWN}{n:02d}.bin" for n in range(CHURN_FILES)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        for file in self._files:
            file.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            for file in self._files:
                self._toggle(file)
                time.sleep(CHURN_PAUSE_S)

    def _toggle(self, file: Path) -> None:
        try:
            file.unlink()
        except FileNotFoundError:
            file.write_bytes(b"%d" % self.changes * (FILE_BYTES // 10))
        self.changes += 1
