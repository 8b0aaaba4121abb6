"""The hub starts only when it can serve; it says why not, or where it listens and what to do next."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dsx_server import Settings, SettingsError
from tests import conftest
from tests.conftest import KEY, LAUNCHER, HubProcess, write_files
from tests.hub.conftest import WAIT_S, ask, receive_all, wait_until


class Ended(NamedTuple):
    """How a hub that did not start has ended."""

    status: int
    stdout: str
    stderr: str


Refuse = Callable[..., Ended]


@pytest.fixture
def refuse(tmp_path: Path, served: Path) -> Refuse:
    """Run a hub that must not start; a variable given as None is left out."""

    def run(*, launcher: Path = LAUNCHER, cwd: Path = tmp_path, **changes: str | None) -> Ended:
        variables: dict[str, str | None] = {
            "DSX_API_KEY": KEY,
            "DSX_DATASET_PATH": str(served),
            "DSX_STATE_DIR": str(tmp_path / "state"),
            "DSX_PORT": "0",
        }
        variables |= changes
        env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        env |= {name: value for name, value in variables.items() if value is not None}
        done = subprocess.run(
            [sys.executable, str(launcher)], env=env, cwd=cwd, capture_output=True, timeout=WAIT_S, check=False
        )
        return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    return run


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project root of the test's own, with nothing but the launcher in it."""
    folder = tmp_path / "project"
    (folder / "server").mkdir(parents=True)
    shutil.copy(LAUNCHER, folder / "server" / "server.py")
    return folder


def assert_refused(ended: Ended, variable: str, *more: str) -> None:
    """Check for exit status 2 and one sentence that names the variable."""
    assert ended.status == 2, ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    for text in (variable, *more):
        assert text in ended.stderr


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("variable", ["DSX_API_KEY", "DSX_DATASET_PATH"])
def test_missing_variable_is_named(refuse: Refuse, variable: str, value: str | None) -> None:
    assert_refused(refuse(**{variable: value}), variable, "set it")


