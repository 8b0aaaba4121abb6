"""Downloads under way: temporary files that the next process can go on with.

Layout of ``<cache>/.dsx/tmp/``; KEY names the entry, TAG its version on the hub::

    KEY-TAG.OWNER.work   being written by OWNER, which is host-pid-random
    KEY-TAG.part         at rest: its owner was interrupted
    KEY-TAG.json         checkpoint of either: how many bytes were there, and their SHA-256
    KEY-TAG.OWNER.check  a checkpoint that is just being written

A partial belongs to whoever renames it to a name of his own; of two who try, one succeeds. So no lock is needed. What
a checkpoint does not vouch for is cut off before the download goes on, and whatever is wrong with the rest is found
there. What nobody has claimed for a week is swept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsx.protocol.digests import HEAD_BYTES, is_strong_tag

CHECKPOINT_BYTES = 4 * 1024**2
RESUMABLE_BYTES = 1024**2
"""A partial shorter than this, in bytes, is thrown away: fetching it again costs no more than a request."""

_AT_REST = ("part", "json")
SWEEP_AFTER_S = 7 * 24 * 3600

_NAME = re.compile(
    r"(?P<key>[0-9a-f]{16}-[0-9a-f]{24})-(?P<tag>[0-9a-f]{16}|new)(?:\.(?P<owner>[^.]+))?\.(?P<kind>work|check|part|json)"
)

# Owners of this process. A namesake of a process id (before a restart, in another container) is not among them.
_owners: set[str] = set()


def _name_host() -> str:
    """Name the place in which a process id means something; containers may have ids of their own, but one host name."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        space = ""
    return hashlib.sha256(f"{platform.node()}{space}".encode()).hexdigest()[:8]


_HOST = _name_host()


