"""Many files in few requests, end to end: the real SDK against the real hub."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dsx import (
    AccessDeniedError,
    ConflictError,
    DatasetHubClient,
    DatasetNotFoundError,
    EntryNotFoundError,
    UnreadableError,
)
from dsx._ahead import Ahead
from dsx._reads import Origin, Read
from tests.conftest import KEY, HubProcess, write_files
from tests.sdk.conftest import WAIT_S, run_in_thread
from tests.sdk.proxy import Proxy

COUNT = 5000


def make_files(count: int = COUNT) -> dict[str, bytes]:
    """Make entries of 0 to 3,000 bytes in 50 folders; some names need care."""
    names = random.Random(3)
    files = {f"{n % 50:02}/{n:05} ü#%.bin": names.randbytes(names.randrange(3000)) for n in range(count)}
    return files | {"empty": b"", "quote'\"\n.txt": b"q"}


@pytest.fixture
def files(served: Path) -> dict[str, bytes]:
    """What the dataset ``cats`` holds."""
    files = make_files()
    write_files(served / "cats", files)
    return files


@pytest.fixture
def client(files: dict[str, bytes], hub: HubProcess) -> Iterator[DatasetHubClient]:
    """A client without a cache."""
    with DatasetHubClient(hub.url, KEY, cache_dir=None) as client:
        yield client


def shuffled(paths: list[str]) -> list[str]:
    random.Random(5).shuffle(paths)
    return paths


@pytest.mark.parametrize("is_loaded", [True, False], ids=["manifest loaded", "no manifest"])
def test_thousands_of_files_are_what_they_are_on_the_disk(
    client: DatasetHubClient, files: dict[str, bytes], is_loaded: bool
) -> None:
    if is_loaded:
        client.load_manifest("cats")
    paths = shuffled([*files, *list(files)[:100]])
    assert list(client.iter_file_bytes("cats", paths)) == [(path, files[path]) for path in paths]


def test_ranges_are_those_of_the_files(client: DatasetHubClient, files: dict[str, bytes]) -> None:
    numbers = random.Random(9)
    reads = []
    for path in shuffled(list(files)):
        start = numbers.randrange(3500)
        reads.append((path, start, start + numbers.randrange(2000)))
    assert client.read_ranges("cats", reads) == [files[path][start:stop] for path, start, stop in reads]


@pytest.mark.parametrize("is_loaded", [True, False], ids=["manifest loaded", "no manifest"])
def test_large_entries_among_small_ones(
    client: DatasetHubClient, served: Path, files: dict[str, bytes], is_loaded: bool
) -> None:
    sizes = [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20, 8 << 20, (8 << 20) + 1, 20 << 20]
    large = {f"{number * 7:02}/large {size}": random.Random(size).randbytes(size) for number, size in enumerate(sizes)}
    write_files(served / "cats", large)
    if is_loaded:
        client.load_manifest("cats")
    paths = sorted(files | large)[:1500] + list(large)
    for (path, data), wanted in zip(client.iter_file_bytes("cats", paths), paths, strict=True):
        assert path == wanted
        assert data == (files | large)[path]
    last = list(large)[-1]
    assert client.read_ranges("cats", [(last, 5, 2**63), (last, 0, 7)]) == [large[last][5:], large[last][:7]]


def test_hub_that_is_killed_and_started_again_in_the_middle_is_not_noticed(
    hub: HubProcess, files: dict[str, bytes]
) -> None:
    paths = shuffled(list(files) * 2)
    with ExitStack() as stack:
        proxy = Proxy(hub.port)
        stack.callback(proxy.stop)
        client = stack.enter_context(DatasetHubClient(proxy.url, KEY, cache_dir=None))
        proxy.hold_after(3_000_000)
        with run_in_thread(lambda: list(client.iter_file_bytes("cats", paths))) as get_result:
            assert proxy.held.wait(WAIT_S)
            asked = len(proxy.requests)
            hub.kill()
            hub.start()
            proxy.cut()
            proxy.release()
            assert get_result() == [(path, files[path]) for path in paths]
    assert len(proxy.requests) > asked


def test_entry_that_is_missing_among_thousands_is_named(
    client: DatasetHubClient, files: dict[str, bytes], served: Path
) -> None:
    paths = shuffled(list(files))
    (served / "cats" / paths[3000]).unlink()
    got = []
    with pytest.raises(EntryNotFoundError, match=paths[3000][:8]):
        got += client.iter_file_bytes("cats", paths)
    rest = paths[:3000] + paths[3001:]
    assert list(client.iter_file_bytes("cats", paths, on_error="skip")) == [(path, files[path]) for path in rest]
    with pytest.raises(EntryNotFoundError, match=paths[3000][:8]):
        client.read_ranges("cats", [(path, 0, 1) for path in paths])


def test_one_of_ten_thousand_entries_that_cannot_be_read_is_skipped_or_raised(
    powerless_hub: HubProcess, served: Path
) -> None:
    files = make_files(10_000)
    write_files(served / "cats", files)
    paths = shuffled(list(files))
    (served / "cats" / paths[7777]).chmod(0)
    with DatasetHubClient(powerless_hub.url, KEY, cache_dir=None) as client:
        client.load_manifest("cats")
        expected = [(path, files[path]) for path in paths if path != paths[7777]]
        assert list(client.iter_file_bytes("cats", paths, on_error="skip")) == expected
        results = client.iter_file_bytes("cats", paths)
        assert list(itertools.islice(results, 7777)) == expected[:7777]
        with pytest.raises(UnreadableError, match=paths[7777][:8]):
            next(results)


def test_key_that_is_revoked_in_the_middle_ends_what_is_left(hub: HubProcess, files: dict[str, bytes]) -> None:
    paths = shuffled(list(files) * 2)
    got: list[tuple[str, bytes]] = []
    with ExitStack() as stack:
        proxy = Proxy(hub.port)
        stack.callback(proxy.stop)
        client = stack.enter_context(DatasetHubClient(proxy.url, KEY, cache_dir=None))
        proxy.hold_after(3_000_000)
        with run_in_thread(lambda: got.extend(client.iter_file_bytes("cats", paths))) as get_result:
            assert proxy.held.wait(WAIT_S)
            hub.kill()
            hub.env["DSX_API_KEY"] = "another key than before"
            hub.start()
            proxy.cut()
            proxy.release()
            with pytest.raises(AccessDeniedError, match="did not accept the API key"):
                get_result()
    assert got == [(path, files[path]) for path in paths[: len(got)]]
    assert 0 < len(got) < len(paths)


def test_dataset_that_is_not_there_says_which_are(client: DatasetHubClient) -> None:
    with pytest.raises(DatasetNotFoundError, match="cats"):
        list(client.iter_file_bytes("dogs", ["a"], on_error="skip"))


def test_entries_that_change_while_they_are_read_are_one_version_or_the_other(
    start_hub: Callable[..., HubProcess], served: Path
) -> None:
    versions = [bytes([number]) * 200_000 for number in range(3)]
    paths = [f"{number:03}" for number in range(60)]
    write_files(served / "cats", dict.fromkeys(paths, versions[0]))
    with DatasetHubClient(start_hub().url, KEY, cache_dir=None) as client:
        for number, (path, data) in enumerate(client.iter_file_bytes("cats", paths * 3)):
            assert data in versions, path
            if number % 10 == 0:
                new = served / "new"
                new.write_bytes(versions[number // 10 % 3])
                new.replace(served / "cats" / paths[(number + 7) % 60])


def test_entries_of_a_revision_are_of_it_or_conflicts(
    client: DatasetHubClient, served: Path, files: dict[str, bytes]
) -> None:
    manifest = client.load_manifest("cats")
    paths = list(manifest.paths)[:20]
    changed, removed = paths[3], paths[7]
    (served / "cats" / changed).write_bytes(b"something else")
    (served / "cats" / removed).unlink()
    reads = (Read(path, None, manifest.find(path)) for path in paths)
    results = dict(Ahead(client._batches, Origin("cats", manifest.revision), reads).take())
    for read, result in results.items():
        if read.path in (changed, removed):
            assert isinstance(result, ConflictError)
            assert read.path in str(result)
        else:
            assert result == files[read.path]
