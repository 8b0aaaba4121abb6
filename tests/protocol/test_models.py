"""The wire models accept what a hub may say and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dsx.protocol.models import (
    BatchRequest,
    DatasetDiff,
    DatasetInfo,
    Health,
    ManifestColumns,
    ManifestRow,
    ProblemDetail,
    RevisionInfo,
)

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
    entry = ManifestRow.model_validate_json(json.dumps(ENTRY))
    assert (entry.path, entry.size, entry.hash) == ("train/a.png", 5, HASH)


def test_row_dumps_to_the_members_of_the_contract() -> None:
    assert ManifestRow.model_validate(ENTRY).model_dump() == ENTRY


def test_member_that_a_newer_hub_adds_is_ignored() -> None:
    assert ManifestRow.model_validate(ENTRY | {"colour": "red"}).model_dump() == ENTRY


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
        ManifestRow.model_validate_json(json.dumps(ENTRY | change))


@pytest.mark.parametrize("member", ["path", "size", "hash"])
def test_row_that_lacks_a_member_is_refused(member: str) -> None:
    with pytest.raises(ValidationError):
        ManifestRow.model_validate({name: value for name, value in ENTRY.items() if name != member})


@given(st.integers(0, 2**63 - 1))
def test_any_size_that_a_file_can_have_is_accepted(size: int) -> None:
    assert ManifestRow.model_validate(ENTRY | {"size": size}).size == size


def test_rows_cannot_be_changed() -> None:
    entry = ManifestRow.model_validate(ENTRY)
    with pytest.raises(ValidationError):
        entry.size = 6  # type: ignore[misc]  # refused, which is the point


def test_manifest_of_rows_is_an_array() -> None:
    rows = TypeAdapter(list[ManifestRow]).validate_json(json.dumps([ENTRY]))
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
    "change",
    [
        {"entries": -1},
        {"bytes": -1},
        {"name": "../x"},
        {"left_out": {"name": "two"}},
        {"revision": "latest"},
        {"scanning": "no"},
        {"digest_share": 1.5},
        {"digest_share": -0.1},
    ],
    ids=str,
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


def test_dataset_info_during_a_first_scan_has_no_revision() -> None:
    info = {"name": "cats", "entries": 7, "bytes": 2, "revision": None, "scanned_at": None, "scanning": True}
    read = DatasetInfo.model_validate_json(json.dumps(info | {"digest_share": 0.0, "left_out": {}}))
    assert (read.revision, read.scanned_at, read.scanning, read.entries) == (None, None, True, 7)


REVISION = {"revision": "0" * 32, "created_at": "2024-01-01T00:00:00+00:00", "entries": 1, "bytes": 2}


def test_revision_info_is_accepted() -> None:
    assert RevisionInfo.model_validate(REVISION).model_dump() == REVISION


@pytest.mark.parametrize(
    "change", [{"revision": "latest"}, {"entries": -1}, {"bytes": "2"}, {"created_at": 3}], ids=str
)
def test_revision_info_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RevisionInfo.model_validate(REVISION | change)


DIFF = {"from": "0" * 32, "to": "1" * 32, "added": ["a"], "changed": ["b"], "removed": []}


def test_diff_is_accepted_and_written_as_it_came() -> None:
    diff = DatasetDiff.model_validate_json(json.dumps(DIFF))
    assert (diff.from_revision, diff.to_revision) == ("0" * 32, "1" * 32)
    assert (diff.added, diff.changed, diff.removed) == (["a"], ["b"], [])
    assert diff.model_dump(by_alias=True) == DIFF


def test_diff_can_be_built_by_the_names_of_its_fields() -> None:
    diff = DatasetDiff(from_revision="0" * 32, to_revision="1" * 32, added=["a"], changed=["b"], removed=[])
    assert diff.model_dump(by_alias=True) == DIFF


@pytest.mark.parametrize("change", [{"from": "a"}, {"added": ["../x"]}, {"changed": "a"}, {"removed": None}], ids=str)
def test_diff_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DatasetDiff.model_validate_json(json.dumps(DIFF | change))


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


def test_batch_of_paths_and_batch_of_reads_are_accepted() -> None:
    paths = BatchRequest.model_validate_json('{"paths": ["a", "../b", ""], "revision": "r"}')
    assert (paths.paths, paths.reads, paths.revision) == (["a", "../b", ""], None, "r")
    reads = BatchRequest.model_validate_json(json.dumps({"reads": [["a", 0, 2**63], ["b", 5, 5]]}))
    assert (reads.paths, reads.reads) == (None, [("a", 0, 2**63), ("b", 5, 5)])


@given(start=st.integers(-(2**65), 2**65), stop=st.integers(-(2**65), 2**65))
def test_batch_takes_ranges_that_do_not_go_backwards(start: int, stop: int) -> None:
    text = json.dumps({"reads": [["a", start, stop]]})
    if 0 <= start <= stop <= 2**63:
        assert BatchRequest.model_validate_json(text).reads == [("a", start, stop)]
    else:
        with pytest.raises(ValidationError):
            BatchRequest.model_validate_json(text)


@pytest.mark.parametrize("batch", [{}, {"paths": [], "reads": []}, {"paths": None}, {"paths": [1]}, {"reads": [["a"]]}])
def test_what_is_no_batch_is_refused(batch: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BatchRequest.model_validate_json(json.dumps(batch))