class Partial:
    """A file being downloaded, open for writing, owned by one thread.

    Attributes:
        etag: The hub's entity tag of the version being downloaded; empty before the first answer.
        size: Its size in bytes; meaningless before the first answer.
        offset: How many bytes are there.
        head: The first `HEAD_BYTES` of them.
        path: Where the file lies.
    """

    def __init__(self, folder: Path, key: str, label: str) -> None:
        self._folder = folder
        self._key = key
        self._label = label
        self._owner = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        _owners.add(self._owner)
        self.etag = ""
        self.size = 0
        self.path = self._work_name()
        self._file = open(self.path, "w+b")  # noqa: SIM115 -- closed by finish() or release()
        self._clear()

    def _clear(self) -> None:
        self.offset = 0
        self.head = b""
        self._checked = 0
        self._hash = hashlib.sha256()
        self._is_torn = False  # whether a write was interrupted, by Ctrl-C or a full disk

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the bytes that are there."""
        return self._hash.hexdigest()

    def begin(self, etag: str, size: int) -> None:
        """Start from nothing with the version ``etag`` of ``size`` bytes; what was there is thrown away."""
        self._checkpoint_name().unlink(missing_ok=True)
        self._file.seek(0)
        self._file.truncate()
        self._clear()
        self.etag, self.size = etag, size
        self._rename(self._work_name())

    def write(self, block: bytes) -> None:
        """Append ``block``."""
        self._is_torn = True
        self._file.write(block)
        self._hash.update(block)
        if self.offset < HEAD_BYTES:
            self.head = (self.head + block[:HEAD_BYTES])[:HEAD_BYTES]
        self.offset += len(block)
        self._is_torn = False
        if self.offset - self._checked >= CHECKPOINT_BYTES and self.offset < self.size:
            self._write_checkpoint()

    def adopt(self, resting: Path) -> bool:
        """Go on with a partial at rest, if it is still there and what its checkpoint says is true."""
        match = _NAME.fullmatch(resting.name)
        if match is None:
            return False
        mine = self._folder / f"{self._key}-{match['tag']}.{self._owner}.work"
        checkpoint = self._folder / f"{self._key}-{match['tag']}.json"
        try:
            resting.rename(mine)
            taken = open(mine, "r+b")  # noqa: SIM115 -- closed by finish() or release()
        except FileNotFoundError:
            return False  # somebody else was quicker
        self._file.close()
        self.path.unlink(missing_ok=True)
        self.path, self._file = mine, taken
        if self._load_checkpoint(checkpoint):
            return True
        checkpoint.unlink(missing_ok=True)
        self.begin("", 0)
        return False

    def finish(self) -> Path:
        """Close the file, complete; return where it lies."""
        self._checkpoint_name().unlink(missing_ok=True)
        self._file.close()
        return self.path

    def release(self) -> bool:
        """Let go: put the file to rest for the next process if it is worth it, else throw it away.

        Returns:
            Whether something was put to rest.
        """
        try:
            if self._file.closed or not self.etag or self.offset < RESUMABLE_BYTES:
                self._throw_away()
                return False
            try:
                if not self._is_torn:  # else the last checkpoint is what is known to be right
                    self._write_checkpoint()
                self._file.close()
            except OSError:  # the disk is full
                self._throw_away()
                return False
            self.path.replace(self._folder / f"{self._key}-{_tag(self.etag)}.part")
            return True
        finally:
            _owners.discard(self._owner)

    def _throw_away(self) -> None:
        if not self._file.closed:
            self._checkpoint_name().unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what was buffered finds no room: it is not wanted any more
                self._file.close()
        self.path.unlink(missing_ok=True)

    def _write_checkpoint(self) -> None:
        self._file.flush()
        state = {
            "etag": self.etag,
            "size": self.size,
            "offset": self.offset,
            "sha256": self.digest,
            "entry": self._label,
        }
        temporary = self._checkpoint_name().with_suffix(f".{self._owner}.check")
        temporary.write_text(json.dumps(state), encoding="utf-8")
        temporary.replace(self._checkpoint_name())
        self._checked = self.offset

    def _load_checkpoint(self, file: Path) -> bool:
        """Take over what the checkpoint vouches for; the bytes are hashed again, not believed."""
        state = _read_checkpoint(file)
        if state is None:
            return False
        self._clear()
        left: int = state["offset"]
        while left and (block := self._file.read(min(left, 1024**2))):
            self._hash.update(block)
            self.head = self.head if len(self.head) >= HEAD_BYTES else (self.head + block)[:HEAD_BYTES]
            left -= len(block)
        if left or self.digest != state["sha256"]:
            return False
        self.etag, self.size, self.offset = state["etag"], state["size"], state["offset"]
        self._checked = self.offset
        self._file.seek(self.offset)
        self._file.truncate()
        return True

    def _rename(self, to: Path) -> None:
        if to != self.path:
            self.path.replace(to)
            self.path = to

    def _work_name(self) -> Path:
        return self._folder / f"{self._key}-{_tag(self.etag)}.{self._owner}.work"

    def _checkpoint_name(self) -> Path:
        return self._folder / f"{self._key}-{_tag(self.etag)}.json"


class Workshop:
    """The folder of downloads under way, as one process sees it. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._resting = self._sweep()

    def claim(self, dataset: str, path: str) -> Partial:
        """Return a file to download an entry into: one at rest from earlier, or a new one."""
        key = _key(dataset, path)
        partial = Partial(self._folder, key, f"{dataset}/{path}")
        if key in self._resting:
            self._resting.discard(key)
            found = sorted(self._folder.glob(f"{key}-*.part"), key=_age_if_there_s)
            for number, resting in enumerate(found):
                if partial.adopt(resting):
                    for older in found[number + 1 :]:
                        older.unlink(missing_ok=True)
                    break
        return partial

    def release(self, partial: Partial, dataset: str, path: str) -> None:
        """Let go of a partial, finished or not."""
        if partial.release():
            self._resting.add(_key(dataset, path))

    @contextmanager
    def scratch(self, label: str) -> Iterator[Path]:
        """Give the name of a temporary file on the cache's own file system; what is left of it is removed."""
        owner = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        temporary = self._folder / f"{_key('', label)}-new.{owner}.check"
        _owners.add(owner)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
            _owners.discard(owner)

    @contextmanager
    def scratch_many(self, count: int) -> Iterator[list[str]]:
        """Give the names of ``count`` temporary files; those still in the list at the end are removed."""
        owner = f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        stem = f"{self._folder}{os.sep}{_dataset_key('')}"
        names = [f"{stem}-{number:024x}-new.{owner}.work" for number in range(count)]
        _owners.add(owner)
        try:
            yield names
        finally:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    Path(name).unlink()
            _owners.discard(owner)

    def list_datasets(self) -> Iterator[str]:
        """Name the datasets of which downloads are kept."""
        for file, match in self._files():
            state = _read_checkpoint(file) if match["kind"] == "json" else None
            if state is not None:
                yield str(state["entry"]).partition("/")[0]

    def list_resting(self, dataset: str) -> list[Path]:
        """Return the files that are kept for interrupted downloads of ``dataset``."""
        prefix = f"{_dataset_key(dataset)}-"
        return [file for file, match in self._files() if match["kind"] in _AT_REST and file.name.startswith(prefix)]

    def _files(self) -> Iterator[tuple[Path, re.Match[str]]]:
        for name in os.listdir(self._folder):
            match = _NAME.fullmatch(name)
            if match is not None:
                yield self._folder / name, match

    def _sweep(self) -> set[str]:
        """Put to rest what dead processes were writing, throw away what is old; return the keys of what rests."""
        files = list(self._files())
        with_bytes = {_stem(match) for _, match in files if match["kind"] in ("work", "part")}
        resting = set()
        for file, match in files:
            try:
                rests = self._sweep_one(file, match, is_lonely=_stem(match) not in with_bytes)
            except FileNotFoundError:
                continue  # another process sweeps too
            if rests:
                resting.add(match["key"])
        return resting

    def _sweep_one(self, file: Path, match: re.Match[str], *, is_lonely: bool) -> bool:
        """Tell whether ``file`` is, or has become, a partial at rest."""
        if match["kind"] in _AT_REST:
            if is_lonely or _age_s(file) > SWEEP_AFTER_S:
                file.unlink()
                return False
            return match["kind"] == "part"
        if not _is_orphan(match["owner"], file):
            return False
        part, checkpoint = (self._folder / f"{_stem(match)}.{kind}" for kind in _AT_REST)
        if match["kind"] == "work" and _read_checkpoint(checkpoint) is not None and not part.exists():
            file.replace(part)
            return True
        file.unlink()
        return False


