"""The benchmark of training works: on few files, for our loader and the local folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")


def test_a_tiny_run_measures_every_sample(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "training.py"), "--scale", "tiny", "--rounds", "1"]
    command += ["--folder", str(tmp_path / "data"), "--out", str(out), "--only", "hub", "local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    assert [note for note in document["notes"] if "samples" in note] == []
    figures = {figure["key"]: figure["measured"] for figure in document["figures"]}
    assert all(figures[f"{dataset}/{workers}"] > 0 for dataset in ("small", "medium") for workers in (0, 2))
    assert figures["resume"] > 0
    assert "HubDataLoader" in done.stdout
