"""What the tests of the command share: a hub with two datasets, and the command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import KEY, HubProcess, write_files

CATS = {"3.png": b"3" * 1000, "train/1.png": b"1" * 4000, "train/2.png": b"2" * 3000, "training": b"x"}
DOGS = {"big": bytes(range(256)) * 65536, "x": b"4" * 500}

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub with two datasets, for all tests of a module."""
    folder = tmp_path_factory.mktemp("cli")
    write_files(folder / "served" / "cats", CATS)
    write_files(folder / "served" / "dogs", DOGS)
    hub = HubProcess(folder / "served", folder / "state")
    yield hub
    hub.kill()


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """Where `run` keeps its logins; nothing is there yet."""
    return tmp_path / "config"


@pytest.fixture
def run(tmp_path: Path, config_dir: Path) -> Run:
    """Run ``dsx`` in a process of its own, in an empty folder, that knows no hub."""

    def run_dsx(*arguments: str, told: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        return subprocess.run(
            [sys.executable, "-c", "from dsx.cli import main; main()", *arguments],
            input=told,
            capture_output=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**inherited, "DSX_CONFIG_DIR": str(config_dir), **env},
        )

    return run_dsx


@pytest.fixture
def logged_in(run: Run, hub: HubProcess) -> Run:
    """Run ``dsx`` as somebody who is logged in to the hub."""
    done = run("login", hub.url, told=KEY.encode() + b"\n")
    assert done.returncode == 0, done.stderr
    return run
