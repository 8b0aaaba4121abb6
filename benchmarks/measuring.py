"""What every benchmark shares: figures and what they are due, the machine, and the table that comes of them.

A benchmark fills `Results` and makes one JSON document of it; the table, on the terminal and in the docs, is made from
that document and nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class BenchmarkError(Exception):
    """Something cannot be measured; the message says why."""


class Due(NamedTuple):
    """What a figure may be at most, or has to be at least.

    Attributes:
        name: What is measured.
        limit: The most or the least that it may be, in ``unit``; with ``base``, so many times that.
        unit: ``s``, ``MB`` (a million bytes), something per s, or empty for a count.
        base: What it is held against, of the same run; empty when the limit stands for itself.
        is_least: Whether the limit is the least that it may be.
    """

    name: str
    limit: float
    unit: str = "s"
    base: str = ""
    is_least: bool = False


class Results:
    """The figures of one run, said aloud as they come.

    Args:
        dues: What is due, by key, in the order of the table.
        about: Command, date and machine, as `describe_run` gives them.
        aloud: Whether they are; a benchmark that fills the figures in more than once does not want it.
    """

    def __init__(self, dues: Mapping[str, Due], about: Mapping[str, object], *, aloud: bool = True) -> None:
        self._dues = dues
        self._about = about
        self._say = say if aloud else _keep_silent
        self._figures: dict[str, dict[str, Any]] = {}
        self._facts: list[dict[str, Any]] = []

    def measure(self, key: str, *values: float, base: float | None = None) -> None:
        """Set one figure.

        Args:
            key: Which.
            values: What was measured; of several, their median is the figure.
            base: What a relative limit is relative to, in the figure's unit.
        """
        due, value = self._dues[key], median(values)
        limit = due.limit if base is None else due.limit * base
        is_met = value >= limit if due.is_least else value <= limit
        verdict = "ok" if is_met else "missed"
        ratio = value / limit if limit else None
        self._set(key, verdict, base_measured=base, due=limit, measured=value, values=values, ratio=ratio)
        self._say(f"{due.name}: {format_value(value, due.unit)}, {verdict}")

    def give_up(self, key: str, reason: str) -> None:
        """Say why a figure could not be measured; one that was stays."""
        if key not in self._figures:
            self._set(key, "not measured", reason=reason)
            self._say(f"{self._dues[key].name}: not measured: {reason}")

    def note(self, name: str, value: float, unit: str = "s") -> None:
        """Add something that was measured and that nothing is due for."""
        self._facts.append({"name": name, "measured": value, "unit": unit})
        self._say(f"{name}: {format_value(value, unit)}")

    def to_document(self) -> dict[str, Any]:
        """Return the run as the JSON file holds it."""
        for key in self._dues:
            self.give_up(key, "nothing measured it")
        return {**self._about, "figures": [self._figures[key] for key in self._dues], "facts": self._facts}

    def _set(self, key: str, verdict: str, **values: object) -> None:
        nothing: dict[str, Any] = {
            "base_measured": None,
            "due": None,
            "measured": None,
            "values": [],
            "ratio": None,
            "reason": "",
        }
        self._figures[key] = {"key": key, **self._dues[key]._asdict(), **nothing, **values, "verdict": verdict}


def say(text: str) -> None:
    """Tell whoever waits how far it is; the table alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def _keep_silent(_text: str) -> None:
    pass


def wait_for(look: Callable[[], T | None], what: str, *, limit_s: float, pause_s: float = 0.05) -> T:
    """Return what ``look`` returns as soon as that is not None.

    Raises:
        BenchmarkError: It was None for ``limit_s``.
    """
    give_up_at = time.monotonic() + limit_s
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > give_up_at:
            raise BenchmarkError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(pause_s)


def describe_run(command: str, folder: Path) -> dict[str, object]:
    """Return when, where and by which command something is measured; ``folder`` is where its files lie."""
    machine = {
        "cpu": _read_cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {re.split(r'[^0-9.]', platform.release())[0]}",
        "filesystem": _find_filesystem(folder),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    return {"command": command, "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "machine": machine}


def _read_cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def _find_filesystem(folder: Path) -> str:
    """Name the kind of file system that a folder lies on: that of the longest mount point above it."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown file system"
    mounts = [line.split()[1:3] for line in lines]
    above = [(len(point), number, kind) for number, (point, kind) in enumerate(mounts) if folder.is_relative_to(point)]
    return max(above)[2] if above else "unknown file system"


def render(document: Mapping[str, Any]) -> str:
    """Return a run as Markdown: where it was made, the figures, and what was measured beside them."""
    machine = document["machine"]
    about = (
        f"`{document['command']}`, {document['date']}, on {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['kernel']}, {machine['filesystem']}, Python {machine['python']}, "
        f"load {machine['load_before']} before."
    )
    figures = ["| figure | due | measured | ratio | |", "|---|---|---|---|---|"]
    figures += map(_render_figure, document["figures"])
    facts = ["| measured beside them | |", "|---|---|"]
    facts += [f"| {fact['name']} | {format_value(fact['measured'], fact['unit'])} |" for fact in document["facts"]]
    return "\n".join([about, "", *figures, *(["", *facts] if document["facts"] else [])])


def _render_figure(figure: Mapping[str, Any]) -> str:
    unit, measured, ratio = figure["unit"], figure["measured"], figure["ratio"]
    due = format_value(figure["limit"], unit)
    if figure["base"]:
        due = f"{figure['limit']:g} x {figure['base']}"
        if figure["due"] is not None:
            due += f" = {format_value(figure['due'], unit)}"
    if figure.get("is_least"):
        due = f"at least {due}"
    cells = [
        figure["name"],
        due,
        "-" if measured is None else _render_values(measured, figure["values"], unit),
        "-" if ratio is None else f"{ratio:.2f}",
        figure["verdict"] + (f": {figure['reason']}" if figure["reason"] else ""),
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _render_values(middle: float, values: Sequence[float], unit: str) -> str:
    text = format_value(middle, unit)
    if len(values) == 1:
        return text
    least, most = (format_value(value, unit).removesuffix(unit).rstrip() for value in (min(values), max(values)))
    return f"{text} ({least} to {most})"


def format_value(value: float, unit: str) -> str:
    """Write a number with its unit; times to the tenth of a millisecond."""
    digits = {"s": 2 if value >= 0.1 else 4, "MB": 0}.get(unit, 0)
    return f"{value:,.{digits}f} {unit}".rstrip()


def write_json(document: Mapping[str, Any], file: Path) -> None:
    """Write a run to a file, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def write_docs(text: str, page: Path, name: str) -> None:
    """Put ``text`` between the comments ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page.

    Raises:
        BenchmarkError: The page has no such place.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise BenchmarkError(f"{page} has no place between {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def is_measured(document: Mapping[str, Any]) -> bool:
    """Tell whether every figure was measured, whatever it is."""
    return all(figure["measured"] is not None for figure in document["figures"])


def is_met(document: Mapping[str, Any]) -> bool:
    """Tell whether every figure was measured and is what it is due."""
    return all(figure["verdict"] == "ok" for figure in document["figures"])
