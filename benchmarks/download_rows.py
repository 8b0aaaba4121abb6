"""Rows in which files are downloaded to the disk, each time into an empty folder."""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measuring import BenchmarkError
from rows import LABELS, Reading, Row
from samples import Expected, Sample, count_files, measure_program, run_script
from servers import Cost, find_program

KEPT_BYTES = 2**24
"""Downloads longer than this, in bytes, are removed at once: there may not be room for all of them."""

RCLONE_AT_A_TIME = 16
"""Of as many folders it asks for as many files each: with 32 it leaves out files that nginx had no connection for."""


def make_download_rows(reading: Reading) -> list[Row]:
    """Return them in the order of the table."""
    return [
        _make_hub_row(reading, "small"),
        _make_rsync_row(reading, "small"),
        _make_rclone_row(reading, "small"),
        _make_hub_row(reading, "large"),
        _make_curl_row(reading, "large"),
    ]


@contextmanager
def _empty_folder(reading: Reading) -> Iterator[Path]:
    """Give a new folder, on a disk that has nothing left to write of what was before.

    Small files stay until the end of the run: ext4 does not take the inodes of files that were removed in the last
    minutes, and to pass over tens of thousands of them took whoever came next up to 200 us for each new file.
    """
    folder = Path(tempfile.mkdtemp(prefix="downloaded-", dir=reading.work))
    os.sync()
    try:
        yield folder
    finally:
        for file in folder.rglob("*"):
            if file.is_file() and file.stat().st_size > KEPT_BYTES:
                file.unlink()


def _make_hub_row(reading: Reading, name: str) -> Row:
    def download(folder: Path) -> tuple[Sample, Expected]:
        job, expected = reading.make_job(name, "download", reading.sides.get_hub().hub.url)
        sample = run_script("readers.py", job | {"cache": str(folder)})
        sample["files"], sample["bytes"] = count_files(folder / name)
        expected.check(sample)
        return sample, expected

    def measure() -> Sample:
        hub = reading.sides.get_hub()
        cost = Cost(hub)
        with _empty_folder(reading) as folder:
            sample, _ = download(folder)
            return reading.add_memory(sample | cost.measure(), hub)

    def prepare() -> None:
        with _empty_folder(reading) as folder:
            download(folder)
            _compare(reading.get_payload(name).root, folder / name, reading.get_payload(name).read_order())

    return Row(f"{name}/download", LABELS[name], "**`download_dataset`**", measure, ours=True, prepare=prepare)


def _compare(served: Path, downloaded: Path, paths: list[str]) -> None:
    _, wrong, missing = filecmp.cmpfiles(served, downloaded, paths, shallow=False)
    if wrong or missing:
        raise BenchmarkError(f"{len(wrong)} files are wrong and {len(missing)} are missing in the download")


def _make_rsync_row(reading: Reading, name: str) -> Row:
    def measure() -> Sample:
        rsync = reading.sides.get_rsync()
        source = f"rsync://{rsync.url.removeprefix('http://')}/data/{name}/"
        with _empty_folder(reading) as folder:
            command = [find_program("rsync"), "--archive", source, f"{folder}/"]
            return measure_program(command, lambda: count_files(folder), _expect(reading, name), rsync)

    return Row(f"{name}/rsync", LABELS[name], "`rsync --archive` from its daemon", measure)


def _make_rclone_row(reading: Reading, name: str) -> Row:
    def measure() -> Sample:
        nginx = reading.sides.get_nginx()
        many = str(RCLONE_AT_A_TIME)
        with _empty_folder(reading) as folder:
            command = [find_program("rclone"), "copy", f":http:{name}", str(folder), "--http-url", nginx.url]
            command += ["--transfers", many, "--checkers", many, "--config", os.devnull]
            return measure_program(command, lambda: count_files(folder), _expect(reading, name), nginx)

    label = f"`rclone copy`, {RCLONE_AT_A_TIME} at a time, nginx"
    return Row(f"{name}/rclone", LABELS[name], label, measure)


def _make_curl_row(reading: Reading, name: str) -> Row:
    def measure() -> Sample:
        nginx = reading.sides.get_nginx()
        (path,) = reading.get_payload(name).read_order()
        with _empty_folder(reading) as folder:
            command = [find_program("curl"), "--silent", "--show-error", "--fail"]
            command += ["--output", str(folder / path), f"{nginx.url}/{name}/{path}"]
            return measure_program(command, lambda: count_files(folder), _expect(reading, name), nginx)

    return Row(f"{name}/curl", LABELS[name], "`curl`, nginx", measure)


def _expect(reading: Reading, name: str) -> Expected:
    return Expected(*reading.get_payload(name).count_bytes(None))
