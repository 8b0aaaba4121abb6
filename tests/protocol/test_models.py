"""The wire models accept what a hub may say and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dsx.protocol.models import DatasetInfo, Health, ManifestColumns, ManifestEntry, ProblemDetail

HASH = "5d41402abc4b2a76b9719d911017c592"
ENTRY = {"path": "train/a.png", "size": 5, "hash": HASH}
COLUMNS = {
    "revision": "0" * 32,
    "paths": ["a", "b"],
    "sizes": [1, 2],
    "mtimes_ns": [3, -4],
    "hashes": [HASH, HASH],
    "digests": [None, "f" * 64],
}


def test_row_of_the_contract_is_accepted() -> None:
    entry = ManifestEntry.model_validate_json(json.dumps(ENTRY))
    assert (entry.path, entry.size, entry.hash) == ("train/a.png", 5, HASH)


def test_row_dumps_to_the_members_of_the_contract() -> None:
    assert ManifestEntry.model_validate(ENTRY).model_dump() == ENTRY


def test_member_that_a_newer_hub_adds_is_ignored() -> None:
    assert ManifestEntry.model_validate(ENTRY | {"colour": "red"}).model_dump() == ENTRY


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../x"},
        {"path": "/etc/passwd"},
        {"path": "a\\b"},
        {"path": ""},
        {"path": 3},
        {"path": None},
        {"size": -1},
        {"size": 2**63},
        {"size": "5"},
        {"size": 5.0},
        {"size": True},
        {"size": None},
        {"hash": HASH.upper()},
        {"hash": HASH[:-1]},
        {"hash": HASH + "\n"},
        {"hash": HASH + "0"},
        {"hash": ""},
        {"hash": None},
    ],
    ids=str,
)
def test_row_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ManifestEntry.model_validate_json(json.dumps(ENTRY | change))


@pytest.mark.parametrize("member", ["path", "size", "hash"])
def test_row_that_lacks_a_member_is_refused(member: str) -> None:
    with pytest.raises(ValidationError):
        ManifestEntry.model_validate({name: value for name, value in ENTRY.items() if name != member})


@given(st.integers(0, 2**63 - 1))
def test_any_size_that_a_file_can_have_is_accepted(size: int) -> None:
    assert ManifestEntry.model_validate(ENTRY | {"size": size}).size == size


def test_rows_cannot_be_changed() -> None:
    entry = ManifestEntry.model_validate(ENTRY)
    with pytest.raises(ValidationError):
        entry.size = 6  # type: ignore[misc]  # refused, which is the point


def test_manifest_of_rows_is_an_array() -> None:
    rows = TypeAdapter(list[ManifestEntry]).validate_json(json.dumps([ENTRY]))
    assert [row.path for row in rows] == ["train/a.png"]


def test_columns_are_accepted() -> None:
    columns = ManifestColumns.model_validate_json(json.dumps(COLUMNS))
    assert columns.model_dump() == COLUMNS


@pytest.mark.parametrize(
    "change",
    [
        {"paths": ["b", "a"]},
        {"paths": ["a", "a"]},
        {"paths": ["a"]},
        {"paths": ["a", "../b"]},
        {"sizes": [1]},
        {"sizes": [1, -2]},
        {"sizes": [1, 2, 3]},
        {"mtimes_ns": [3]},
        {"mtimes_ns": [3, 2**63]},
        {"hashes": [HASH]},
        {"hashes": [HASH, "x"]},
        {"digests": [None]},
        {"digests": [None, "f" * 63]},
        {"revision": "latest"},
        {"revision": None},
    ],
    ids=str,
)
def test_columns_that_are_wrong_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ManifestColumns.model_validate_json(json.dumps(COLUMNS | change))


def test_columns_of_an_empty_dataset_are_accepted() -> None:
    empty = {name: [] for name in COLUMNS if name != "revision"} | {"revision": "0" * 32}
    assert ManifestColumns.model_validate(empty).paths == []


@pytest.mark.parametrize(
    "change", [{"entries": -1}, {"bytes": -1}, {"name": "../x"}, {"left_out": {"name": "two"}}], ids=str
)
def test_dataset_info_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    info = {
        "name": "cats",
        "entries": 1,
        "bytes": 2,
        "revision": "0" * 32,
        "scanned_at": "2024-01-01T00:00:00+00:00",
        "left_out": {"name": 2},
    }
    assert DatasetInfo.model_validate(info).left_out == {"name": 2}
    with pytest.raises(ValidationError):
        DatasetInfo.model_validate(info | change)


def test_health_is_status_and_version() -> None:
    assert Health.model_validate({"status": "ok", "version": "1"}).model_dump() == {"status": "ok", "version": "1"}


def test_problem_without_a_request_id_leaves_it_out() -> None:
    problem = ProblemDetail(title="Unauthorized", status=401, detail="no key", code="unauthorized")
    assert json.loads(problem.model_dump_json(exclude_none=True)) == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "no key",
        "code": "unauthorized",
    }
