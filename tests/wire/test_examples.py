"""The scripts in ``examples/`` and the README's Python run against a hub as they are."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import KEY, ROOT, HubProcess, write_files


@pytest.fixture
def run(served: Path, start_hub: Callable[..., HubProcess], tmp_path: Path) -> Callable[..., str]:
    """Run a script as a user would, in an empty folder, against a hub with a few pictures."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    write_files(served / "digits", {f"train/{n}/0001.png": file.getvalue() for n in range(3)})
    hub = start_hub()
    folder = tmp_path / "work"
    folder.mkdir()

    def run_script(*command: str) -> str:
        env = {**os.environ, "DSX_URL": hub.url, "DSX_API_KEY": KEY}
        result = subprocess.run(
            [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run_script


def test_quickstart(run: Callable[..., str]) -> None:
    output = run(str(ROOT / "examples/quickstart.py"))
    assert "datasets: digits" in output
    assert "digits has 3 files" in output
    assert "3 files in the cache" in output


def test_images_in_memory(run: Callable[..., str]) -> None:
    output = run(str(ROOT / "examples/images_in_memory.py"), "digits")
    assert output.splitlines() == [f"train/{n}/0001.png (8, 8) L" for n in range(3)]


def test_keep_the_cache_small(run: Callable[..., str]) -> None:
    run(str(ROOT / "examples/quickstart.py"))
    output = run(str(ROOT / "examples/keep_the_cache_small.py"))
    held, freed = re.findall(r"([\d.]+) MiB", output)
    assert held == freed


def test_every_example_is_run() -> None:
    tests = Path(__file__).read_text() + (ROOT / "tests/pytorch/test_examples.py").read_text()
    assert [p.name for p in (ROOT / "examples").glob("*.py") if p.name not in tests] == []


def test_python_of_the_readme(run: Callable[..., str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "['digits']" in run("-c", "\n".join(blocks))
