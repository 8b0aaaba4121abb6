"""A copy of a dataset held against its manifest: every file is read as a whole, and nothing is changed.

The copy may be a cache, a folder that ``download_dataset`` fills, or one that came by rsync or on a disk: no ledger is
asked, since it would believe a file whose bytes have changed behind its time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dsx._crew import Crew
from dsx._disk import HASH_BLOCK_BYTES, HASHING_THREADS
from dsx._progress import Progress
from dsx.manifest import Manifest, ManifestEntry
from dsx.protocol.digests import HEAD_BYTES, head_hash

QUEUED = 10_000
INTERRUPTED_WAIT_S = 2.0
"""How long, in s, Ctrl-C waits for the threads; none of them writes anything."""


@dataclass
class Findings:
    """What was found of a copy.

    Attributes:
        right: How many entries are there and right.
        right_bytes: Sum of their sizes.
        head_only: How many of them were compared by size and head hash only, which do not cover all of their bytes.
        missing: Paths of entries that are not there.
        differs: Paths of entries of which something else is there.
        unreadable: Paths, of entries or of folders, that could not be read, each with the reason.
    """

    right: int = 0
    right_bytes: int = 0
    head_only: int = 0
    missing: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every entry is there and right."""
        return not (self.missing or self.differs or self.unreadable)


class Verification:
    """Reads a copy.

    Args:
        prefix: What a path of an entry has to be put behind.
        entries: The entries that it has to have.
    """

    def __init__(self, prefix: str, entries: Sequence[ManifestEntry]) -> None:
        self._prefix = prefix
        self._entries = entries
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._findings = Findings()

    def run(self, label: str, total_bytes: int) -> Findings:
        """Read all of it, in several threads; hashing lets others run.

        Args:
            label: What a progress bar calls it.
            total_bytes: Sum of the sizes of the entries.
        """
        crew = Crew(HASHING_THREADS, self._check, self._stop)
        with Progress(label, total_bytes) as self._progress:
            try:
                for entry in self._entries:
                    crew.put(entry)
                    crew.wait_below(QUEUED)
                    if self._stop.is_set():
                        break
                crew.finish()
            except BaseException:
                self._stop.set()
                crew.abandon(time.monotonic() + INTERRUPTED_WAIT_S)
                raise
        self._findings.missing.sort()
        self._findings.differs.sort()
        return self._findings

    def _check(self, entry: ManifestEntry) -> None:
        try:
            is_right = self._is_right(entry)
        except (FileNotFoundError, NotADirectoryError):
            with self._lock:
                self._findings.missing.append(entry.path)
        except OSError as error:
            with self._lock:
                self._findings.unreadable[entry.path] = error.strerror or str(error)
        else:
            with self._lock:
                self._note(entry, is_right=is_right)

    def _note(self, entry: ManifestEntry, *, is_right: bool) -> None:
        findings = self._findings
        if not is_right:
            findings.differs.append(entry.path)
            return
        findings.right += 1
        findings.right_bytes += entry.size
        findings.head_only += entry.digest is None and entry.size > HEAD_BYTES

    def _is_right(self, entry: ManifestEntry) -> bool:
        """Tell whether the file is, as a whole, what the manifest names.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        name = self._prefix + entry.path
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        state, size, head = hashlib.sha256(), 0, b""
        with open(name, "rb", buffering=0) as opened:
            while (block := opened.read(HASH_BLOCK_BYTES)) and not self._stop.is_set():
                state.update(block)
                size += len(block)
                head = (head + block[:HEAD_BYTES])[:HEAD_BYTES]
                with self._lock:
                    self._progress.add(len(block))
        is_same = (size, head_hash(head)) == (entry.size, entry.hash)
        return is_same and entry.digest in (None, state.hexdigest())


def list_extra(prefix: str, manifest: Manifest, private: str, unreadable: dict[str, str]) -> Iterator[str]:
    """Name the files in a folder that the manifest does not have.

    A link to a folder is one, unless entries lie behind it.

    Args:
        prefix: What a path of an entry has to be put behind.
        manifest: All entries.
        private: Name of the folder, at the top, that is passed over: the SDK's own.
        unreadable: Takes the folders that cannot be listed, with the reason.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(prefix + folder) as found:
                items = sorted(found, key=lambda item: item.name)
        except OSError as error:
            unreadable[folder or "."] = error.strerror or str(error)
            continue
        for item in items:
            path = folder + item.name
            if path == private:
                continue
            if item.is_dir(follow_symlinks=False):
                folders.append(path + "/")
            elif not _has(manifest, path):
                yield path


def _has(manifest: Manifest, path: str) -> bool:
    """Tell whether there is an entry of this path, or below it."""
    try:
        if manifest.find_row(path) is not None:
            return True
        paths = manifest.paths
        row = bisect_left(paths, path + "/")
        return row < len(paths) and paths[row].startswith(path + "/")
    except UnicodeEncodeError:  # no name that a manifest can have
        return False
