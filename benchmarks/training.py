"""What an epoch of training takes through `HubDataLoader`, and through the loaders that people use else, in one run.

Every way goes over the same samples once in every round, shuffled, in a process of its own. ``docs/performance.md``
says how, and has the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hubs import KEY
from measuring import BenchmarkError, Due, Results, describe_run, is_met, render, say, write_docs, write_json
from payloads import SCALES, Payload, Payloads, prepare_payloads
from photos import add_photos
from reading_rows import need_package
from samples import Expected, run_script
from transfer_sides import Sides
from versions import list_versions

ROUNDS = 5
WORKERS = (0, 2)
LOADERS = {
    "hub": ("dsx", "`HubDataLoader`"),
    "cached": ("torch", "`HubDataLoader`, `cache=True`, second epoch"),
    "local": ("torch", "local folder, PyTorch DataLoader"),
    "mosaic": ("streaming", "MosaicML Streaming, from a local folder"),
    "litdata": ("litdata", "LitData, local folder"),
    "webdataset": ("webdataset", "WebDataset, TAR from nginx"),
}
NAMES = {"small": "2.6 KB", "medium": "95 KB", "photos": "JPEG, decoded"}
LEAST = {"small": 1.2, "medium": 1.2, "photos": 0.9}
FAILURES = (BenchmarkError, OSError, subprocess.SubprocessError, ValueError, LookupError)


class Row(NamedTuple):
    """One way to go over one dataset."""

    dataset: str
    loader: str
    workers: int

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"{NAMES[self.dataset]}, {self.workers} workers: {LOADERS[self.loader][1]}"


def list_rows(payloads: Payloads) -> Iterator[Row]:
    """Yield what is measured, in order."""
    for dataset in NAMES:
        loaders = ("hub", "local") if dataset == "photos" else LOADERS
        for workers in WORKERS:
            if dataset in payloads.datasets:
                yield from (Row(dataset, loader, workers) for loader in loaders)


def make_dues() -> dict[str, Due]:
    """Return what is due, by key."""
    dues = {}
    for dataset, least in LEAST.items():
        for workers in WORKERS:
            name = f"{NAMES[dataset]}, {workers} workers: samples a second"
            dues[f"{dataset}/{workers}"] = Due(name, least, "/s", "local folder", is_least=True)
    for dataset in ("small", "medium"):
        for workers in WORKERS:
            name = f"{NAMES[dataset]}, {workers} workers, `cache=True`: samples a second of the second epoch"
            dues[f"{dataset}/{workers}/cached"] = Due(name, 0.9, "/s", "local folder", is_least=True)
    return dues | {"resume": Due("first batch after resuming at 90% of an epoch", 1.2, "s", "a fresh start")}


class Bench:
    """Measures rows.

    Args:
        payloads: The datasets.
        sides: What serves them.
        work: Folder for what is converted.
    """

    def __init__(self, payloads: Payloads, sides: Sides, work: Path) -> None:
        self._payloads = payloads
        self._sides = sides
        self._work = work
        self._rates: dict[Row, list[float]] = defaultdict(list)
        self._starts: dict[str, list[float]] = defaultdict(list)
        self._failed: dict[Row, str] = {}

    def prepare(self, row: Row) -> None:
        """Make what a row needs."""
        need_package(LOADERS[row.loader][0])
        copy = self._find_copy(row)
        if row.loader in ("mosaic", "litdata", "webdataset") and not copy.exists():
            say(f"converting: {row.label}")
            copy.mkdir(parents=True)
            job = self._make_job(row) | {"convert": True}
            self._expect(row).check(run_script("converted.py", job))

    def measure(self, rows: list[Row]) -> None:
        """Measure every row once; one that failed is not tried again."""
        for row in rows:
            if row in self._failed:
                continue
            try:
                if not self._rates[row]:
                    self.prepare(row)
                sample = run_script("training_loops.py", self._make_job(row))
                expected = self._expect(row)
                expected.check(sample | ({"bytes": expected.bytes} if row.dataset == "photos" else {}))
                self._rates[row].append(sample["files"] / sample["took_s"])
                say(f"{row.label}: {self._rates[row][-1]:,.0f} samples/s")
            except FAILURES as error:
                self._failed[row] = " ".join(str(error).split())[-200:] or type(error).__name__
                say(f"left out: {row.label}: {self._failed[row]}")

    def measure_starts(self) -> None:
        """Measure how long the first batch takes, of a fresh start and of a run that is resumed."""
        row = Row("small", "hub", 0)
        position = self._payloads.datasets["small"].files * 9 // 10
        for name, more in (("fresh", {}), ("resumed", {"position": position})):
            sample = run_script("training_loops.py", self._make_job(row) | more | {"first": True})
            self._starts[name].append(sample["first_s"])

    def fill(self, results: Results) -> None:
        """Put what was measured into the results."""
        for dataset in NAMES:
            for workers in WORKERS:
                ours, local = (self._rates[Row(dataset, loader, workers)] for loader in ("hub", "local"))
                if ours and local:
                    results.measure(f"{dataset}/{workers}", *ours, base=median(local))
                if (cached := self._rates[Row(dataset, "cached", workers)]) and local:
                    results.measure(f"{dataset}/{workers}/cached", *cached, base=median(local))
        if self._starts:
            results.measure("resume", *self._starts["resumed"], base=median(self._starts["fresh"]))
        for row, rates in self._rates.items():
            if rates:
                results.note(f"{row.label}: samples a second", median(rates), "/s")

    def list_notes(self) -> list[str]:
        """Return what could not be measured, and why."""
        return [f"{row.label}: {reason}" for row, reason in self._failed.items()]

    def _find_copy(self, row: Row) -> Path:
        return self._work / "converted" / f"{row.dataset}-{row.loader}"

    def _expect(self, row: Row) -> Expected:
        return Expected(*self._get_payload(row).count_bytes(None))

    def _get_payload(self, row: Row) -> Payload:
        return self._payloads.datasets[row.dataset]

    def _make_job(self, row: Row) -> dict[str, Any]:
        payload, url = self._get_payload(row), ""
        if row.loader in ("hub", "cached"):
            url = self._sides.get_hub().hub.url
        elif row.loader == "webdataset":
            url = f"{self._sides.get_converted_nginx().url}/{self._find_copy(row).name}"
        return {
            "kind": row.loader,
            "workers": row.workers,
            "decodes": row.dataset == "photos",
            "dataset": payload.name,
            "url": url,
            "key": KEY,
            "limit": None,
            "order": str(payload.order),
            "root": str(payload.root),
            "copy": str(self._find_copy(row)),
        }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the data unless it is there, measure, and return the run."""
    folder.mkdir(parents=True, exist_ok=True)
    payloads = add_photos(prepare_payloads(folder, SCALES[options.scale]), folder)
    about = describe_run(f"python benchmarks/training.py --scale {options.scale} --rounds {options.rounds}", folder)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="work-", dir=folder)))
        bench = Bench(payloads, Sides(payloads, work, stack), work)
        rows = [row for row in list_rows(payloads) if not options.only or row.loader in options.only]
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            bench.measure(rows)
            bench.measure_starts()
        results = Results(make_dues(), about | {"scale": options.scale, "versions": list_versions()})
        bench.fill(results)
        return {**results.to_document(), "notes": payloads.notes + bench.list_notes()}


