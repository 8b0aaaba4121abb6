"""The project installs as documented: for real, each in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make_environment(folder: Path, what: str) -> Path:
    """Install ``what`` into a new virtual environment and return its python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", what]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if result.returncode != 0 and "No matching distribution" in result.stderr:
        pytest.skip("no package index can be reached, so nothing can be installed")
    assert result.returncode == 0, result.stderr
    return python


def installed(python: Path) -> set[str]:
    command = [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return {row["name"].lower().replace("_", "-") for row in json.loads(result.stdout)}


@pytest.fixture(scope="module")
def sdk_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pip install -e .``"""
    return make_environment(tmp_path_factory.mktemp("sdk"), ".")


def test_sdk_brings_requests_and_pydantic_and_nothing_of_the_server(sdk_python: Path) -> None:
    names = installed(sdk_python)
    assert {"requests", "pydantic", "dsx-hub"} <= names
    server = {"fastapi", "starlette", "uvicorn", "python-multipart", "python-dotenv", "click", "tqdm", "platformdirs"}
    assert names & server == set()


def test_sdk_imports_and_makes_a_client_without_extras(sdk_python: Path, tmp_path: Path) -> None:
    code = "from dsx import DatasetHubClient; print(DatasetHubClient('http://127.0.0.1:9', 'k'))"
    result = subprocess.run([str(sdk_python), "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    assert result.stdout.startswith("DatasetHubClient(base_url='http://127.0.0.1:9'")


def test_command_without_its_extra_says_what_to_install(sdk_python: Path, tmp_path: Path) -> None:
    command = [str(sdk_python.with_name("dsx")), "demo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "pip install" in result.stderr
    assert "Traceback" not in result.stderr


def test_server_without_its_extra_says_what_to_install(sdk_python: Path, tmp_path: Path) -> None:
    command = [str(sdk_python), str(ROOT / "server" / "server.py")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "pip install -e '.[server]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_server_extra_brings_what_the_contract_lists(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env", ".[server]")
    assert {"fastapi", "uvicorn", "python-multipart", "python-dotenv"} <= installed(python)
    result = subprocess.run(
        [str(python), "-c", "import dsx_server, dsx.cli"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
