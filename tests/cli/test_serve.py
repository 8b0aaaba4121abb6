"""``dsx serve``: a hub without variables, and what it tells the person who started it."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsx import AccessDeniedError, DatasetHubClient
from tests.conftest import write_files

LIMIT_S = 60
MAIN = [sys.executable, "-c", "from dsx.cli import main; main()", "serve"]

Start = Callable[..., "Served"]


class Served:
    """A hub that ``dsx serve`` runs.

    Attributes:
        process: The process.
        said: What it said until the end of the greeting.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""
        assert process.stdout is not None
        for line in process.stdout:
            self.said += line
            if "It asks for" in line or "print(hub" in line:
                break

    @property
    def url(self) -> str:
        """Where it is, from this machine."""
        found = re.search(r"listens on http://[^:]+:(\d+)", self.said)
        assert found is not None, self.said
        return f"http://127.0.0.1:{found[1]}"

    def stop(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder with a dataset."""
    write_files(tmp_path / "served" / "cats", {"1": b"1"})
    return tmp_path / "served"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has set nothing but where state goes."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
    return inherited | {"XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def start(tmp_path: Path, env: dict[str, str]) -> Iterator[Start]:
    """Start hubs on free ports; they end with the test."""
    hubs: list[Served] = []

    def run(*arguments: object, **more: str) -> Served:
        command = [*MAIN, "--port", "0", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=env | more
        )
        hubs.append(Served(process))
        return hubs[-1]

    yield run
    for hub in hubs:
        hub.process.kill()
        hub.process.communicate(timeout=LIMIT_S)


def key_file(tmp_path: Path) -> Path:
    """The one file with a key in the state folders."""
    (file,) = (tmp_path / "state").rglob("api_key")
    return file


def test_without_a_key_it_makes_one_and_keeps_it(start: Start, served: Path, tmp_path: Path) -> None:
    first = start(served)
    file = key_file(tmp_path)
    key = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(key) >= 40
    assert re.search(r"^    dsx login http://[^ ]+:\d+$", first.said, re.MULTILINE)
    assert key not in first.said  # no terminal: it may be a log
    assert str(file) in first.said
    with DatasetHubClient(first.url, key, cache_dir=None) as client:
        assert client.list_datasets() == ["cats"]
    with DatasetHubClient(first.url, "another-key", cache_dir=None) as client, pytest.raises(AccessDeniedError):
        client.list_datasets()
    assert first.stop() == 0
    again = start(served)
    assert key not in again.said
    assert str(file) in again.said
    with DatasetHubClient(again.url, key, cache_dir=None) as client:
        assert client.list_datasets() == ["cats"]
    assert [other.name for other in file.parent.iterdir() if other.name.startswith("api_key")] == ["api_key"]


def test_on_a_terminal_the_key_is_shown_once(served: Path, tmp_path: Path, env: dict[str, str]) -> None:
    said = []
    for _ in range(2):
        ours, theirs = pty.openpty()
        process = subprocess.Popen([*MAIN, str(served), "--port", "0"], stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        text = b""
        while b"api_key" not in text or (not text.rstrip(b"\r\n ").endswith(b"api_key") and text.count(b"\n") < 10):
            text += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT_S)
        os.close(ours)
        said.append(text.decode())
    key = key_file(tmp_path).read_text().strip()
    assert [key in text for text in said] == [True, False]


def test_key_that_is_given_is_used_and_not_kept(start: Start, served: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key-of-the-file\n")
    hub = start(served, "--key-file", tmp_path / "key", DSX_API_KEY="a-key-of-the-environment")
    assert "a-key-of" not in hub.said
    with DatasetHubClient(hub.url, "a-key-of-the-file", cache_dir=None) as client:
        assert client.list_datasets() == ["cats"]
    assert not list((tmp_path / "state").rglob("api_key"))


def test_arguments_beat_the_environment(start: Start, served: Path, tmp_path: Path) -> None:
    hub = start(served, "--host", "127.0.0.1", DSX_DATASET_PATH=str(tmp_path), DSX_HOST="0.0.0.0", DSX_API_KEY="k" * 20)
    assert "listens on http://127.0.0.1:" in hub.said
    with DatasetHubClient(hub.url, "k" * 20, cache_dir=None) as client:
        assert client.list_datasets() == ["cats"]


def test_several_processes_share_the_key(start: Start, served: Path, tmp_path: Path) -> None:
    hub = start(served, "--workers", 2)
    key = key_file(tmp_path).read_text().strip()
    for _ in range(8):
        with DatasetHubClient(hub.url, key, cache_dir=None) as client:
            assert client.list_datasets() == ["cats"]
    assert hub.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DSX_DATASET_PATH is not set"),
        (["nowhere"], "which does not exist"),
        (["served", "--port", "99999"], "--port"),
        (["served", "--host", "192.0.2.77"], "no address of this machine"),
        (["served", "--key-file", "nowhere"], "nowhere"),
        (["served", "--key-file", "served/cats/1"], "lies inside the served folder"),
    ],
)
def test_what_cannot_start_says_why(
    arguments: list[str], message: str, served: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    done = subprocess.run(
        [*MAIN, *arguments], capture_output=True, text=True, cwd=tmp_path, env=env, timeout=LIMIT_S, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_is_said(served: Path, tmp_path: Path, env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*MAIN, str(served), "--host", "127.0.0.1", "--port", port],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env,
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 2
    assert port in done.stderr
