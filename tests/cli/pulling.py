"""What the tests of ``dsx pull``, ``dsx diff`` and ``dsx verify`` share: datasets of a hub, and somebody at a shell."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import HubProcess, write_files

LIMIT_S = 60
MAIN = "from dsx.cli import main; main()"

_numbers = itertools.count()

Result = subprocess.CompletedProcess[str]


class Shell:
    """Somebody in an empty folder, who has the hub's address and key in the environment.

    Attributes:
        cwd: That folder.
    """

    def __init__(self, folder: Path, hub: HubProcess) -> None:
        self.cwd = folder / "work"
        self.cwd.mkdir()
        home = str(folder)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        self.env |= {"HOME": home, "USERPROFILE": home, "XDG_CONFIG_HOME": home, "PYTHONUTF8": "1"}
        self.env |= {"DSX_URL": hub.url, "DSX_API_KEY": hub.key}

    def run(
        self, *words: str, prelude: str = "", stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
    ) -> Result:
        """Run ``dsx <words>`` to its end; ``prelude`` is Python that runs first."""
        code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{prelude}\n{MAIN}"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=self.cwd,
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=LIMIT_S,
            start_new_session=True,
        )

    def ask(self, *words: str) -> dict[str, Any]:
        """Run ``dsx <words> --json``, which has to succeed, and return what it printed."""
        result = self.run(*words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)  # type: ignore[no-any-return]


class Dataset:
    """A dataset of a test's own.

    Attributes:
        name: Its name.
        folder: Its folder on the hub's side.
    """

    def __init__(self, hub: HubProcess, files: Mapping[str, bytes]) -> None:
        self._hub = hub
        self.name = f"cats{next(_numbers)}"
        self.folder = hub.served / self.name
        self.folder.mkdir()
        self.write(files)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write or replace entries."""
        write_files(self.folder, dict(files))

    def wait_for_digests(self) -> None:
        """Wait until the hub knows the SHA-256 of every entry."""
        deadline = time.monotonic() + LIMIT_S
        self._hub.get(f"/manifest/{self.name}")
        while self._hub.get(f"/datasets/{self.name}").json()["digest_share"] < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for_revision(self, *, other_than: str = "") -> str:
        """Wait until the hub has a revision, or another one, and return it."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            self._hub.get(f"/manifest/{self.name}")
            revision = self._hub.get(f"/datasets/{self.name}").json()["revision"]
            if revision not in (None, other_than):
                return str(revision)
            assert time.monotonic() < deadline
            time.sleep(0.05)


def read_files(folder: Path) -> dict[str, bytes]:
    """Read what lies in a folder, but for what is the SDK's own."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(".dsx/")}


def take_snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Note everything in a folder: what there is, when files were changed, and their bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_file = path.is_file()  # the time of a folder changes when SQLite makes and removes a file of its own
        found[path.relative_to(folder).as_posix()] = (
            (path.stat().st_mtime_ns, path.read_bytes()) if is_file else (0, b"")
        )
    return found


def flip_byte(file: Path, at: int) -> None:
    """Change one byte of a file, and give it the time it had."""
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
