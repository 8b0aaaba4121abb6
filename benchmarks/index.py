"""What the hub's index costs, on a dataset of a million files: scans, restarts, changes, memory, and the SDK's side.

Everything is measured in one run on one machine, and what depends on the disk is held against a bare walk of the same
run. ``docs/performance.md`` has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path
from statistics import median
from typing import Any

from hubs import KEY, Answer, Hub, run_hub
from manifests import Churn, find_fault, unpack
from measuring import (
    BenchmarkError,
    Due,
    Results,
    describe_run,
    is_met,
    render,
    say,
    wait_for,
    write_docs,
    write_json,
)
from memory import MEGABYTE, MemoryWatch
from trees import FILE_BYTES, OWN, Tree, prepare_tree, read_rows, time_walk, walk_with_hashes, walk_with_stat

DUES = {
    "first_scan": Due("first scan with head hashes", 3, base="bare walk with hashes"),
    "rescan": Due("rescan of the unchanged tree", 2, base="bare walk with stat"),
    "first_byte": Due("restarted hub: first manifest (columns), to the first byte of its body", 0.2),
    "not_modified": Due("restarted hub: first request with `If-None-Match`, to the 304", 0.02),
    "hub_memory": Due("hub: peak of its memory through all of this", 300, "MB"),
    "sdk_memory": Due("SDK: memory of a process that holds the manifest", 250, "MB"),
    "sdk_peak": Due("SDK: peak of that process", 500, "MB"),
    "sdk_time": Due("SDK: from the last byte received to the `Manifest`", 1.5),
    "seen": Due("one added file, watched: to another revision", 1),
    "arrived": Due("one added file, watched: to the whole new manifest (columns)", 5),
    "broken": Due("manifests read slowly while files come and go: broken ones of 3", 0, ""),
}

FAILURES = (BenchmarkError, OSError, HTTPException, subprocess.SubprocessError, ValueError, LookupError)
"""What may keep one part from being measured; the others are measured all the same."""

TIMES = 3
APART_S = 5.0
ADDED_PAUSE_S = 0.02
SLOW_BODY_S = 2.5


class Bench:
    """The parts of the benchmark, each of which measures some figures.

    Args:
        tree: The dataset.
        work: Folder for the state of hubs and the caches of clients, on the same disk.
        results: Where the figures go.
    """

    def __init__(self, tree: Tree, work: Path, results: Results) -> None:
        self.tree = tree
        self.results = results
        self.memory = MemoryWatch()
        self.limit_s = 30 + tree.files / 2500
        """The longest wait for anything: twenty times what is due or more."""
        self._work = work
        self._state = work / "state-0"
        self._manifest = f"/manifest/{tree.dataset}?format=columns"

    def run(self) -> None:
        """Measure everything; a part that fails says why in the place of its figures."""
        self.expected = read_rows(self.tree)
        self.hash_walk_s = time_walk(walk_with_hashes, self.tree)
        self.stat_walk_s = time_walk(walk_with_stat, self.tree)
        self.results.note("bare walk with hashes", self.hash_walk_s)
        self.results.note("bare walk with stat", self.stat_walk_s)
        parts: list[tuple[Callable[[], None], list[str]]] = [
            (self.measure_first_scan, ["first_scan"]),
            (self.measure_rescan, ["rescan"]),
            (self.measure_restart, ["first_byte"]),
            (self.measure_not_modified, ["not_modified"]),
            (self.measure_sdk, ["sdk_memory", "sdk_peak", "sdk_time"]),
            (self.measure_added_file, ["seen", "arrived"]),
            (self.measure_churn, ["broken"]),
        ]
        for measure, keys in parts:
            try:
                measure()
            except FAILURES as error:
                for key in keys:
                    self.results.give_up(key, " ".join(f"{type(error).__name__}: {error}".split()))
        self.report_memory()

    def measure_first_scan(self) -> None:
        """Start hubs that know nothing, and wait until each has a revision."""
        took, starts = [], []
        for number in range(TIMES):
            self._state = self._work / f"state-{number}"
            with self._run_hub("first scan") as hub:
                hub.wait_for_revision(self.tree.dataset, limit_s=self.limit_s)
                took.append(time.perf_counter() - hub.listening)
                starts.append(hub.start_s)
        self.results.measure("first_scan", *took, base=self.hash_walk_s)
        self.results.note("from the start of a hub's process until it listens", median(starts))

    def measure_rescan(self) -> None:
        """Read in the log how long a hub takes that looks again every second."""
        dataset = self.tree.dataset
        with self._run_hub("rescan", DSX_RESCAN_S="1", DSX_WATCH="off", DSX_LOG_LEVEL="debug") as hub:
            hub.wait_for_revision(dataset, limit_s=self.limit_s)

            def look() -> list[float] | None:
                scans = hub.list_scans(dataset)[1:]  # the first one finds the hub's own memory empty
                return scans if len(scans) >= TIMES else None

            what = f"with DSX_RESCAN_S=1 and DSX_LOG_LEVEL=debug the log has {TIMES + 1} lines `scanned {dataset!r} in`"
            scans = wait_for(look, what, limit_s=self.limit_s)
        self.results.measure("rescan", *scans, base=self.stat_walk_s)

    def measure_restart(self) -> None:
        """Ask restarted hubs for the manifest, first of all."""
        with self._run_hub("before restarts") as hub:
            hub.wait_for_revision(self.tree.dataset, limit_s=self.limit_s)
            before = unpack(self._get_manifest(hub))["revision"]
        answers = [self._ask_restarted_hub() for _ in range(TIMES)]
        if {unpack(answer)["revision"] for answer in answers} != {before}:
            raise BenchmarkError("a restarted hub sent another revision of the same files")
        self.results.measure("first_byte", *(answer.first_byte_s for answer in answers))

    def measure_not_modified(self) -> None:
        """Ask restarted hubs, first of all, whether the manifest is still right."""
        etag = self._ask_restarted_hub().headers["etag"]
        answers = [self._ask_restarted_hub(**{"If-None-Match": etag}) for _ in range(TIMES)]
        if {answer.status for answer in answers} != {304}:
            raise BenchmarkError(f"the answers were {[answer.status for answer in answers]}, not 304")
        self.results.measure("not_modified", *(answer.first_byte_s for answer in answers))

    def measure_sdk(self) -> None:
        """Load the manifest in processes that do nothing else."""
        bare = self._probe("bare")
        with self._run_hub("SDK") as hub:
            hub.wait_for_revision(self.tree.dataset, limit_s=self.limit_s)
            answer = self._get_manifest(hub)
            loads = [self._load(hub, self._work / f"cache-{number}") for number in range(TIMES)]
        if {load["rows"] for load in loads} != {self.tree.files}:
            raise BenchmarkError(f"the SDK's manifests have {[load['rows'] for load in loads]} rows")
        body = self._work / "manifest.json.gz"
        body.write_bytes(answer.body)
        parsed = self._probe("parse", str(body))
        held = median(load["rss"] for load in loads)
        self.results.measure("sdk_memory", *(load["rss"] / MEGABYTE for load in loads))
        self.results.measure("sdk_peak", *(load["peak"] / MEGABYTE for load in loads))
        self.results.measure("sdk_time", *(load["after_s"] for load in loads))
        self.results.note("SDK: a process that only imported it", bare["rss"] / MEGABYTE, "MB")
        self.results.note("SDK: what the manifest adds to that", (held - bare["rss"]) / MEGABYTE, "MB")
        self.results.note("SDK: the whole `load_manifest`", median(load["whole_s"] for load in loads))
        self.results.note("manifest as it travels, gzipped", len(answer.body) / MEGABYTE, "MB")
        for key, name in (("unpack_s", "gunzip"), ("parse_s", "`parse_columns`"), ("json_s", "`json.loads`")):
            self.results.note(f"the same body, {name} alone", parsed[key])

    def measure_added_file(self) -> None:
        """Add a file, see how soon another revision is there, and how soon its manifest has come; three times."""
        folder = min(self.tree.root.iterdir())
        files = [folder / f"{OWN}added-{number}.bin" for number in range(TIMES)]
        with self._run_hub("added file", DSX_LOG_LEVEL="debug") as hub:
            self._wait_until_settled(hub)
            try:
                took = [self._add_file(hub, file) for file in files]
            finally:
                for file in files:
                    file.unlink(missing_ok=True)
        seen, arrived = zip(*took, strict=True)
        self.results.measure("seen", *seen)
        self.results.measure("arrived", *arrived)

    def measure_churn(self) -> None:
        """Read manifests slowly while files come and go, and hold them against the disk."""
        with self._run_hub("files come and go") as hub:
            before = hub.wait_for_revision(self.tree.dataset, limit_s=self.limit_s)
            lengths = {coding: len(self._get_manifest(hub, coding).body) for coding in ("gzip", "identity")}
            faults, moved = [], 0
            with Churn(self.tree) as churn:
                for coding in ("gzip", "identity", "gzip"):
                    before = hub.wait_for_revision(self.tree.dataset, other_than=before, limit_s=self.limit_s)
                    faults.append(self._read_slowly(hub, coding, lengths[coding] / SLOW_BODY_S))
                    moved += hub.describe(self.tree.dataset, timeout_s=self.limit_s).get("revision") != before
        for fault in filter(None, faults):
            say(f"a broken manifest: {fault}")
        self.results.measure("broken", len(list(filter(None, faults))))
        self.results.note("files added or removed meanwhile", churn.changes, "")
        self.results.note("manifests of 3 in whose time the revision changed", moved, "")

    def report_memory(self) -> None:
        """Set the figure of the hub's memory, and say what it took in each part."""
        if self.memory.peaks:
            self.results.measure("hub_memory", max(self.memory.peaks.values()) / MEGABYTE)
        for label, peak in self.memory.peaks.items():
            self.results.note(f"hub: peak of its memory, {label}", peak / MEGABYTE, "MB")

    def _run_hub(self, label: str, **variables: str) -> AbstractContextManager[Hub]:
        return run_hub(self.tree.served, self._state, self.memory, label, **variables)

    def _get_manifest(self, hub: Hub, coding: str = "gzip", **headers: str) -> Answer:
        return hub.get(self._manifest, headers={"Accept-Encoding": coding, **headers}, timeout_s=self.limit_s)

    def _ask_restarted_hub(self, **headers: str) -> Answer:
        """Start a hub and send it the request that is its first but for ``/health``."""
        with self._run_hub("restarts") as hub:
            hub.wait_until_ready()
            return self._get_manifest(hub, **headers)

    def _wait_until_settled(self, hub: Hub) -> None:
        """Wait for the scan that every hub begins with; one that does not log it has a revision at least."""
        hub.wait_for_revision(self.tree.dataset, limit_s=self.limit_s)
        try:
            wait_for(
                lambda: hub.list_scans(self.tree.dataset) or None, "the first scan is logged", limit_s=self.limit_s
            )
        except BenchmarkError as error:
            say(f"going on without: {error}")

    def _add_file(self, hub: Hub, file: Path) -> tuple[float, float]:
        """Return how long it took, in s, until another revision was there, and until its manifest had arrived."""
        time.sleep(APART_S)
        before = hub.describe(self.tree.dataset, timeout_s=self.limit_s)["revision"]
        began = time.perf_counter()
        file.write_bytes(bytes(FILE_BYTES))
        revision = hub.wait_for_revision(
            self.tree.dataset, other_than=before, limit_s=self.limit_s, pause_s=ADDED_PAUSE_S
        )
        seen_s = time.perf_counter() - began

        def look() -> Answer | None:
            answer = self._get_manifest(hub)
            return answer if revision in answer.headers.get("etag", "") else None

        answer = wait_for(look, "the manifest of the new revision", limit_s=self.limit_s, pause_s=ADDED_PAUSE_S)
        document = unpack(answer)
        if document["revision"] != revision or len(document["paths"]) <= self.tree.files:
            raise BenchmarkError("the new manifest does not have the new file")
        return seen_s, answer.arrived - began

    def _read_slowly(self, hub: Hub, coding: str, bytes_per_s: float) -> str:
        """Return what is wrong with a manifest that is read so slowly; nothing when it is whole."""
        headers = {"Accept-Encoding": coding}
        try:
            answer = hub.get(self._manifest, headers=headers, timeout_s=self.limit_s, bytes_per_s=bytes_per_s)
            return find_fault(unpack(answer), self.expected)
        except (BenchmarkError, HTTPException, LookupError, TypeError) as error:
            return f"{type(error).__name__}: {error}"

    def _load(self, hub: Hub, cache: Path) -> dict[str, float]:
        return self._probe("load", self.tree.dataset, str(cache), DSX_URL=hub.url, DSX_API_KEY=KEY)

    def _probe(self, *arguments: str, **variables: str) -> dict[str, float]:
        """Run `sdk_probe.py` and return what it has measured."""
        command = [sys.executable, str(Path(__file__).with_name("sdk_probe.py")), *arguments]
        env = os.environ | variables
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=self.limit_s, check=False)
        if done.returncode:
            raise BenchmarkError(f"sdk_probe.py {arguments[0]} failed: {done.stderr.strip()[-300:]}")
        measured: dict[str, float] = json.loads(done.stdout)
        return measured


