"""Rows in which files are read into memory, on a machine that is near and a disk that is warm."""

from __future__ import annotations

from importlib.util import find_spec

from measuring import BenchmarkError
from rows import LABELS, PLAIN, SOME, Reading, Row
from samples import Sample, measure_script, run_script
from servers import ProcessServer

LOCAL = "local folder, PyTorch `DataLoader`, {} workers"

CONVERTED = {
    "webdataset": ("webdataset", "WebDataset shards from nginx"),
    "mosaic": ("streaming", "MosaicML Streaming, its own copy in a local folder"),
    "litdata": ("litdata", "LitData, its own copy in a local folder"),
}


def make_reading_rows(reading: Reading) -> list[Row]:
    """Return them in the order of the table."""
    rows = []
    for name in filter(reading.has, ("small", "medium", "clipart")):
        rows.append(_make_hub_row(reading, name, "iter", "**`iter_file_bytes`**"))
        if name != "clipart":
            rows.append(_make_hub_row(reading, name, "contract", "**the contract's loop of `get_file_bytes`**"))
        rows += _make_loops(reading, name)
        if name != "clipart":
            rows += [_make_converted(reading, name, kind) for kind in CONVERTED]
        rows += [_make_local(reading, name, workers) for workers in (0, 2)]
    return rows


def _make_hub_row(reading: Reading, name: str, kind: str, label: str) -> Row:
    def measure() -> Sample:
        hub = reading.sides.get_hub()
        return reading.read(name, kind, hub, hub.hub.url)

    def prepare() -> None:
        job, expected = reading.make_job(name, kind, reading.sides.get_hub().hub.url)
        expected.check(run_script("readers.py", job | {"exact": True}))

    return Row(f"{name}/{kind}", LABELS[name], label, measure, ours=True, prepare=prepare)


def _make_loops(reading: Reading, name: str) -> list[Row]:
    def read_from(server: ProcessServer, kind: str, limit: int | None) -> Sample:
        return reading.read(name, kind, server, server.url, limit=limit)

    def measure_plain() -> Sample:
        return read_from(reading.sides.get_plain_hub(), "requests", SOME[name])

    def measure_nginx() -> Sample:
        return read_from(reading.sides.get_nginx(), "requests", SOME[name])

    def measure_aiohttp() -> Sample:
        return read_from(reading.sides.get_nginx(), "aiohttp", None)

    label = LABELS[name]
    return [
        Row(f"{name}/plain", label, PLAIN, measure_plain),
        Row(f"{name}/nginx", label, "`requests` in a loop, nginx", measure_nginx),
        Row(
            f"{name}/aiohttp",
            label,
            "aiohttp, 32 at a time, nginx",
            measure_aiohttp,
            prepare=lambda: need_package("aiohttp"),
        ),
    ]


def _make_converted(reading: Reading, name: str, kind: str) -> Row:
    """Make the row of a peer that has a format of its own; the copy in it is made before anything is timed."""
    package, label = CONVERTED[kind]
    folder = reading.work / "converted" / f"{name}-{kind}"

    def prepare() -> None:
        need_package(package)
        folder.mkdir(parents=True)
        job, expected = reading.make_job(name, kind, "")
        expected.check(run_script("converted.py", job | {"copy": str(folder), "convert": True}))

    def measure() -> Sample:
        nginx = reading.sides.get_converted_nginx() if kind == "webdataset" else None
        url = "" if nginx is None else f"{nginx.url}/{folder.name}"
        job, expected = reading.make_job(name, kind, url)
        sample = measure_script("converted.py", job | {"copy": str(folder)}, expected, nginx)
        return reading.add_memory(sample, nginx)

    return Row(f"{name}/{kind}", LABELS[name], label, measure, prepare=prepare)


def _make_local(reading: Reading, name: str, workers: int) -> Row:
    def measure() -> Sample:
        return reading.read(name, "local", None, "", workers=workers)

    label = LOCAL.format(workers)
    return Row(f"{name}/local-{workers}", LABELS[name], label, measure, prepare=lambda: need_package("torch"))


def need_package(name: str) -> None:
    """Make sure that a package is installed.

    Raises:
        BenchmarkError: It is not.
    """
    if find_spec(name) is None:
        raise BenchmarkError(f"the package {name} is not installed: pip install -e '.[bench]'")
