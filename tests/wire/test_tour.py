"""The README's tour, block by block, as somebody types it: only folder, address and key are those of the test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KEY, ROOT, HubProcess, write_files

TOUR = (ROOT / "README.md").read_text().partition("## The tour")[2].partition("## When something")[0]
BASH = [line for block in re.findall(r"```bash\n(.*?)```", TOUR, re.DOTALL) for line in block.splitlines()]
COMMANDS = [line for line in BASH if line.startswith("dsx ")]
PYTHON = re.findall(r"```python\n(.*?)```", TOUR, re.DOTALL)
NAMES = [
    *(f"train/{number % 10}/{number:04}.png" for number in range(200)),
    *(f"test/{number % 10}/{number:04}.png" for number in range(50)),
]
FILES = {name: name.encode() * 5 for name in NAMES}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """A hub that ``dsx serve`` could have started."""
    write_files(tmp_path / "served" / "digits", FILES)
    hub = HubProcess(tmp_path / "served", tmp_path / "state")
    yield hub
    hub.kill()


def test_it_has_ten_commands_and_twenty_lines() -> None:
    assert len(COMMANDS) == 10
    lines = [line for block in PYTHON for line in block.splitlines() if line.strip()]
    assert len(lines) <= 20


def test_every_line_works(hub: HubProcess, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "bin").mkdir(parents=True)
    dsx = work / "bin" / "dsx"
    dsx.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from dsx.cli import main; main()" "$@"\n')
    dsx.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
    env = inherited | {"PATH": f"{work / 'bin'}:{os.environ['PATH']}", "DSX_CONFIG_DIR": str(tmp_path / "config")}

    def run(command: list[str], told: str = "") -> str:
        done = subprocess.run(
            command, input=told, capture_output=True, text=True, timeout=60, cwd=work, env=env, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    said: dict[str, str] = {}
    for command in COMMANDS:
        if command == "dsx serve /data":
            continue  # tests/cli/test_serve.py runs it; here it serves already
        told = KEY if command.startswith("dsx login") else ""
        said[command] = run(["sh", "-c", command.replace("http://192.168.1.5:8000", hub.url)], told)
    assert said["dsx ls"] == "digits\n"
    assert len(said["dsx ls -l digits/train/3"].splitlines()) == 20
    assert (work / "three.png").read_bytes() == FILES["train/3/0003.png"]
    assert Path(said["dsx pull digits"].strip()) == work / "cache" / "digits"
    assert "1 entr" not in said["dsx diff digits --list"]
    printed = run([sys.executable, "-c", "\n".join(PYTHON)]).splitlines()
    assert printed == ["['digits']", "True"]
