"""What it takes to read many files from another process: this project, and what else people use for it.

Everything is measured in one run on one machine, in rounds: each way of reading once in every round, each time in a
process of its own. ``docs/performance.md`` says how, and has the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from download_rows import make_download_rows
from hard_rows import make_hard_rows
from measuring import BenchmarkError, Results, describe_run, is_measured, is_met, say, write_docs, write_json
from payloads import SCALES, prepare_payloads
from reading_rows import make_reading_rows
from rows import Reading, Row
from samples import Sample
from transfer_figures import choose_figures, fill_results
from transfer_plot import write_plot
from transfer_sides import Sides
from transfer_table import MEGABYTE, render_transfer
from versions import list_versions

ROUNDS = 5

FAILURES = (BenchmarkError, OSError, subprocess.SubprocessError, ValueError, LookupError)
"""What may keep one row from being measured; the others are measured all the same."""


class Bench:
    """The rows, and what was measured of each.

    Args:
        rows: What to measure.
        sides: What the rows read from.
        about: What the document begins with.
    """

    def __init__(self, rows: list[Row], sides: Sides, about: dict[str, object]) -> None:
        self._rows = rows
        self._sides = sides
        self._about = about
        self._samples: dict[str, list[Sample]] = {row.key: [] for row in rows}
        self._failed: dict[str, str] = {}

    def prepare(self) -> None:
        """Make what the rows need, and hold every byte of ours against the disk."""
        for row in self._rows:
            if row.prepare is not None:
                say(f"preparing: {row.payload}, {row.label}")
                self._try(row, row.prepare)

    def measure_round(self) -> None:
        """Measure every row once; one that failed is not tried again."""
        for row in self._rows:
            if row.key not in self._failed:
                self._try(row, lambda row=row: self._measure(row))  # type: ignore[misc]  # -- mypy cannot infer it

    def to_document(self) -> dict[str, Any]:
        """Return the run, as far as it is, as the JSON file holds it."""
        ours = [row.key for row in self._rows if row.ours]
        figures = choose_figures(list(self._samples), ours)
        results = Results({key: figure.due for key, figure in figures.items()}, self._about, aloud=False)
        fill_results(results, self._samples, self._failed, ours)
        if (speed := self._sides.link_speed) is not None:
            results.note("the slow link: round trip of one byte", speed.round_trip_s)
            results.note("the slow link: one plain stream", speed.bytes_per_s / MEGABYTE, "MB/s")
        rows = [
            {
                "key": row.key,
                "payload": row.payload,
                "label": row.label,
                "ours": row.ours,
                "samples": self._samples[row.key],
                "note": self._failed.get(row.key, ""),
            }
            for row in self._rows
        ]
        return {**results.to_document(), "rows": rows}

    def _measure(self, row: Row) -> None:
        sample = row.measure()
        self._samples[row.key].append(sample)
        say(f"{row.payload}, {row.label}: {sample['files'] / sample['took_s']:,.0f} files/s")

    def _try(self, row: Row, work: Callable[[], object]) -> None:
        try:
            work()
        except FAILURES as error:
            self._failed[row.key] = " ".join(str(error).split()) or type(error).__name__
            say(f"left out: {row.payload}, {row.label}: {self._failed[row.key]}")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the data unless it is there, measure, and return the run; an interrupted one as far as it came."""
    folder.mkdir(parents=True, exist_ok=True)
    payloads = prepare_payloads(folder, SCALES[options.scale])
    about = describe_run(f"python benchmarks/transfer.py --scale {options.scale} --rounds {options.rounds}", folder)
    about |= {"scale": options.scale, "versions": list_versions(), "notes": payloads.notes}
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="work-", dir=folder)))
        sides = Sides(payloads, work, stack)
        reading = Reading(sides, payloads, work)
        every = [*make_reading_rows(reading), *make_download_rows(reading), *make_hard_rows(reading)]
        rows = [row for row in every if _is_wanted(row, options.only)]
        bench = Bench(rows, sides, about)
        try:
            bench.prepare()
            for number in range(options.rounds):
                say(f"round {number + 1} of {options.rounds}")
                bench.measure_round()
                if options.out:
                    write_json(bench.to_document(), options.out)
        except KeyboardInterrupt:
            payloads.notes.append("the rest of the rounds: interrupted")
            say("interrupted: what was measured is kept")
        return bench.to_document()


def _is_wanted(row: Row, only: list[str] | None) -> bool:
    return not only or any(part in row.key for part in only)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what it takes to read many files.")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much data (default: full)")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"how often each row is measured (default: {ROUNDS})"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="KEY", help="only rows whose key has one of these in it: small/iter"
    )
    parser.add_argument("--folder", type=Path, help="where the data is, or is to be made (default: temporary)")
    parser.add_argument("--out", type=Path, help="JSON file to write the run to, after every round")
    parser.add_argument("--read", type=Path, help="measure nothing: take the run from this JSON file")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="page to put the table and the plot into")
    return parser.parse_args()


def main() -> int:
    """Measure, or read what was measured; print the table; return 1 when a figure is not what it is due.

    With little data the figures say little: then it is 1 when one could not be measured.
    """
    options = parse_arguments()
    default = Path(tempfile.gettempdir()) / "dsx-benchmarks" / f"transfer-{options.scale}"
    if options.read is None:
        document = measure((options.folder or default).resolve(), options)
    else:
        document = json.loads(options.read.read_text(encoding="utf-8"))
    text = render_transfer(document)
    print(text)
    if options.out:
        write_json(document, options.out)
    if options.write_docs:
        write_docs(text, options.write_docs, "transfer")
        write_plot(document, options.write_docs.with_name("transfer.svg"))
    return 0 if (is_met if document["scale"] == "full" else is_measured)(document) else 1


if __name__ == "__main__":
    sys.exit(main())
