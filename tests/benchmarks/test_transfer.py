"""The benchmark of reading and downloading works: on few files, with what needs no other package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ROWS = ["small/iter", "small/plain", "small/download"]


def test_a_tiny_run_measures_what_came(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "transfer.py"), "--scale", "tiny", "--rounds", "1"]
    command += ["--folder", str(tmp_path / "data"), "--out", str(out), "--only", *ROWS]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    files = list((tmp_path / "data" / "served" / "small").rglob("*.bin"))
    rows = {row["key"]: row for row in document["rows"]}
    assert sorted(rows) == sorted(ROWS)
    for row in rows.values():
        assert row["note"] == ""
        (sample,) = row["samples"]
        assert (sample["files"], sample["bytes"]) == (len(files), sum(file.stat().st_size for file in files))
    assert rows["small/iter"]["samples"][0]["requests"] < len(files) == rows["small/plain"]["samples"][0]["requests"]
    figures = {figure["key"]: figure for figure in document["figures"]}
    assert sorted(figures) == ["client_memory", "hub_memory", "iter_small_plain"]
    assert "| 2.6 KB | **`iter_file_bytes`** |" in done.stdout