def measure_begun(folder: Path, dataset: str) -> int:
    """Return how many bytes of downloads of ``dataset`` lie in the folder of a `Workshop`; it need not be there."""
    prefix, total = f"{_dataset_key(dataset)}-", 0
    for name in os.listdir(folder) if folder.is_dir() else ():
        match = _NAME.fullmatch(name)
        if name.startswith(prefix) and match is not None and match["kind"] in ("work", "part"):
            with contextlib.suppress(FileNotFoundError):  # another process goes on with it
                total += (folder / name).stat().st_size
    return total


def _stem(match: re.Match[str]) -> str:
    return f"{match['key']}-{match['tag']}"


def _read_checkpoint(file: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        numbers = type(state["offset"]) is int and type(state["size"]) is int
        sound = numbers and 0 <= state["offset"] <= state["size"] and file.stem.endswith(_tag(state["etag"]))
        sound = (
            sound
            and is_strong_tag(state["etag"])
            and isinstance(state["sha256"], str)
            and isinstance(state["entry"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return state if sound else None


def _is_orphan(owner: str | None, file: Path) -> bool:
    """Tell whether the process that wrote ``file`` is gone; of another host's process only time tells."""
    host, _, pid = (owner or "").rpartition("-")[0].partition("-")
    if host == _HOST and pid.isdigit() and os.name == "posix":
        return owner not in _owners if int(pid) == os.getpid() else not _is_alive(int(pid))
    return _age_s(file) > SWEEP_AFTER_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _age_s(file: Path) -> float:
    return time.time() - file.stat().st_mtime


def _age_if_there_s(file: Path) -> float:
    try:
        return _age_s(file)
    except FileNotFoundError:
        return SWEEP_AFTER_S


def _dataset_key(dataset: str) -> str:
    return hashlib.sha256(dataset.encode()).hexdigest()[:16]


def _key(dataset: str, path: str) -> str:
    return f"{_dataset_key(dataset)}-{hashlib.sha256(path.encode()).hexdigest()[:24]}"


def _tag(etag: str) -> str:
    return hashlib.sha256(etag.encode()).hexdigest()[:16] if etag else "new"
