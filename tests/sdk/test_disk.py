"""Bringing files to the disk: all of them, in whichever way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import dsx._disk
from dsx._disk import SINGLE_FILES, sync_files


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were synced one by one, and ``all`` for the whole file system."""
    names: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)  # noqa: PTH115 -- a link of /proc
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(dsx._disk, "_syncfs", lambda: lambda _: names.append("all"))
    return names


def make_files(folder: Path, count: int) -> list[Path]:
    """Write small files."""
    files = [folder / f"f{number}" for number in range(count)]
    for file in files:
        file.write_bytes(b"1")
    return files


def test_few_files_are_synced_one_by_one(tmp_path: Path, synced: list[str]) -> None:
    sync_files(make_files(tmp_path, 3))
    assert synced == ["f0", "f1", "f2"]


def test_many_files_are_synced_with_their_file_system(tmp_path: Path, synced: list[str]) -> None:
    sync_files(make_files(tmp_path, SINGLE_FILES + 1))
    assert synced == ["all"]


def test_many_files_are_synced_one_by_one_where_there_is_no_such_call(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._disk, "_syncfs", lambda: None)
    sync_files(make_files(tmp_path, SINGLE_FILES + 1))
    assert len(synced) == SINGLE_FILES + 1


def test_files_that_are_gone_are_passed_over(tmp_path: Path, synced: list[str]) -> None:
    files = make_files(tmp_path, 3)
    files[1].unlink()
    sync_files(files)
    assert synced == ["f0", "f2"]


def test_folder_that_is_gone_does_not_keep_the_others_from_the_disk(tmp_path: Path, synced: list[str]) -> None:
    sync_files([tmp_path / "gone" / "x", *make_files(tmp_path, SINGLE_FILES + 1)])
    assert synced == ["all"] or len(synced) == SINGLE_FILES + 1


def test_nothing_to_sync_is_no_error(synced: list[str]) -> None:
    sync_files([])
    assert synced == []


@pytest.mark.parametrize("count", [1, SINGLE_FILES + 1])
def test_the_systems_own_calls_succeed(tmp_path: Path, count: int) -> None:
    files = make_files(tmp_path, count)
    sync_files(files)
    assert all(file.read_bytes() == b"1" for file in files)
