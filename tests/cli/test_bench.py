"""``dsx bench`` against real hubs: near, behind a slow link, on a slow disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from dsx.cli.bench_measures import Measures
from dsx.cli.bench_verdict import Limit
from tests.conftest import KEY, ROOT, HubProcess, write_files

BENCHMARKS = ROOT / "benchmarks"
WAY_S = 0.01
LINK_BYTES_PER_S = 5e6

LINK = f"""
import asyncio, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import slow_link
slow_link.WAY_S, slow_link.LINK_BYTES_PER_S = {WAY_S}, {LINK_BYTES_PER_S}
asyncio.run(slow_link.serve(int(sys.argv[1])))
"""

ALWAYS_SLOW = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
import cold_hub
cold_hub.main()
"""

SLOW_AT_FIRST = f"""
import sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
import cold_hub
seen = set()

class Reader(cold_hub.ColdReader):
    def read_many(self, reads, *, limit):
        results = self._reader.read_many(reads, limit=limit)
        new = {{read[0] for read in reads[:len(results)]}} - seen
        seen.update(new)
        time.sleep(self._delay_s * len(new))
        return results

class Storage(cold_hub.ColdStorage):
    def get_reader(self, dataset):
        return Reader(self._storage.get_reader(dataset), self._delay_s)

    def open(self, dataset, path):
        time.sleep(self._delay_s * (path not in seen))
        seen.add(path)
        return self._storage.open(dataset, path)

cold_hub.ColdStorage = Storage
cold_hub.main()
"""

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub on ``served``: each test has datasets of its own."""
    return start_hub()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Run ``dsx bench`` in a process of its own, in an empty folder, and for less than its usual time."""
    folder = tmp_path / "work"
    folder.mkdir()

    def run(url: str, *arguments: str, total_s: float = 3.0, **env: str) -> subprocess.CompletedProcess[str]:
        code = f"import dsx.cli.bench as module; module.TOTAL_S = {total_s}; from dsx.cli import main; main()"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        done = subprocess.run(
            [sys.executable, "-c", code, "bench", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=folder,
            env={**inherited, "DSX_URL": url, "DSX_API_KEY": KEY, "DSX_CONFIG_DIR": str(tmp_path / "config"), **env},
        )
        assert KEY not in done.stdout + done.stderr
        assert list(folder.iterdir()) == []
        return done

    return run


def read_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def write_small(served: Path, dataset: str, count: int, size: int) -> None:
    write_files(served / dataset, {f"{number % 7}/{number}": os.urandom(size) for number in range(count)})


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    """Start Python code that says, last in its first line, at which port it listens; give the URL."""
    processes: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: str, **env: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
        processes.append(process)
        assert process.stdout is not None
        found = re.search(r"(\d+)\s*\Z", process.stdout.readline())
        assert found is not None
        return f"http://127.0.0.1:{found[1]}"

    yield begin
    for process in processes:
        process.kill()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def start_cold_hub(start: Callable[..., str], served: Path, tmp_path: Path) -> Callable[[str, int], str]:
    """Start a hub of a disk that sleeps so many milliseconds."""

    def begin(code: str, delay_ms: int) -> str:
        env = {"DSX_API_KEY": KEY, "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(tmp_path / "state")}
        return start(code, str(delay_ms), **env, DSX_HOST="127.0.0.1", DSX_PORT="0", DSX_DIGESTS="off")

    return begin


def test_json_has_all_measures_and_the_verdict(hub: HubProcess, served: Path, bench: Bench) -> None:
    write_small(served, "cats", 500, 3000)
    write_files(served, {"cats/long": os.urandom(1000) * 9000})
    told = read_json(bench(hub.url, "cats", "--json"))
    assert set(told) == {"hub", "verdict"} | set(Measures.model_fields)
    assert [name for name, value in told.items() if value is None] == []
    assert told["hub"] == hub.url
    assert told["extent"] == {
        "dataset": "cats",
        "files": 501,
        "bytes": 500 * 3000 + 9_000_000,
        "small_files": 500,
        "small_bytes": 500 * 3000,
        "largest_bytes": 9_000_000,
    }
    assert told["way"]["is_loopback"] is True
    assert told["way"]["round_trip_p99_ms"] >= told["way"]["round_trip_ms"] > 0
    for name in ("one_by_one", "batches", "batches_again", "one_byte_each"):
        assert 0 < told[name]["files"] <= 500
        assert told[name]["bytes"] == told[name]["files"] * (1 if name == "one_byte_each" else 3000)
        assert told[name]["seconds"] > 0
    assert told["batches"]["files"] == told["batches_again"]["files"] == told["one_byte_each"]["files"]
    assert told["verdict"]["limit"] in get_args(Limit)
    assert told["verdict"]["epoch"]["seconds"] > 0
    assert len(told["verdict"]["sentences"]) >= 2


def test_table_and_verdict_are_on_stdout_and_progress_is_not(hub: HubProcess, served: Path, bench: Bench) -> None:
    write_small(served, "cats", 50, 3000)
    done = bench(hub.url)
    assert done.returncode == 0, done.stderr
    table, _, words = done.stdout.partition("\n\n")
    for name in ("connect", "round trip", "small files, one by one", "small files, in batches", "the same again"):
        assert re.search(rf"^{name} +[\d,.]+ (ms|files/s)", table, re.MULTILINE), name
    rates = [re.match(r".*?[\d,.]+ (?:ms|MB/s|files/s)(?=  |$)", line) for line in table.splitlines()]
    assert len({None if rate is None else rate.end() for rate in rates}) == 1, "the columns are not aligned"
    assert words.startswith("The limit is ")
    assert "An epoch over cats (50 files, 150.0 kB) takes about " in words
    assert "Reading small files" in done.stderr
    assert "The limit" not in done.stderr


def test_without_a_name_it_is_the_largest_dataset(hub: HubProcess, served: Path, bench: Bench) -> None:
    write_small(served, "apes", 30, 10)
    write_small(served, "bees", 2, 5000)
    write_small(served, "cats", 20, 10)
    assert read_json(bench(hub.url, "--json"))["extent"]["dataset"] == "bees"


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({}, {"large", "large_again", "one_stream", "one_by_one", "batches"}),
        ({"a": b""}, {"large", "large_again", "one_stream", "one_by_one", "batches"}),
        ({"a": b"1"}, {"large", "large_again"}),
        ({"a": b"", "b": b"22", "c": b"333"}, {"large", "large_again"}),
        ({"long": bytes(9_000_000)}, {"one_by_one", "batches"}),
    ],
    ids=["no file", "an empty file", "one byte", "few bytes", "a long file"],
)
def test_datasets_that_lack_something(
    files: dict[str, bytes], missing: set[str], hub: HubProcess, served: Path, bench: Bench
) -> None:
    (served / "cats").mkdir()
    write_files(served / "cats", files)
    told = read_json(bench(hub.url, "cats", "--json", total_s=1.0))
    passes = {"large", "large_again", "one_stream", "one_by_one", "batches"}
    assert {name for name in passes if told[name] is None} == missing
    assert (told["verdict"]["limit"] is None) == ("one_stream" in missing)
    assert bench(hub.url, "cats", total_s=1.0).returncode == 0


