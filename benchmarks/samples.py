"""One reading of one dataset in one way: run it in a process of its own, check what came, and keep what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from measuring import BenchmarkError
from servers import Cost, Server

HERE = Path(__file__).resolve().parent
LIMIT_S = 900.0

Sample: TypeAlias = dict[str, Any]
"""``files``, ``bytes``, ``took_s``; ``first_s``, ``cpu_s``, ``memory`` of the reader; ``server_cpu_s``, ``requests``,
``server_peak`` of the other side. All but the first three are None or missing where they are not known."""


class Expected(NamedTuple):
    """What has to come."""

    files: int
    bytes: int

    def check(self, sample: Sample) -> None:
        """Make sure that it came.

        Raises:
            BenchmarkError: Something else did.
        """
        if (sample["files"], sample["bytes"]) != self or sample.get("wrong"):
            wrong = f", {len(sample['wrong'])} of them wrong" if sample.get("wrong") else ""
            raise BenchmarkError(
                f"{sample['files']} files of {sample['bytes']} bytes came{wrong}, not {self.files} of {self.bytes}"
            )


def run_script(script: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a script of this folder with a job, and return what it prints.

    Raises:
        BenchmarkError: It failed.
    """
    command = [sys.executable, str(HERE / script), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=make_quiet_env())
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise BenchmarkError(f"{script} {job['kind']} failed: {said[-300:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def make_quiet_env() -> dict[str, str]:
    """Return the environment without what would change how programs read: proxies, and the settings of this project."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("DSX_") and "proxy" not in name.lower()
    }


def measure_script(script: str, job: dict[str, Any], expected: Expected, server: Server | None) -> Sample:
    """Run a script, and return what it took on both sides."""
    cost = None if server is None else Cost(server)
    sample = run_script(script, job)
    expected.check(sample)
    return sample | ({} if cost is None else cost.measure())


def measure_program(
    command: list[str], look: Callable[[], tuple[int, int]], expected: Expected, server: Server
) -> Sample:
    """Run a program that downloads, and return what it took on both sides; its own start is in its time.

    Args:
        command: What to run.
        look: Says how many files are there afterwards, and their bytes.
        expected: What it has to say.
        server: Where they come from.
    """
    cost = Cost(server)
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=make_quiet_env()
    ) as process:
        said = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took_s = time.perf_counter() - began
    if process.returncode:
        raise BenchmarkError(f"{Path(command[0]).name} failed: {said.strip()[-300:]}")
    files, count = look()
    sample = {"files": files, "bytes": count, "took_s": took_s, "cpu_s": usage.ru_utime + usage.ru_stime}
    expected.check(sample)
    return sample | cost.measure()


def count_files(folder: Path, leave_out: str = "") -> tuple[int, int]:
    """Return how many files lie in a folder, and their bytes, but for those below the name ``leave_out``."""
    found = [
        file.stat().st_size
        for file in folder.rglob("*")
        if file.is_file() and (not leave_out or leave_out not in file.relative_to(folder).parts)
    ]
    return len(found), sum(found)
