"""Datasets to measure on, and what looking at them costs without a hub.

```
folder/
  tree.json            what lies below served/; written last, so that half a dataset is not taken for one
  served/<dataset>/    what the hub serves: class_0000/img_000000.bin, ... of 100 bytes each
```
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from measuring import BenchmarkError, say

FILE_BYTES = 100
FILES_PER_FOLDER = 1000
HEAD_BYTES = 1024
SEED = 1

OWN = "dsx-bench-"
"""The names of files that a benchmark adds for a while begin so; those that a killed run left are removed."""

AT_REST_S = 3.0
"""A hub reads files anew that changed less than 2 s before it read them; a new tree rests so long, in s."""


class Tree(NamedTuple):
    """One dataset on the disk.

    Attributes:
        folder: The folder of all; others may be made in it, beside ``served``.
        dataset: Name of the dataset.
        files: How many files it has.
    """

    folder: Path
    dataset: str
    files: int

    @property
    def served(self) -> Path:
        """What a hub is to serve."""
        return self.folder / "served"

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.served / self.dataset


class Rows(NamedTuple):
    """What a manifest of the tree has to say, column by column, sorted by path."""

    paths: list[str]
    sizes: list[int]
    mtimes_ns: list[int]
    hashes: list[str]


def prepare_tree(folder: Path, files: int) -> Tree:
    """Return the dataset in ``folder``; it is made unless it is there.

    Raises:
        BenchmarkError: There is another one.
    """
    marker = folder / "tree.json"
    try:
        about = json.loads(marker.read_text(encoding="utf-8"))
    except FileNotFoundError:
        about = {"dataset": "bench", "files": files, "seed": SEED}
        tree = Tree(folder, about["dataset"], files)
        write_files(tree.root, files)
        marker.write_text(json.dumps(about) + "\n", encoding="utf-8")
        time.sleep(AT_REST_S)
    if about["files"] != files:
        raise BenchmarkError(f"{folder} has a dataset of {about['files']} files, not {files}: name another --folder")
    return Tree(folder, about["dataset"], files)


def write_files(root: Path, files: int) -> None:
    """Write ``files`` files of random bytes, the same ones every time, `FILES_PER_FOLDER` to a folder."""
    if root.exists():
        say(f"{root} is not complete; its files are written once more")
    say(f"writing {files} files into {root}")
    make_bytes = random.Random(SEED).randbytes
    for start in range(0, files, FILES_PER_FOLDER):
        folder = root / f"class_{start // FILES_PER_FOLDER:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(min(FILES_PER_FOLDER, files - start)):
            with open(folder / f"img_{number:06d}.bin", "wb", buffering=0) as file:
                file.write(make_bytes(FILE_BYTES))


def read_rows(tree: Tree) -> Rows:
    """Read the whole tree into the page cache, and return what its manifest has to say.

    Files that an earlier run left behind are removed.

    Raises:
        BenchmarkError: There are more files or fewer than there should be.
    """
    found = []
    for folder, _, names in os.walk(tree.root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 -- a million of them
            if name.startswith(OWN):
                os.unlink(path)  # noqa: PTH108 -- the same
                continue
            status = os.stat(path)
            found.append((os.path.relpath(path, tree.root), status.st_size, status.st_mtime_ns, _hash_head(path)))
    if len(found) != tree.files:
        raise BenchmarkError(f"{tree.root} has {len(found)} files, not {tree.files}: remove {tree.folder}")
    found.sort()
    return Rows(*map(list, zip(*found, strict=True)))


def walk_with_stat(root: str) -> int:
    """Walk a tree with ``os.scandir``, ask for the status of every file, and return how many there are."""
    count = 0
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    entry.stat(follow_symlinks=False)
                    count += 1
    return count


def walk_with_hashes(root: str) -> int:
    """Walk a tree with ``os.scandir``, hash the first 1024 bytes of every file, and return how many there are."""
    count = 0
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    _hash_head(entry.path)
                    count += 1
    return count


def time_walk(walk: Callable[[str], int], tree: Tree, *, times: int = 3) -> float:
    """Return how long a walk over the tree takes, in s: the median."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        count = walk(str(tree.root))
        took.append(time.perf_counter() - began)
        if count != tree.files:
            raise BenchmarkError(f"a walk of {tree.root} found {count} files, not {tree.files}")
    return median(took)


def _hash_head(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return hashlib.md5(os.read(descriptor, HEAD_BYTES), usedforsecurity=False).hexdigest()
    finally:
        os.close(descriptor)
