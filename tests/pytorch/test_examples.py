"""The examples that train, run as a user runs them, on the digits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx.cli.digits import load_digits, write_digits
from tests.conftest import KEY, ROOT
from tests.sdk.conftest import Dataset

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")

Run = Callable[..., str]


@pytest.fixture
def run(dataset: Dataset, tmp_path: Path) -> Run:
    """Run an example in an empty folder on the digits."""
    for _ in write_digits(dataset.folder, load_digits()):
        pass

    def run_script(name: str, *options: str) -> str:
        env = {**os.environ, "DSX_URL": dataset.url, "DSX_API_KEY": KEY}
        command = [sys.executable, str(ROOT / "examples" / name), dataset.name, *options]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_script


def weights(file: Path, key: str) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = torch.load(file, weights_only=True)[key]
    return kept


def assert_same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_digits_are_learned_and_a_stopped_run_ends_with_the_same_weights(
    run: Run, tmp_path: Path, workers: str
) -> None:
    whole = run("train_pytorch.py", "--checkpoint", "whole.pt")
    found = re.search(r"recognises ([\d.]+)% of 450 test pictures", whole)
    assert found is not None
    assert float(found[1]) >= 95
    assert "samples/s" in whole
    assert "stopped" in run("train_pytorch.py", "--checkpoint", "parts.pt", "--stop-after", "100", "--workers", workers)
    assert "stopped" in run("train_pytorch.py", "--checkpoint", "parts.pt", "--stop-after", "57")
    assert "goes on in epoch 3" in run("train_pytorch.py", "--checkpoint", "parts.pt", "--workers", workers)
    assert_same_weights(weights(tmp_path / "whole.pt", "model"), weights(tmp_path / "parts.pt", "model"))


def test_lightning_resumes_in_the_middle_of_an_epoch(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    assert "80 steps" in run("train_lightning.py", "--checkpoints", "whole", "--stop-after", "80")
    assert "60 steps" in run("train_lightning.py", "--checkpoints", "parts", "--stop-after", "60")
    resumed = ("--resume", "parts/step=60.ckpt", "--checkpoints", "rest", "--stop-after", "80")
    assert "80 steps" in run("train_lightning.py", *resumed)
    kept = [weights(tmp_path / folder / "step=80.ckpt", "state_dict") for folder in ("whole", "rest")]
    assert_same_weights(*kept)


def test_accelerate_resumes_in_the_middle_of_an_epoch(run: Run) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    whole = run("train_accelerate.py").strip()
    assert whole.startswith("86 steps, last loss")
    assert "stopped" in run("train_accelerate.py", "--stop-after", "60")
    rest = run("train_accelerate.py", "--resume", "accelerate-state").strip()
    assert rest == whole.replace("86 steps", "26 steps")