def test_hub_without_datasets_is_an_error(hub: HubProcess, bench: Bench) -> None:
    done = bench(hub.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"dsx: the hub at \S+ has no dataset to read; .*\n", done.stderr)


def test_dataset_that_is_not_there_is_an_error(hub: HubProcess, served: Path, bench: Bench) -> None:
    write_small(served, "cats", 1, 1)
    done = bench(hub.url, "dogs")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"dsx: .*'dogs'.*cats\n", done.stderr)


def test_no_hub_may_be_asked(hub: HubProcess, bench: Bench) -> None:
    done = bench(hub.url, DSX_OFFLINE="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"dsx: DSX_OFFLINE is set, .*\n", done.stderr)


def test_hub_that_is_not_there_is_an_error(hub: HubProcess, bench: Bench) -> None:
    hub.stop()
    done = bench(hub.url, "cats")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"dsx: no hub answers at .*\n", done.stderr)


@pytest.mark.parametrize("kind", ["small", "long"])
def test_slow_link_is_named(kind: str, hub: HubProcess, served: Path, bench: Bench, start: Callable[..., str]) -> None:
    if kind == "small":
        write_small(served, "cats", 600, 10_000)
    else:
        write_files(served / "cats", {"long": os.urandom(1000) * 30_000})
    told = read_json(bench(start(LINK, str(hub.port)), "cats", "--json", total_s=6.0))
    assert told["verdict"]["limit"] in ("bandwidth", "latency")
    assert told["way"]["round_trip_ms"] >= 2000 * WAY_S
    for name in ("large", "batches"):
        if told[name] is not None:
            assert told[name]["bytes"] / told[name]["seconds"] < 1.1 * LINK_BYTES_PER_S


def test_disk_that_is_slow_the_first_time_is_named(
    start_cold_hub: Callable[[str, int], str], served: Path, bench: Bench
) -> None:
    write_small(served, "cats", 300, 1000)
    told = read_json(bench(start_cold_hub(SLOW_AT_FIRST, 100), "cats", "--json", total_s=6.0))
    assert told["verdict"]["limit"] == "disk"
    assert "read for the first time" in told["verdict"]["sentences"][0]


def test_disk_that_is_slow_every_time_is_named(
    start_cold_hub: Callable[[str, int], str], served: Path, bench: Bench
) -> None:
    write_small(served, "cats", 300, 1000)
    told = read_json(bench(start_cold_hub(ALWAYS_SLOW, 40), "cats", "--json", total_s=6.0))
    assert told["verdict"]["limit"] == "disk"
    assert told["answer_again_ms"] >= 40
