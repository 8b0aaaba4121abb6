"""``dsx login``, ``logout``, ``hubs``: what is kept, who can read it, and where it is sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dsx import DatasetHubClient, InvalidRequestError
from tests.conftest import KEY, HubProcess

from .conftest import Run

WRONG = "not-the-key-of-this-hub-0123456789"


@pytest.fixture
def other() -> Iterator[tuple[str, list[str]]]:
    """Another server; the keys that it was sent."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'["theirs"]')

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", keys
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_login_is_found_by_command_and_client(
    logged_in: Run, hub: HubProcess, config_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logged_in("ls").stdout == b"cats\ndogs\n"
    monkeypatch.setenv("DSX_CONFIG_DIR", str(config_dir))
    with DatasetHubClient(cache_dir=None) as client:
        assert client.list_datasets() == ["cats", "dogs"]
    with DatasetHubClient(hub.url + "/", cache_dir=None) as client:
        assert client.list_datasets() == ["cats", "dogs"]


def test_it_is_readable_for_its_owner_alone_and_says_no_key(run: Run, hub: HubProcess, config_dir: Path) -> None:
    done = run("login", hub.url, told=KEY.encode())
    assert done.returncode == 0
    assert done.stdout == b""
    assert f"logged in to {hub.url}, which has 2 datasets" in done.stderr.decode()
    assert KEY.encode() not in done.stderr + run("hubs", "--json").stdout + run("hubs").stdout
    file = config_dir / "logins.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in config_dir.iterdir()] == ["logins.json"]


def test_key_of_a_file(run: Run, hub: HubProcess, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert run("login", hub.url, "--key-file", str(tmp_path / "key")).returncode == 0
    (tmp_path / "key").write_text(f"{KEY}\nmore")
    done = run("login", hub.url, "--key-file", str(tmp_path / "key"))
    assert done.returncode == 1
    assert KEY.encode() not in done.stderr


@pytest.mark.parametrize("told", [WRONG.encode(), b"", b"two\nlines\n", "schlüssel".encode()])
def test_wrong_key_is_not_kept(told: bytes, run: Run, hub: HubProcess, config_dir: Path) -> None:
    done = run("login", hub.url, told=told)
    assert done.returncode == 1
    assert done.stderr.startswith(b"dsx: ")
    assert b"Traceback" not in done.stderr
    assert not told or told.strip() not in done.stderr
    assert not config_dir.exists()


def test_no_hub_there(run: Run, config_dir: Path) -> None:
    done = run("login", "http://127.0.0.1:1", told=KEY.encode())
    assert done.returncode == 1
    assert b"127.0.0.1:1" in done.stderr
    assert not config_dir.exists()


def test_key_goes_to_no_other_hub(logged_in: Run, other: tuple[str, list[str]]) -> None:
    url, keys = other
    done = logged_in("ls", DSX_URL=url)
    assert done.returncode == 1
    assert f"dsx login {url}" in done.stderr.decode()
    done = logged_in("ls", "--hub", url)
    assert done.returncode == 1
    assert keys == []


def test_arguments_beat_environment_beats_login(logged_in: Run, other: tuple[str, list[str]], tmp_path: Path) -> None:
    url, keys = other
    assert logged_in("ls", DSX_URL=url, DSX_API_KEY="of-the-environment").stdout == b"theirs\n"
    (tmp_path / "key").write_text("of-the-file")
    done = logged_in("ls", "--hub", url, "--key-file", "key", DSX_URL="http://127.0.0.1:1", DSX_API_KEY="no")
    assert done.stdout == b"theirs\n"
    assert keys == ["of-the-environment", "of-the-file"]


def test_last_login_is_meant_and_logout_forgets(logged_in: Run, hub: HubProcess, other: tuple[str, list[str]]) -> None:
    url, _ = other
    assert logged_in("login", url, told=b"another-key").returncode == 0
    assert logged_in("ls").stdout == b"theirs\n"
    assert logged_in("hubs").stdout.decode().split() == [url, hub.url]
    assert json.loads(logged_in("hubs", "--json").stdout) == [
        {"url": url, "is_default": True},
        {"url": hub.url, "is_default": False},
    ]
    assert logged_in("logout").returncode == 0
    assert logged_in("ls").stdout == b"cats\ndogs\n"
    assert logged_in("logout", url).returncode == 1
    assert logged_in("logout", hub.url + "/").returncode == 0
    done = logged_in("ls")
    assert done.returncode == 1
    assert b"dsx login" in done.stderr
    assert logged_in("hubs").stdout == b""


def test_file_that_others_can_read_is_refused(logged_in: Run, config_dir: Path) -> None:
    file = config_dir / "logins.json"
    file.chmod(0o644)
    done = logged_in("ls")
    assert done.returncode == 1
    assert f"chmod 600 '{file}'" in done.stderr.decode()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"hubs": [{"url": 1, "api_key": "a-secret-key"}]}', b"\xff"])
def test_damaged_file_is_said_without_its_content(damage: bytes, logged_in: Run, config_dir: Path) -> None:
    (config_dir / "logins.json").write_bytes(damage)
    done = logged_in("ls")
    assert done.returncode == 1
    assert b"logins.json is damaged" in done.stderr
    assert b"a-secret-key" not in done.stderr


def test_without_anything_the_error_says_what_to_do(config_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSX_CONFIG_DIR", str(config_dir))
    with pytest.raises(InvalidRequestError, match="dsx login http://<hub>:8000"):
        DatasetHubClient()
