"""What ``GET /file`` costs: requests a second of one worker, beside a plain FastAPI hub and nginx, in one run.

`wrk` keeps 16 connections busy, each of which asks for one file after another, in an order that a seed has shuffled.
Every peer serves the same files, one peer at a time, in rounds. ``docs/performance.md`` has the figures.

```
folder/
  files.json                what lies below served/; written last, so that half of it is not taken for all
  served/small/ middle/     files around 2.6 KB and around 95 KB: class_000/img_000000.bin, ...
  served/big/one.bin        one long file
```
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from hubs import HOST, KEY
from measuring import BenchmarkError, Due, Results, describe_run, is_met, render, say, write_docs, write_json
from memory import MEGABYTE, list_children, read_memory
from servers import ProcessServer, run_nginx, run_plain_hub, run_quiet_hub

PLAIN = "FastAPI + `FileResponse`"
NGINX = "nginx"
HUB = "hub"

DUES = {
    ("small", PLAIN): Due("2.6 KB: requests a second", 15, "/s", base=PLAIN, is_least=True),
    ("small", NGINX): Due("2.6 KB: requests a second", 1 / 5, "/s", base=NGINX, is_least=True),
    ("middle", PLAIN): Due("95 KB: requests a second", 10, "/s", base=PLAIN, is_least=True),
    ("middle", NGINX): Due("95 KB: requests a second", 1 / 4, "/s", base=NGINX, is_least=True),
    ("memory", HUB): Due("hub: peak of its memory, above that at its start", 200, "MB"),
}

SEED = 1
SPREAD = 0.5
"""Sizes are log-normal: this is the standard deviation of their logarithms."""

CONNECTIONS = 16
ROUNDS = 5
FILES_PER_FOLDER = 200
BLOCK_BYTES = 1024 * 1024
RECEIVE_BYTES = 1024 * 1024
SETTLE_S = 6.0
"""A hub looks at what it serves when it starts, and hashes it while nobody asks: it is left alone for so long, in s."""


class Files(NamedTuple):
    """How many files there are of each kind, and how long they are on average, in bytes."""

    small: int
    middle: int
    big_bytes: int

    def list_kinds(self) -> list[tuple[str, int, int]]:
        """Return name, number, and mean size of the two kinds that `wrk` asks for."""
        return [("small", self.small, 2600), ("middle", self.middle, 95_000)]


class Load(NamedTuple):
    """What came of one run of `wrk`."""

    per_s: float
    cpu_us: float


def prepare_files(folder: Path, files: Files) -> None:
    """Write the files, the same ones every time, unless they are there.

    Raises:
        BenchmarkError: There are others.
    """
    marker = folder / "files.json"
    about = {**files._asdict(), "seed": SEED, "spread": SPREAD}
    if marker.exists():
        if json.loads(marker.read_text(encoding="utf-8")) != about:
            raise BenchmarkError(f"{folder} has other files: name another --folder, or remove it")
        return
    say(f"writing files into {folder}")
    chance = random.Random(SEED)
    for kind, count, mean in files.list_kinds():
        for number in range(count):
            file = folder / "served" / kind / f"class_{number // FILES_PER_FOLDER:03d}" / f"img_{number:06d}.bin"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = round(chance.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD))
            file.write_bytes(chance.randbytes(max(1, size)))
    big = folder / "served" / "big" / "one.bin"
    big.parent.mkdir(parents=True, exist_ok=True)
    with big.open("wb") as out:
        for _ in range(files.big_bytes // BLOCK_BYTES):
            out.write(chance.randbytes(BLOCK_BYTES))
    marker.write_text(json.dumps(about) + "\n", encoding="utf-8")
    time.sleep(3)


def write_script(root: Path, kind: str, script: Path) -> None:
    """Write what makes `wrk` ask for all files of a kind in one shuffled order; all are read once, into memory."""
    paths = []
    for file in sorted((root / kind).rglob("*.bin")):
        file.read_bytes()
        paths.append(f"/file/{kind}/{file.relative_to(root / kind).as_posix()}")
    random.Random(SEED).shuffle(paths)
    lines = ["local paths = {", *(f'  "{path}",' for path in paths), "}"]
    lines += ["local last = 0", f'wrk.headers["Authorization"] = "Bearer {KEY}"', "function request()"]
    lines += ["  last = last % #paths + 1", '  return wrk.format("GET", paths[last])', "end"]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_server(peer: ProcessServer, script: Path, seconds: int) -> Load:
    """Have `wrk` ask a server as fast as it answers.

    Raises:
        BenchmarkError: An answer was none of 200.
    """
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    before = read_cpu_s(peer.pid)
    done = subprocess.run(
        [*command, f"http://{HOST}:{peer.port}"], capture_output=True, text=True, timeout=seconds + 60, check=True
    )
    cpu_s = read_cpu_s(peer.pid) - before
    counted = re.search(r"(\d+) requests in", done.stdout)
    per_s = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    if (
        counted is None
        or per_s is None
        or int(counted[1]) == 0
        or "Non-2xx" in done.stdout
        or "Socket err" in done.stdout
    ):
        raise BenchmarkError(f"wrk on port {peer.port}: {' '.join(done.stdout.split())[-300:]}")
    return Load(float(per_s[1]), cpu_s / int(counted[1]) * 1e6)


def read_cpu_s(pid: int) -> float:
    """Return what a process and its children have computed so far, in s; 0 where there is no ``/proc``."""
    total = 0.0
    for each in [pid, *list_children(pid)]:
        try:
            fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / 100
    return total


def read_big(peer: ProcessServer) -> float:
    """Read the long file, and return how fast that was, in MB/s."""
    request = f"GET /file/big/one.bin HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    buffer = bytearray(RECEIVE_BYTES)
    with socket.create_connection((HOST, peer.port), timeout=60) as connection:
        began = time.perf_counter()
        connection.sendall(request.encode())
        count = 0
        while got := connection.recv_into(buffer):
            count += got
        took_s = time.perf_counter() - began
    return count / took_s / 1e6


class Bench:
    """Measures every peer in turn.

    Args:
        folder: Where the files are.
        work: Folder for scripts, logs and the hub's state.
        results: Where the figures go.
    """

    def __init__(self, folder: Path, work: Path, results: Results) -> None:
        self._served = folder / "served"
        self._work = work
        self._results = results
        self._loads: dict[tuple[str, str], list[Load]] = defaultdict(list)
        self._big: dict[str, list[float]] = defaultdict(list)

    def run(self, files: Files, seconds: int) -> None:
        """Measure everything that the programs on this machine allow."""
        if shutil.which("wrk") is None:
            for key in DUES:
                self._results.give_up(_name(key), "wrk is not installed (Debian: apt-get install wrk)")
            return
        scripts = {}
        for kind, _, _ in files.list_kinds():
            scripts[kind] = self._work / f"{kind}.lua"
            write_script(self._served, kind, scripts[kind])
        with ExitStack() as stack:
            peers = {HUB: stack.enter_context(run_quiet_hub(self._served, self._work))}
            peers[PLAIN] = stack.enter_context(run_plain_hub(self._served, self._work))
            try:
                peers[NGINX] = stack.enter_context(run_nginx(self._served, self._work))
            except BenchmarkError as error:
                for key in DUES:
                    if key[1] == NGINX:
                        self._results.give_up(_name(key), str(error))
            time.sleep(SETTLE_S)
            before = read_memory(peers[HUB].pid)
            self._measure(peers, scripts, seconds)
            after = read_memory(peers[HUB].pid)
            if before is not None and after is not None:
                self._results.measure(_name(("memory", HUB)), (after.peak - before.rss) / MEGABYTE)
        self._report(peers)

    def _measure(self, peers: dict[str, ProcessServer], scripts: dict[str, Path], seconds: int) -> None:
        for number in range(ROUNDS + 1):
            for name, peer in peers.items():
                for kind, script in scripts.items():
                    load = load_server(peer, script, seconds)
                    say(f"round {number}: {name}, {kind}: {load.per_s:.0f}/s, {load.cpu_us:.0f} us of CPU a request")
                    if number:  # the first round warms up
                        self._loads[name, kind].append(load)
                big = read_big(peer)
                if number:
                    self._big[name].append(big)

    def _report(self, peers: dict[str, ProcessServer]) -> None:
        for (kind, base), due in DUES.items():
            if base in peers and due.base:
                rates = [load.per_s for load in self._loads[HUB, kind]]
                bases = [load.per_s for load in self._loads[base, kind]]
                self._results.measure(_name((kind, base)), *rates, base=median(bases))
        for (name, kind), loads in self._loads.items():
            self._results.note(f"{name}, {kind}: requests a second", median(load.per_s for load in loads), "/s")
            self._results.note(f"{name}, {kind}: CPU for 1,000 requests", median(load.cpu_us for load in loads) / 1000)
        for name, speeds in self._big.items():
            self._results.note(f"{name}: one long file", median(speeds), "MB/s")


def _name(key: tuple[str, str]) -> str:
    return "-".join(key)


def measure(folder: Path, files: Files, seconds: int) -> dict[str, Any]:
    """Write the files unless they are there, measure everything, and return the run."""
    folder.mkdir(parents=True, exist_ok=True)
    prepare_files(folder, files)
    command = f"python benchmarks/file_endpoint.py --small {files.small} --middle {files.middle} --seconds {seconds}"
    results = Results({_name(key): due for key, due in DUES.items()}, describe_run(command, folder))
    with tempfile.TemporaryDirectory(prefix="work-", dir=folder) as work:
        Bench(folder, Path(work), results).run(files, seconds)
    return results.to_document()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure what GET /file costs.")
    parser.add_argument("--small", type=int, default=30_000, help="files around 2.6 KB (default: 30,000)")
    parser.add_argument("--middle", type=int, default=6000, help="files around 95 KB (default: 6,000)")
    parser.add_argument("--big-mib", type=int, default=1024, help="length of the long file (default: 1 GiB)")
    parser.add_argument("--seconds", type=int, default=5, help="how long each load lasts (default: 5)")
    parser.add_argument("--folder", type=Path, help="where the files are, or are to be written (default: temporary)")
    parser.add_argument("--out", type=Path, help="JSON file to write the run to")
    parser.add_argument("--read", type=Path, help="measure nothing: take the run from this JSON file")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="page to put the table into")
    return parser.parse_args()


def main() -> int:
    """Measure, or read what was measured; print the table; return 1 when a figure is not what it is due."""
    options = parse_arguments()
    if options.read is None:
        files = Files(options.small, options.middle, options.big_mib * 1024 * 1024)
        default = Path(tempfile.gettempdir()) / "dsx-benchmarks" / f"file-{files.small}-{files.middle}"
        document = measure((options.folder or default).resolve(), files, options.seconds)
    else:
        document = json.loads(options.read.read_text(encoding="utf-8"))
    text = render(document)
    print(text)
    if options.out:
        write_json(document, options.out)
    if options.write_docs:
        write_docs(text, options.write_docs, "file")
    return 0 if is_met(document) else 1


if __name__ == "__main__":
    sys.exit(main())
