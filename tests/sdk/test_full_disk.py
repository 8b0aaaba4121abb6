"""A disk that is full, or a process that may not open more files: an error of our tree, and the next try works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import DatasetHubClient
from tests.conftest import KEY

from .conftest import Dataset, files_below, leftovers, run_python

FULL = """
    import resource, sys
    from dsx import CacheError, DatasetHubClient, DownloadError
    hub = DatasetHubClient(*sys.argv[1:4])
    hub.get_manifest(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))  # as a full disk: EFBIG
    try:
        hub.{call}
    except (CacheError, DownloadError) as error:
        print(type(error).__name__, str(error))
"""

NO_FILES = """
    import os, resource, sys
    import dsx._fetch
    from dsx import DatasetHubClient, DsxError
    dsx._fetch.TRANSFER_S = 0.5
    hub = DatasetHubClient(*sys.argv[1:4])
    hub.get_manifest(sys.argv[4])
    {before}
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, hard))
    try:
        hub.{call}
    except DsxError as error:
        print(type(error).__name__, "named" if "open files" in str(error) else error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(hub.get_file(sys.argv[4], "small").stat().st_size)
    hub.close()
"""


@pytest.fixture
def filled(dataset: Dataset) -> Dataset:
    """A dataset with files that fit and one that does not."""
    dataset.write({"a": b"1" * 5000, "big": b"2" * 4_000_000, "small": b"3" * 50})
    return dataset


def test_file_that_finds_no_room_is_a_cache_error(filled: Dataset, cache_dir: Path) -> None:
    code = FULL.format(call='get_file(sys.argv[4], "big")')
    assert run_python(code, filled.url, KEY, cache_dir, filled.name).startswith("CacheError")


def test_file_that_finds_no_room_does_not_lose_the_others(filled: Dataset, cache_dir: Path) -> None:
    code = FULL.format(call="download_dataset(sys.argv[4])")
    output = run_python(code, filled.url, KEY, cache_dir, filled.name)
    assert output.startswith("DownloadError")
    assert "'big'" in output
    assert files_below(cache_dir / filled.name) == {"a": b"1" * 5000, "small": b"3" * 50}


def test_next_try_works_when_there_is_room_again(
    filled: Dataset, cache_dir: Path, connect: Callable[..., DatasetHubClient]
) -> None:
    code = FULL.format(call='get_file(sys.argv[4], "big")').replace("except (", "except (OSError, ")
    run_python(code, filled.url, KEY, cache_dir, filled.name)
    assert connect(filled.url).get_file(filled.name, "big").read_bytes() == b"2" * 4_000_000
    assert leftovers(cache_dir) == []


@pytest.mark.parametrize(
    ("before", "call"),
    [("pass", 'get_file(sys.argv[4], "big")'), ("hub.close()", 'get_file_bytes(sys.argv[4], "big")')],
    ids=["get_file", "get_file_bytes"],
)
def test_lack_of_file_descriptors_is_an_error_of_our_tree_and_passes(
    filled: Dataset, cache_dir: Path, before: str, call: str
) -> None:
    output = run_python(NO_FILES.format(before=before, call=call), filled.url, KEY, cache_dir, filled.name)
    assert output.splitlines()[-1] == "50"
    assert "Error named" in output
