"""``cache_limit_bytes``: the cache stays in bounds, what was not used for longest goes, what was handed out stays."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsx import CacheError, DatasetHubClient, InvalidRequestError
from dsx._quota import SPARE_PART
from dsx.config import parse_bytes
from tests.conftest import KEY

from .conftest import Dataset

SIZE = 10_000
COUNT = 30
FILES = {f"{number:02}": bytes([number]) * SIZE for number in range(COUNT)}
HOUR_NS = 3600 * 10**9

Connect = Callable[..., DatasetHubClient]


def entries_in(cache_dir: Path, dataset: Dataset) -> list[str]:
    """Return the names of the entries of a dataset that lie in a cache, sorted."""
    folder = cache_dir / dataset.name
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def bytes_in(cache_dir: Path, dataset: Dataset) -> int:
    """Return how many bytes the entries of a dataset have in a cache."""
    return sum((cache_dir / dataset.name / name).stat().st_size for name in entries_in(cache_dir, dataset))


def age(file: Path, hours: int) -> None:
    """Have a file be kept until some hours ago, as it is when it was handed out then."""
    status = file.stat()
    os.utime(file, ns=(time.time_ns() - hours * HOUR_NS, status.st_mtime_ns))


def test_streams_stay_under_the_limit(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    limit = COUNT * SIZE // 3
    client = connect(dataset.url, cache_limit_bytes=limit)
    for epoch in range(3):
        came = {
            sample.path: sample.data for sample in client.stream(dataset.name, cache=True, shuffle=True, epoch=epoch)
        }
        assert came == FILES
        assert 0 < bytes_in(cache_dir, dataset) <= limit


def test_what_was_not_used_for_longest_goes(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client = connect(dataset.url, cache_limit_bytes=4 * SIZE, readahead=False)
    paths = {name: client.get_file(dataset.name, name) for name in ("00", "01", "02", "03")}
    for hours, name in enumerate(("02", "00", "03", "01"), start=1):
        age(paths[name], 10 - hours)  # 02 was used first, 01 last
    client.get_file(dataset.name, "02")
    client.get_file(dataset.name, "10")
    assert entries_in(cache_dir, dataset) == ["01", "02", "03", "10"]
    client.get_file(dataset.name, "11")
    assert entries_in(cache_dir, dataset) == ["01", "02", "10", "11"]


def test_a_stream_is_a_use(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client = connect(dataset.url, cache_limit_bytes=3 * SIZE, readahead=False)
    for hours, name in enumerate(("00", "01", "02"), start=1):
        age(client.get_file(dataset.name, name), 10 - hours)
    list(client.stream(dataset.name, include="00", cache=True))
    client.get_file(dataset.name, "03")
    assert entries_in(cache_dir, dataset) == ["00", "02", "03"]


def test_paths_handed_out_stay(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client = connect(dataset.url, cache_limit_bytes=3 * SIZE, readahead=False)
    paths = [client.get_file(dataset.name, name) for name in ("00", "01", "02")]
    with pytest.raises(CacheError, match=f"{4 * SIZE} or more"):
        client.get_file(dataset.name, "03")
    assert [path.read_bytes() for path in paths] == [FILES[name] for name in ("00", "01", "02")]
    age(paths[1], 1)
    assert client.get_file(dataset.name, "03").read_bytes() == FILES["03"]
    assert entries_in(cache_dir, dataset) == ["00", "02", "03"]


def test_another_client_keeps_what_this_one_was_handed(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    free = connect(dataset.url, readahead=False)  # it has no limit, and says all the same what it was handed
    paths = [free.get_file(dataset.name, name) for name in ("00", "01", "02")]
    for path in paths:
        age(path, 1)
    free.get_file(dataset.name, "01")
    limited = connect(dataset.url, cache_limit_bytes=3 * SIZE, readahead=False)
    limited.get_file(dataset.name, "10"), limited.get_file(dataset.name, "11")
    assert entries_in(cache_dir, dataset) == ["01", "10", "11"]


def test_a_downloaded_dataset_stays(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client = connect(dataset.url, cache_limit_bytes=COUNT * SIZE, readahead=False)
    client.download_dataset(dataset.name)
    for name in FILES:
        age(cache_dir / dataset.name / name, 1)
    dataset.write({"one more": b"1"})
    with pytest.raises(CacheError, match="is full"):
        client.get_file(dataset.name, "one more")
    assert entries_in(cache_dir, dataset) == sorted(FILES)
    held = cache_dir / ".dsx" / "held" / dataset.name
    os.utime(held, ns=(0, time.time_ns() - HOUR_NS))
    client.get_file(dataset.name, "one more")
    assert len(entries_in(cache_dir, dataset)) == COUNT


def test_a_limit_too_small_is_said_before_a_fetch(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client = connect(dataset.url, cache_limit_bytes=SIZE - 1, readahead=False)
    client.get_manifest(dataset.name)
    with pytest.raises(CacheError, match=f"to {SIZE} or more"):
        client.get_file(dataset.name, "00")
    with pytest.raises(CacheError, match=f"to {COUNT * SIZE} or more"):
        client.download_dataset(dataset.name)
    with pytest.raises(CacheError, match=f"to {SIZE} or more"):
        client.stream(dataset.name, cache=True)
    assert not (cache_dir / dataset.name).exists()
    assert client.get_file_bytes(dataset.name, "00") == FILES["00"]


def test_without_a_manifest_a_limit_too_small_is_said_too(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    with pytest.raises(CacheError, match=f"to {SIZE} or more"):
        connect(dataset.url, cache_limit_bytes=SIZE - 1).get_file(dataset.name, "00")


def test_files_of_others_are_neither_counted_nor_removed(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    theirs = cache_dir / dataset.name / "mine.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"x" * 10 * SIZE)
    age(theirs, 100)
    client = connect(dataset.url, cache_limit_bytes=3 * SIZE)
    assert len(list(client.stream(dataset.name, cache=True))) == COUNT
    assert theirs.read_bytes() == b"x" * 10 * SIZE
    assert len(entries_in(cache_dir, dataset)) == 4


def test_a_folder_of_ones_own_has_no_limit(connect: Connect, dataset: Dataset, tmp_path: Path) -> None:
    dataset.write(FILES)
    connect(dataset.url, cache_limit_bytes=SIZE).download_dataset(dataset.name, dest=tmp_path / "mine")
    assert len([name for name in FILES if (tmp_path / "mine" / name).is_file()]) == COUNT


def test_removed_by_hand_makes_room(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client = connect(dataset.url, cache_limit_bytes=COUNT * SIZE // 3)
    list(client.stream(dataset.name, cache=True))
    for name in entries_in(cache_dir, dataset):
        (cache_dir / dataset.name / name).unlink()
    assert [sample.data for sample in client.stream(dataset.name, cache=True)] == list(FILES.values())
    assert bytes_in(cache_dir, dataset) <= COUNT * SIZE // 3


EPOCHS = """
    import hashlib, sys
    from dsx import DatasetHubClient
    url, key, cache_dir, dataset, limit, seed = sys.argv[1:]
    with DatasetHubClient(url, key, cache_dir, cache_limit_bytes=int(limit)) as hub:
        for epoch in range(2):
            stream = hub.stream(dataset, cache=True, shuffle=True, seed=int(seed), epoch=epoch)
            print(epoch, *sorted(f"{sample.path}:{hashlib.sha256(sample.data).hexdigest()}" for sample in stream))
