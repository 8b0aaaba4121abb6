"""Names: those that any folder can hold, those that this system cannot, those that nobody may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import CacheError, DatasetHubClient, DsxError, InvalidPathError

from .conftest import Dataset, files_below
from .scripted import HonestScript, ScriptedHub

LONG = bytes(range(256)) * 20  # longer than what the head hash covers

Connect = Callable[..., DatasetHubClient]
Honest = tuple[ScriptedHub, HonestScript]


@pytest.fixture
def honest(start_honest: Callable[..., Honest]) -> Honest:
    """A scripted hub that has one entry, and its script."""
    return start_honest({"a/long": LONG})


NAMES = [
    "n" * 255,
    "ä" * 127,
    " leading and trailing ",
    "quote'\"s`",
    "#?%&+;=,@!$()*[]{}|^~<>:",
    "%41%2f%2e%2e",
    "new\nline\r\ttab\x07bell",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "cafe\N{COMBINING ACUTE ACCENT}",
    ".hidden",
    "...",
    "-rf",
    "x_manifest.json",
    "/".join(["deep"] * 40),
]


@pytest.mark.parametrize("knows_manifest", [True, False])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:9]))
def test_any_name_that_a_folder_can_hold(
    client: DatasetHubClient, dataset: Dataset, cache_dir: Path, name: str, knows_manifest: bool
) -> None:
    dataset.write({name: LONG})
    if knows_manifest:
        assert [row["path"] for row in client.get_manifest(dataset.name)] == [name]
    assert client.get_file(dataset.name, name) == cache_dir / dataset.name / name
    assert files_below(cache_dir / dataset.name) == {name: LONG}


@pytest.mark.parametrize("name", ["a b", "n" * 255, "ü'\"#?%&+", "new\nline", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_any_name_of_a_dataset(client: DatasetHubClient, dataset: Dataset, cache_dir: Path, name: str) -> None:
    folder = dataset.folder.with_name(name)
    folder.mkdir()
    (folder / "x").write_bytes(LONG)
    assert client.get_file(name, "x") == cache_dir / name / "x"
    assert (cache_dir / name / "x").read_bytes() == LONG
    shutil.rmtree(folder)


def test_two_unicode_forms_of_a_name_are_two_files(client: DatasetHubClient, dataset: Dataset) -> None:
    composed, decomposed = "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"
    dataset.write({composed: b"1", decomposed: b"2"})
    assert [client.get_file(dataset.name, name).read_bytes() for name in (composed, decomposed)] == [b"1", b"2"]


def test_names_that_the_file_system_takes_for_one_are_refused_naming_both(
    client: DatasetHubClient, dataset: Dataset
) -> None:
    dataset.write({"Read.me": b"1", "README.md": b"2", "readme.MD": b"3"})
    first = client.get_file(dataset.name, "README.md")
    os.link(first, first.with_name("readme.MD"))  # what a folding file system would show
    with pytest.raises(CacheError, match=r"(?s)readme\.MD.*README\.md"):
        client.get_file(dataset.name, "readme.MD")
    assert first.read_bytes() == b"2"


def test_names_that_only_differ_in_case_are_two_files_where_they_can_be(
    client: DatasetHubClient, dataset: Dataset
) -> None:
    dataset.write({"README.md": b"2", "readme.MD": b"3"})
    assert [client.get_file(dataset.name, name).read_bytes() for name in ("README.md", "readme.MD")] == [b"2", b"3"]


@pytest.mark.parametrize(
    "path", ["x" * 256, "x" + "é" * 127 + "y", "d/" * 2000 + "x" * 90], ids=["name", "bytes", "path"]
)
def test_name_that_this_system_cannot_hold_is_an_error_of_our_tree(
    connect: Connect, start_honest: Callable[..., Honest], path: str
) -> None:
    hub, _ = start_honest({path: LONG})
    with pytest.raises(DsxError, match=r"xx|x\S+y|d/d"):
        connect(hub.url).get_file("cats", path)


def test_very_deep_folder_can_be_held(connect: Connect, start_honest: Callable[..., Honest], cache_dir: Path) -> None:
    path = "d/" * 1100 + "x"
    hub, _ = start_honest({path: LONG})
    try:
        assert connect(hub.url).get_file("cats", path).read_bytes() == LONG
    finally:
        subprocess.run(["rm", "-rf", cache_dir], check=True)  # shutil's own recursion would end before the folders


BAD_DATASETS = ["", ".", "..", ".dsx", ".hidden", "a/b", "/a", "a/", "a\\b", "../a", "a\0", "\ud800", "x" * 300]


@pytest.mark.parametrize("name", BAD_DATASETS, ids=lambda name: ascii(name[:9]))
@pytest.mark.parametrize(
    "call",
    [
        lambda client, name: client.get_manifest(name),
        lambda client, name: client.get_file(name, "x"),
        lambda client, name: client.get_file_bytes(name, "x"),
        lambda client, name: client.download_dataset(name),
        lambda client, name: client.clear_cache(name),
        lambda client, name: client.get_cache_size(name),
    ],
    ids=["get_manifest", "get_file", "get_file_bytes", "download_dataset", "clear_cache", "get_cache_size"],
)
def test_name_that_can_be_no_dataset_is_refused(
    client: DatasetHubClient, call: Callable[[DatasetHubClient, str], object], name: str
) -> None:
    with pytest.raises(InvalidPathError):
        call(client, name)


def test_dataset_named_like_a_manifest_is_refused(client: DatasetHubClient, dataset: Dataset) -> None:
    with pytest.raises(InvalidPathError, match="get_file_bytes"):
        client.get_file("cats_manifest.json", "x")


BAD_PATHS = ["", ".", "..", "/x", "x/", "a//b", "a/./b", "a/../b", "../x", "a\\b", "x\0", "\ud800", "x" * 5000]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: ascii(path[:9]))
def test_path_that_leaves_the_dataset_is_refused_without_a_request(connect: Connect, honest: Honest, path: str) -> None:
    with pytest.raises(InvalidPathError):
        connect(honest[0].url).get_file("cats", path)
    assert honest[0].requests == []