def test_path_that_does_not_exist_is_named(refuse: Refuse, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    assert_refused(refuse(DSX_DATASET_PATH=missing), "DSX_DATASET_PATH", missing)


def test_path_that_is_a_file_is_named(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert_refused(refuse(DSX_DATASET_PATH=str(tmp_path / "file")), "DSX_DATASET_PATH", "not a folder")


def test_path_of_an_unknown_user_is_named(refuse: Refuse) -> None:
    assert_refused(refuse(DSX_DATASET_PATH="~no-such-user-here/data"), "DSX_DATASET_PATH")


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
def test_bad_port_is_named(refuse: Refuse, port: str) -> None:
    assert_refused(refuse(DSX_PORT=port), "DSX_PORT", "65535")


@pytest.mark.parametrize("port", ["9" * 5000, "8000.0", "80 00", "0x50", "\u0668\u0660\u0660\u0660", "+80", "8_0", " "])
def test_port_that_only_resembles_a_number_is_named(served: Path, tmp_path: Path, port: str) -> None:
    environ = {"DSX_API_KEY": "k", "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(tmp_path / "state")}
    with pytest.raises(SettingsError, match="DSX_PORT"):
        Settings.load(environ=environ | {"DSX_PORT": port})


def test_taken_port_is_named(refuse: Refuse) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = str(other.getsockname()[1])
        assert_refused(refuse(DSX_PORT=port), "DSX_PORT", port)


def test_second_hub_on_the_same_port_is_refused(start_hub: Callable[..., HubProcess], refuse: Refuse) -> None:
    hub = start_hub()
    assert_refused(refuse(DSX_PORT=str(hub.port)), "DSX_PORT", str(hub.port))
    assert ask(hub, b"/health").status == 200


@pytest.mark.parametrize("key", ["cl\u00e9", "two\nlines"])
def test_key_that_no_header_can_carry_is_refused_and_not_shown(refuse: Refuse, key: str) -> None:
    ended = refuse(DSX_API_KEY=key)
    assert_refused(ended, "DSX_API_KEY", "ASCII")
    assert key not in ended.stderr


@pytest.mark.parametrize("key", ["a\tb", "a\nb", "\x7f", " key", "key ", "\U0001f511", "a\r\nX: y", "\x00", "\u00a0k"])
def test_key_that_is_not_printable_ascii_is_refused(served: Path, tmp_path: Path, key: str) -> None:
    with pytest.raises(SettingsError, match="DSX_API_KEY"):
        Settings(api_key=key, dataset_path=served, state_dir=tmp_path / "state")


def test_state_folder_inside_the_served_one_is_refused(refuse: Refuse, served: Path) -> None:
    assert_refused(refuse(DSX_STATE_DIR=str(served / "state")), "DSX_STATE_DIR")
    assert list(served.iterdir()) == []


def test_served_folder_as_state_folder_is_refused(refuse: Refuse, served: Path) -> None:
    assert_refused(refuse(DSX_STATE_DIR=str(served)), "DSX_STATE_DIR")
    assert list(served.iterdir()) == []


def test_state_folder_that_leads_inside_by_a_link_is_refused(refuse: Refuse, served: Path, tmp_path: Path) -> None:
    (served / "cats").mkdir()
    (tmp_path / "link").symlink_to(served / "cats")
    assert_refused(refuse(DSX_STATE_DIR=str(tmp_path / "link")), "DSX_STATE_DIR")
    assert list((served / "cats").iterdir()) == []


def test_state_folder_inside_a_dataset_that_is_a_link_is_refused(served: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (served / "cats").symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="DSX_STATE_DIR"):
        Settings(api_key="k", dataset_path=served, state_dir=tmp_path / "real" / "state")


def test_state_folder_that_cannot_be_made_is_named(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert_refused(refuse(DSX_STATE_DIR=str(tmp_path / "file" / "state")), "DSX_STATE_DIR")


def test_default_state_folder_inside_the_served_one_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    ended = refuse(DSX_DATASET_PATH=str(home), DSX_STATE_DIR=None, HOME=str(home), XDG_STATE_HOME=str(home / ".state"))
    assert_refused(ended, "DSX_STATE_DIR")


def test_default_state_folder_is_the_users_and_differs_by_served_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dsx_server import Settings\n"
        "print(Settings(api_key='k', dataset_path=Path(sys.argv[1])).index_dir)"
    )
    found = []
    for name in ("one", "two", "link"):
        (tmp_path / name).symlink_to("one") if name == "link" else (tmp_path / name).mkdir()
        env = os.environ | {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": str(tmp_path / "state")}
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        found.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip())
    one, two, link = found
    assert one != two
    assert one == link
    assert all(path.startswith(str(tmp_path)) for path in found)


def test_env_file_inside_the_served_folder_is_refused(refuse: Refuse, served: Path) -> None:
    (served / ".env").write_text(f"DSX_API_KEY={KEY}\n")
    ended = refuse(cwd=served, DSX_API_KEY=None)
    assert_refused(ended, "DSX_DATASET_PATH", ".env")
    assert KEY not in ended.stderr


def test_env_file_inside_a_dataset_is_refused(refuse: Refuse, served: Path) -> None:
    write_files(served, {"cats/.env": b"DSX_API_KEY=k\n"})
    assert_refused(refuse(cwd=served / "cats", DSX_API_KEY=None), "DSX_DATASET_PATH", ".env")


def test_project_inside_the_served_folder_with_an_env_file_is_refused(
    refuse: Refuse, project: Path, tmp_path: Path
) -> None:
    (project / ".env").write_text("DSX_API_KEY=k\n")
    launcher = project / "server" / "server.py"
    (tmp_path.parent / f"{tmp_path.name}-state").mkdir()
    ended = refuse(
        launcher=launcher,
        cwd=Path("/"),
        DSX_API_KEY=None,
        DSX_DATASET_PATH=str(tmp_path),
        DSX_STATE_DIR=str(tmp_path.parent / f"{tmp_path.name}-state"),
    )
    assert_refused(ended, "DSX_DATASET_PATH", ".env")


def test_env_file_that_is_not_utf8_gives_a_sentence(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"DSX_API_KEY=cl\xe9\n")
    assert_refused(refuse(DSX_API_KEY=None), ".env")


@pytest.mark.parametrize("level", ["loud", "10"])
def test_bad_log_level_is_named(refuse: Refuse, level: str) -> None:
    assert_refused(refuse(DSX_LOG_LEVEL=level), "DSX_LOG_LEVEL", "info", "warning")


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1", "a..b", "x" * 300])
def test_host_that_is_not_of_this_machine_is_named(refuse: Refuse, host: str) -> None:
    assert_refused(refuse(DSX_HOST=host), "DSX_HOST")


def test_message_without_the_server_extra_is_the_pip_line(refuse: Refuse, tmp_path: Path) -> None:
    write_files(tmp_path / "hidden", {"uvicorn/__init__.py": b"raise ImportError('no uvicorn here')"})
    ended = refuse(PYTHONPATH=str(tmp_path / "hidden"))
    assert ended.status == 2
    assert "pip install -e '.[server]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def started_with(hub: HubProcess, key: str) -> bool:
    """Tell whether a hub takes this key."""
    return ask(hub, b"/datasets", key=key).status == 200


@pytest.fixture
def start_from(
    monkeypatch: pytest.MonkeyPatch, project: Path, tmp_path: Path, start_hub: Callable[..., HubProcess]
) -> Callable[..., HubProcess]:
    """Start a hub from `project`, in ``tmp_path``, with an empty variable for each that its ``.env`` shall give."""
    monkeypatch.setattr(conftest, "LAUNCHER", project / "server" / "server.py")
    return start_hub


def test_env_file_of_the_working_folder_is_read(start_from: Callable[..., HubProcess], tmp_path: Path) -> None:
    # HubProcess runs in the served folder's parent, which is tmp_path; an empty variable counts as not set.
    (tmp_path / ".env").write_text("DSX_API_KEY=from-cwd\n")
    assert started_with(start_from(key=""), "from-cwd")


def test_env_file_of_the_project_is_read(start_from: Callable[..., HubProcess], project: Path) -> None:
    (project / ".env").write_text('DSX_API_KEY="from project"\n')
    assert started_with(start_from(key=""), "from project")


def test_env_file_of_the_working_folder_goes_before_that_of_the_project(
    start_from: Callable[..., HubProcess], project: Path, tmp_path: Path
) -> None:
    (project / ".env").write_text("DSX_API_KEY=from-project\n")
    (tmp_path / ".env").write_text("DSX_API_KEY=from-cwd\n")
    assert started_with(start_from(key=""), "from-cwd")


def test_real_variable_goes_before_the_env_file(
    start_from: Callable[..., HubProcess], project: Path, tmp_path: Path
) -> None:
    for folder in (project, tmp_path):
        (folder / ".env").write_text("DSX_API_KEY=from-file\nDSX_LOG_LEVEL=nonsense\n")
    hub = start_from(key="from-environment", DSX_LOG_LEVEL="info")
    assert started_with(hub, "from-environment")
    assert not started_with(hub, "from-file")


def test_env_file_of_the_contract_is_enough(start_from: Callable[..., HubProcess], project: Path, served: Path) -> None:
    (served / "cats").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (project / ".env").write_text(f"DSX_DATASET_PATH={served}\nDSX_PORT={port}\nDSX_API_KEY=your-secret-key\n")
    hub = start_from(key="", DSX_DATASET_PATH="", DSX_PORT="")
    assert hub.port == port
    assert ask(hub, b"/datasets", key="your-secret-key").body == b'["cats"]'


def test_settings_are_read_from_what_is_given(tmp_path: Path, served: Path) -> None:
    environ = {"DSX_API_KEY": "k", "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(tmp_path / "state")}
    settings = Settings.load(environ=environ)
    assert (settings.port, settings.host, settings.log_level) == (8000, "0.0.0.0", "info")
    assert settings.dataset_path == served


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_settings_made_by_hand_are_checked_too(tmp_path: Path, served: Path, port: int) -> None:
    with pytest.raises(SettingsError, match="DSX_PORT"):
        Settings(api_key="k", dataset_path=served, state_dir=tmp_path / "state", port=port)


def test_greeting_says_where_the_hub_listens_and_what_it_serves(
    served: Path, start_hub: Callable[..., HubProcess]
) -> None:
    write_files(served, {"cats/x": b"", "dogs/x": b"", ".hidden/x": b"", "file": b""})
    hub = start_hub()
    assert f"http://0.0.0.0:{hub.port}" in hub.log
    assert "2 datasets" in hub.log
    assert "cats, dogs" in hub.log
    assert str(served) in hub.log


def test_greeting_counts_one_and_none_in_words_that_fit(served: Path, start_hub: Callable[..., HubProcess]) -> None:
    assert "0 datasets" in start_hub(DSX_STATE_DIR=str(served.parent / "a")).log
    (served / "cats").mkdir()
    assert re.search(r"\b1 dataset\b(?!s)", start_hub(DSX_STATE_DIR=str(served.parent / "b")).log)


def test_greeting_has_a_snippet_of_three_lines_that_runs(
    served: Path, tmp_path: Path, start_hub: Callable[..., HubProcess]
) -> None:
    (served / "cats").mkdir()
    hub = start_hub()
    snippet = [line.strip() for line in hub.lines if line.startswith("    ")]
    assert len(snippet) == 3
    compile("\n".join(snippet), "snippet", "exec")
    assert snippet[0] == "from dsx import DatasetHubClient"
    assert f":{hub.port}" in snippet[1]
    assert "0.0.0.0" not in snippet[1]
    assert "DSX_API_KEY" in hub.log


def test_greeting_never_shows_the_key(start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub()
    hub.stop()
    assert KEY not in hub.log


@pytest.mark.parametrize("name", ["line\nFORGED", "\x1b[2Jescape", "bell\x07"])
def test_greeting_shows_odd_names_escaped(served: Path, start_hub: Callable[..., HubProcess], name: str) -> None:
    (served / name).mkdir()
    hub = start_hub()
    assert all(line.rstrip("\n").isprintable() for line in hub.lines)
    assert not any(line.startswith("FORGED") for line in hub.lines)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_hub_starts_where_the_terminal_cannot_show_a_name(
    served: Path, start_hub: Callable[..., HubProcess], encoding: str
) -> None:
    (served / "\u732b").mkdir()
    hub = start_hub(PYTHONIOENCODING=encoding)
    assert ask(hub, b"/datasets").body == '["\u732b"]'.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has paths that are not UTF-8")
def test_served_folder_may_have_a_path_that_is_not_utf8(served: Path, start_hub: Callable[..., HubProcess]) -> None:
    odd = Path(os.fsdecode(os.fsencode(served) + b"/caf\xe9"))
    write_files(odd, {"cats/x": b"bytes"})
    hub = start_hub(DSX_DATASET_PATH=str(odd))
    assert ask(hub, b"/file/cats/x").body == b"bytes"


def test_hub_listens_on_all_addresses_by_default(start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub()
    for address in ("127.0.0.1", "127.0.0.2") if sys.platform == "linux" else ("127.0.0.1",):
        with socket.create_connection((address, hub.port), timeout=WAIT_S):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 without setting it up")
def test_hub_listens_only_where_it_is_told(start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub(DSX_HOST="127.0.0.1")
    assert f"http://127.0.0.1:{hub.port}" in hub.log
    assert ask(hub, b"/health").status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", hub.port), timeout=WAIT_S).close()


def test_request_is_logged_in_one_line_with_id_status_bytes_and_duration(
    served: Path, start_hub: Callable[..., HubProcess]
) -> None:
    write_files(served, {"cats/a b": b"x" * 1234})
    hub = start_hub()
    answer = ask(hub, b"/file/cats/a%20b?query=hidden")
    tag = f"id={answer.headers['x-request-id']}"
    wait_until(lambda: tag in hub.log, "the line was written")
    lines = [line for line in hub.lines if tag in line]
    assert len(lines) == 1
    assert "GET /file/cats/a%20b 200 1234 B" in lines[0]
    assert re.search(r" \d+\.\d ms ", lines[0])
    assert "127.0.0.1" in lines[0]
    assert "hidden" not in hub.log


@pytest.mark.parametrize("level", ["warning", "WARNING", "error"])
def test_log_level_warning_has_no_access_lines(served: Path, start_hub: Callable[..., HubProcess], level: str) -> None:
    write_files(served, {"cats/x": b"x"})
    hub = start_hub(DSX_LOG_LEVEL=level)
    tag = ask(hub, b"/file/cats/x").headers["x-request-id"]
    assert ask(hub, b"/manifest/cats").status == 200
    hub.stop()
    assert tag not in hub.log
    assert "/file/cats/x" not in hub.log


def test_errors_are_logged_at_warning(served: Path, start_hub: Callable[..., HubProcess]) -> None:
    write_files(served, {"cats/x": b"x" * 50_000_000})
    hub = start_hub(DSX_LOG_LEVEL="warning")
    with socket.create_connection(("127.0.0.1", hub.port), timeout=WAIT_S) as connection:
        connection.sendall(
            b"GET /file/cats/x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        connection.recv(1000)
        (served / "cats" / "x").write_bytes(b"y")
        receive_all(connection)
    wait_until(lambda: "changed" in hub.log, "the abort was logged")
