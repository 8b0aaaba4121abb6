"""``dsx service``: the unit as text, read by systemd's rules, and what is said to ``systemctl``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is a matter of Linux")

UNIT = "systemd/user/dsx-hub.service"


def read_words(unit: str) -> list[str]:
    """Take the command of a unit apart as systemd does: quotes, backslashes, %% and $$ (systemd.service(5))."""
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    return list(_split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$")))


def _split(text: str) -> Iterator[str]:
    word, is_quoted, characters = "", False, iter(text)
    for char in characters:
        if char == "\\":
            word += next(characters)
        elif char == '"':
            is_quoted = not is_quoted
        elif char == " " and not is_quoted:
            yield word
            word = ""
        else:
            word += char
    yield word


def fake_systemctl(tmp_path: Path, status: int = 0) -> dict[str, str]:
    """Return an environment in which ``systemctl`` writes down what it is told."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\necho refused >&2\nexit {status}\n')
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}


@pytest.mark.parametrize("name", ["plain", "with space", 'a"quote', "back\\slash", "50% off $HOME", "ünï", "a'b;c&d"])
def test_folder_of_any_name_arrives_as_it_is(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    done = run("service", "install", name, "--port", "8001", "--workers", "2", "--print", PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr
    words = read_words(done.stdout.decode())
    assert words == [
        *[sys.executable, "-m", "dsx.cli", "serve", str(tmp_path / name)],
        *["--port", "8001", "--workers", "2"],
    ]
    assert not (tmp_path / "xdg").exists()


def test_line_break_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a\nExecStartPre=b").mkdir()
    done = run("service", "install", "a\nExecStartPre=b", "--print")
    assert (done.returncode, done.stdout) == (1, b"")


def test_install_and_remove_tell_systemd(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    env = fake_systemctl(tmp_path)
    done = run("service", "install", "data", **env)
    assert done.returncode == 0, done.stderr
    assert b"enable-linger" in done.stderr
    unit = tmp_path / "xdg" / UNIT
    assert read_words(unit.read_text())[-1] == str(tmp_path / "data")
    assert (tmp_path / "told").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable dsx-hub.service",
        "--user restart dsx-hub.service",
    ]
    (tmp_path / "told").unlink()
    assert run("service", "remove", **env).returncode == 0
    assert not unit.exists()
    assert (tmp_path / "told").read_text().splitlines() == [
        "--user disable --now dsx-hub.service",
        "--user daemon-reload",
    ]
    assert run("service", "remove", **env).returncode == 0


def test_without_a_running_systemd_it_says_what_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    done = run("service", "install", "data", **fake_systemctl(tmp_path, status=1))
    assert done.returncode == 0
    assert b"refused" in done.stderr
    assert b"systemctl --user enable --now dsx-hub.service" in done.stderr
    assert (tmp_path / "xdg" / UNIT).exists()


def test_status_is_that_of_systemctl(run: Run, tmp_path: Path) -> None:
    env = fake_systemctl(tmp_path, status=3)
    done = run("service", "status", **env)
    assert done.returncode == 1
    assert b"dsx service install FOLDER" in done.stderr
    (tmp_path / "xdg" / UNIT).parent.mkdir(parents=True)
    (tmp_path / "xdg" / UNIT).write_text("")
    assert run("service", "status", **env).returncode == 3


def test_module_is_the_command(run: Run, tmp_path: Path) -> None:
    done = run("service", "install", "nowhere", "--print")
    assert done.returncode == 2
    assert b"nowhere" in done.stderr