def render_training(document: dict[str, Any]) -> str:
    """Return a run as Markdown."""
    versions = ", ".join(document["versions"])
    notes = "".join(f"\n- left out: {note}" for note in document["notes"])
    return f"{render(document)}\n\n{versions}{notes and chr(10) + notes}"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what an epoch of training takes.")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much data (default: full)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often all is measured (default: {ROUNDS})")
    parser.add_argument("--only", nargs="+", choices=LOADERS, help="only these loaders")
    parser.add_argument("--folder", type=Path, help="where the data is, or is to be made (default: temporary)")
    parser.add_argument("--out", type=Path, help="JSON file to write the run to")
    parser.add_argument("--read", type=Path, help="measure nothing: take the run from this JSON file")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="page to put the table into")
    return parser.parse_args()


def main() -> int:
    """Measure, or read what was measured; print the table; return 1 when a figure is not what it is due."""
    options = parse_arguments()
    if options.read is None:
        default = Path(tempfile.gettempdir()) / "dsx-benchmarks" / f"training-{options.scale}"
        document = measure((options.folder or default).resolve(), options)
    else:
        document = json.loads(options.read.read_text(encoding="utf-8"))
    text = render_training(document)
    print(text)
    if options.out:
        write_json(document, options.out)
    if options.write_docs:
        write_docs(text, options.write_docs, "training")
    return 0 if is_met(document) or document["scale"] != "full" else 1


if __name__ == "__main__":
    sys.exit(main())