"""


def test_eight_processes_share_a_third(dataset: Dataset, cache_dir: Path) -> None:
    files = {f"{number % 7}/{number}": os.urandom(1000 + number * 37) for number in range(300)}
    dataset.write(files)
    limit = sum(map(len, files.values())) // 3
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(EPOCHS),
        dataset.url,
        KEY,
        str(cache_dir),
        dataset.name,
        str(limit),
    ]
    processes = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(8)]
    most = 0
    while any(process.poll() is None for process in processes):
        with stopped(processes):
            most = max(most, bytes_in(cache_dir, dataset) if (cache_dir / dataset.name).exists() else 0)
        time.sleep(0.02)
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    expected = " ".join(sorted(f"{path}:{hashlib.sha256(data).hexdigest()}" for path, data in files.items()))
    assert said == [f"0 {expected}\n1 {expected}\n"] * 8
    in_flight = max(limit // SPARE_PART, *map(len, files.values()))
    assert 0 < most <= limit + 8 * in_flight
    assert bytes_in(cache_dir, dataset) <= limit


@contextmanager
def stopped(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Have processes stand still."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        if process.returncode is None:  # WNOWAIT: one that has ended meanwhile is left for Popen to see
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1000", 1000), ("50GB", 50 * 10**9), ("1.5 GiB", 3 * 2**29), ("20m", 20 * 10**6), ("7 kib", 7 * 1024)],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text, "x") == expected


@pytest.mark.parametrize("text", ["", "-1", "many", "5 XB", "1e9", "GB", "0x10", "٣"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="like 50GB"):
        parse_bytes(text, "x")


def test_the_variable_sets_the_limit(
    monkeypatch: pytest.MonkeyPatch, connect: Connect, dataset: Dataset, cache_dir: Path
) -> None:
    dataset.write(FILES)
    monkeypatch.setenv("DSX_CACHE_LIMIT", "50kB")
    list(connect(dataset.url).stream(dataset.name, cache=True))
    assert 0 < bytes_in(cache_dir, dataset) <= 50_000
    monkeypatch.setenv("DSX_CACHE_LIMIT", "much")
    with pytest.raises(InvalidRequestError, match="DSX_CACHE_LIMIT"):
        connect(dataset.url)


@pytest.mark.parametrize("limit", [-1, 1.5, "50GB", True])
def test_a_limit_that_is_no_number_of_bytes_is_refused(limit: object, connect: Connect, dataset: Dataset) -> None:
    with pytest.raises(InvalidRequestError, match="cache_limit_bytes"):
        connect(dataset.url, cache_limit_bytes=limit)
