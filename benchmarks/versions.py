"""Which versions of other people's programs and packages a run was held against."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import PackageNotFoundError, version

from measuring import BenchmarkError
from servers import find_program

PACKAGES = ("requests", "fastapi", "uvicorn", "aiohttp", "webdataset", "mosaicml-streaming", "litdata", "torch")
PROGRAMS = {"nginx": "-v", "rsync": "--version", "rclone": "--version", "curl": "--version"}
LIMIT_S = 20


def list_versions() -> list[str]:
    """Return name and version of everything that is installed."""
    return [f"{name} {found}" for name in PACKAGES if (found := _find_package(name))] + [
        f"{name} {found}" for name, option in PROGRAMS.items() if (found := _find_program(name, option))
    ]


def _find_package(name: str) -> str:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


def _find_program(name: str, option: str) -> str:
    try:
        done = subprocess.run(
            [find_program(name), option], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except (BenchmarkError, OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found[0] if found else ""