def measure(folder: Path, files: int) -> dict[str, Any]:
    """Make the dataset unless it is there, measure everything, and return the run."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = prepare_tree(folder, files)
    results = Results(DUES, describe_run(f"python benchmarks/index.py --files {files}", folder))
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work:
        Bench(tree, Path(work), results).run()
    return results.to_document()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what the hub's index costs.")
    parser.add_argument("--files", type=int, default=1_000_000, help="size of the dataset (default: a million)")
    parser.add_argument("--folder", type=Path, help="where the dataset is, or is to be made (default: temporary)")
    parser.add_argument("--out", type=Path, help="JSON file to write the run to")
    parser.add_argument("--read", type=Path, help="measure nothing: take the run from this JSON file")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="page to put the table into")
    return parser.parse_args()


def main() -> int:
    """Measure, or read what was measured; print the table; return 1 when a figure is not what it is due."""
    options = parse_arguments()
    default = Path(tempfile.gettempdir()) / "dsx-benchmarks" / f"index-{options.files}"
    if options.read is None:
        document = measure((options.folder or default).resolve(), options.files)
    else:
        document = json.loads(options.read.read_text(encoding="utf-8"))
    text = render(document)
    print(text)
    if options.out:
        write_json(document, options.out)
    if options.write_docs:
        write_docs(text, options.write_docs, "index")
    return 0 if is_met(document) else 1


if __name__ == "__main__":
    sys.exit(main())
