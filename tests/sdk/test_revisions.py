"""Revisions: what is pinned stays what it was, and what has changed since is an error that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import dsx._manifests
from dsx import (
    ConflictError,
    DatasetHubClient,
    DownloadError,
    EntryNotFoundError,
    HubError,
    IntegrityError,
    InvalidPathError,
    InvalidRequestError,
    RevisionNotFoundError,
)

from .conftest import files_below
from .scripted import (
    HonestScript,
    ScriptedHub,
    answer,
    forget_query,
    md5_of_head,
)

OLD = {"a.png": b"old", "big.png": b"o" * 5000, "gone.png": b"g", "same.png": b"s" * 2000}
NEW = {"a.png": b"new", "big.png": b"n" * 5000, "more.png": b"m", "same.png": b"s" * 2000}
ROWS = [{"path": path, "size": len(OLD[path]), "hash": md5_of_head(OLD[path])} for path in sorted(OLD)]
NO_REVISION = "f" * 32

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def script() -> HonestScript:
    """A dataset that has changed since the revision `old`."""
    return HonestScript(OLD)


@pytest.fixture
def old(script: HonestScript) -> str:
    """The revision before the change."""
    revision = script.keep()
    script.files = dict(NEW)
    return revision


@pytest.fixture
def hub(start_scripted: Callable[..., ScriptedHub], script: HonestScript, old: str) -> ScriptedHub:
    """The hub that has it."""
    return start_scripted(script)


@pytest.fixture
def client(connect: Connect, hub: ScriptedHub) -> DatasetHubClient:
    """A client of it."""
    return connect(hub.url)


def test_newest_revision_takes_one_request(client: DatasetHubClient, hub: ScriptedHub, script: HonestScript) -> None:
    assert client.get_revision("cats") == script.keep()
    assert [request.target for request in hub.requests] == ["/datasets/cats"]


def test_revisions_come_newest_first(client: DatasetHubClient, script: HonestScript, old: str) -> None:
    new = script.keep()
    listed = client.list_revisions("cats")
    assert [(each.revision, each.entries, each.bytes) for each in listed] == [(new, 4, 7004), (old, 4, 7004)]


def test_diff_says_what_was_added_changed_and_removed(client: DatasetHubClient, script: HonestScript, old: str) -> None:
    diff = client.diff("cats", old, script.keep())
    assert (diff.added, diff.changed, diff.removed) == (["more.png"], ["a.png", "big.png"], ["gone.png"])


def test_manifest_of_a_revision_is_what_it_was(client: DatasetHubClient, old: str) -> None:
    assert client.get_manifest("cats", revision=old) == ROWS
    manifest = client.load_manifest("cats", revision=old)
    assert (manifest.revision, list(manifest.paths)) == (old, sorted(OLD))


@pytest.mark.parametrize("same_client", [True, False])
def test_pinned_manifest_is_asked_for_once(connect: Connect, hub: ScriptedHub, old: str, same_client: bool) -> None:
    first = connect(hub.url)
    first.load_manifest("cats", revision=old)
    second = first if same_client else connect(hub.url)
    assert second.get_manifest("cats", revision=old) == ROWS
    assert [request.query["revision"] for request in hub.requests] == [old]


def test_pinned_manifest_survives_the_hub(connect: Connect, hub: ScriptedHub, old: str) -> None:
    connect(hub.url).load_manifest("cats", revision=old)
    hub.stop()
    assert connect(hub.url).get_manifest("cats", revision=old) == ROWS


def test_pinned_manifest_leaves_the_newest_alone(
    client: DatasetHubClient, cache_dir: Path, old: str, script: HonestScript
) -> None:
    client.get_manifest("cats")
    before = files_below(cache_dir / ".dsx" / "manifests")
    client.get_manifest("cats", revision=old)
    after = files_below(cache_dir / ".dsx" / "manifests")
    assert set(after) == {"cats.json", f"cats@{old}.json"}
    assert after["cats.json"] == before["cats.json"]
    assert [row["path"] for row in json.loads((cache_dir / "cats_manifest.json").read_bytes())] == sorted(NEW)


def test_damaged_pinned_manifest_is_asked_for_anew(
    connect: Connect, hub: ScriptedHub, cache_dir: Path, old: str
) -> None:
    connect(hub.url).load_manifest("cats", revision=old)
    file = cache_dir / ".dsx" / "manifests" / f"cats@{old}.json"
    file.write_bytes(file.read_bytes().replace(b"5000", b"4000"))
    assert connect(hub.url).get_manifest("cats", revision=old) == ROWS


def test_only_a_few_pinned_manifests_are_held_in_memory(
    client: DatasetHubClient, script: HonestScript, hub: ScriptedHub, old: str
) -> None:
    revisions = [old]
    for number in range(10):
        script.files = {"a": bytes([number])}
        revisions.append(script.keep())
    for revision in revisions:
        client.load_manifest("cats", revision=revision)
    assert len(client._manifests._pinned) == dsx._manifests.PINNED_IN_MEMORY
    assert client.get_manifest("cats", revision=old) == ROWS
    assert len(hub.requests) == len(revisions)


def test_clear_cache_counts_and_deletes_pinned_manifests(
    client: DatasetHubClient, cache_dir: Path, hub: ScriptedHub, old: str
) -> None:
    client.load_manifest("cats", revision=old)
    size = (cache_dir / ".dsx" / "manifests" / f"cats@{old}.json").stat().st_size
    assert client.get_cache_size() == client.get_cache_size("cats") == size
    assert client.clear_cache("dogs") == 0
    assert client.clear_cache("cats") == size
    assert files_below(cache_dir / ".dsx" / "manifests") == {}
    client.load_manifest("cats", revision=old)
    assert len(hub.requests) == 2


def test_dataset_whose_name_looks_like_a_pinned_manifest_is_not_cached(client: DatasetHubClient, old: str) -> None:
    with pytest.raises(InvalidPathError, match="revision"):
        client.get_file(f"cats@{old}", "a.png")


CALLS: dict[str, Callable[[DatasetHubClient, str], object]] = {
    "get_manifest": lambda client, revision: client.get_manifest("cats", revision=revision),
    "load_manifest": lambda client, revision: client.load_manifest("cats", revision=revision),
    "get_file": lambda client, revision: client.get_file("cats", "a.png", revision=revision),
    "get_file_bytes": lambda client, revision: client.get_file_bytes("cats", "a.png", revision=revision),
    "download_dataset": lambda client, revision: client.download_dataset("cats", revision=revision),
    "diff": lambda client, revision: client.diff("cats", revision, revision),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("revision", [NO_REVISION, "latest", "", "../../x", "F" * 32, "0" * 33, "\n" * 32], ids=ascii)
def test_string_that_names_no_revision_is_an_error_that_names_the_list(
    client: DatasetHubClient, call: Callable[[DatasetHubClient, str], object], revision: str
) -> None:
    with pytest.raises(RevisionNotFoundError, match="list_revisions") as caught:
        call(client, revision)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("revision", [3, b"0" * 32], ids=repr)
def test_what_is_no_string_is_no_revision(
    client: DatasetHubClient, call: Callable[[DatasetHubClient, object], object], revision: object
) -> None:
    with pytest.raises(InvalidRequestError, match="revision"):
        call(client, revision)


def test_other_manifest_than_that_of_the_revision_is_refused(
    client: DatasetHubClient, script: HonestScript, cache_dir: Path, old: str
) -> None:
    script.states[old] = dict(NEW)
    with pytest.raises(IntegrityError, match=old):
        client.get_manifest("cats", revision=old)
    assert not (cache_dir / ".dsx" / "manifests").exists()


def test_bytes_of_an_entry_that_is_as_it_was(client: DatasetHubClient, old: str) -> None:
    assert client.get_file_bytes("cats", "same.png", revision=old) == OLD["same.png"]


def test_file_of_an_entry_that_is_as_it_was_is_fetched_once(
    client: DatasetHubClient, hub: ScriptedHub, old: str
) -> None:
    for _ in range(2):
        assert client.get_file("cats", "same.png", revision=old).read_bytes() == OLD["same.png"]
    assert [request.query for request in hub.of("GET", "/file")] == [{"revision": old}]


READS: dict[str, Callable[[DatasetHubClient, str, str], object]] = {
    "get_file": lambda client, path, revision: client.get_file("cats", path, revision=revision),
    "get_file_bytes": lambda client, path, revision: client.get_file_bytes("cats", path, revision=revision),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("path", ["a.png", "big.png", "gone.png"])
@pytest.mark.parametrize("is_old_hub", [False, True])
def test_entry_that_has_changed_is_a_conflict_that_names_it(
    client: DatasetHubClient,
    hub: ScriptedHub,
    script: HonestScript,
    read: Callable[[DatasetHubClient, str, str], object],
    path: str,
    old: str,
    is_old_hub: bool,
    cache_dir: Path,
) -> None:
    if is_old_hub:
        hub.script = forget_query(script)
    with pytest.raises(ConflictError, match=path):
        read(client, path, old)
    assert not (cache_dir / "cats" / path).exists()


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_entry_that_the_revision_has_not_is_not_found(
    client: DatasetHubClient, read: Callable[[DatasetHubClient, str, str], object], old: str, hub: ScriptedHub
) -> None:
    with pytest.raises(EntryNotFoundError, match=old):
        read(client, "more.png", old)
    assert hub.of("GET", "/file") == []


def test_new_file_in_the_cache_is_not_taken_for_the_old(client: DatasetHubClient, old: str) -> None:
    path = client.get_file("cats", "a.png")
    assert path.read_bytes() == b"new"
    with pytest.raises(ConflictError, match=r"a\.png"):
        client.get_file("cats", "a.png", revision=old)
    assert path.read_bytes() == b"new"


def test_old_file_in_the_cache_serves_the_revision_after_a_change(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, old: str
) -> None:
    script.files = dict(OLD)
    client.get_file("cats", "a.png")
    client.load_manifest("cats", revision=old)
    script.files = dict(NEW)
    hub.requests.clear()
    assert client.get_file("cats", "a.png", revision=old).read_bytes() == b"old"
    assert hub.requests == []


def test_newest_file_is_fetched_after_the_old_one(client: DatasetHubClient, script: HonestScript, old: str) -> None:
    script.files = dict(OLD)
    client.get_file("cats", "a.png", revision=old)
    script.files = dict(NEW)
    client.load_manifest("cats")
    assert client.get_file("cats", "a.png").read_bytes() == b"new"


@pytest.mark.parametrize("size", [3, 5000])
def test_file_of_ones_own_is_used_for_the_revision_only_if_it_is_the_same(
    client: DatasetHubClient, cache_dir: Path, script: HonestScript, hub: ScriptedHub, old: str, size: int
) -> None:
    path = {3: "a.png", 5000: "big.png"}[size]
    (cache_dir / "cats").mkdir(parents=True)
    (cache_dir / "cats" / path).write_bytes(NEW[path])
    hub.script = forget_query(script)
    with pytest.raises(OSError, match=path):
        client.get_file("cats", path, revision=old)
    assert (cache_dir / "cats" / path).read_bytes() == NEW[path]


def test_download_of_a_revision_gets_what_is_as_it_was_and_names_the_rest(
    client: DatasetHubClient, cache_dir: Path, old: str
) -> None:
    with pytest.raises(DownloadError) as caught:
        client.download_dataset("cats", revision=old)
    assert {path: type(error) for path, error in caught.value.failures.items()} == dict.fromkeys(
        ["a.png", "big.png", "gone.png"], ConflictError
    )
    assert (cache_dir / "cats" / "same.png").read_bytes() == OLD["same.png"]


def test_download_of_files_of_a_revision(client: DatasetHubClient, old: str) -> None:
    assert [path.read_bytes() for path in client.download_dataset("cats", ["same.png"], revision=old)] == [b"s" * 2000]
    with pytest.raises(EntryNotFoundError, match=r"more\.png"):
        client.download_dataset("cats", ["more.png"], revision=old)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_revision("cats"),
        lambda client: client.list_revisions("cats"),
        lambda client: client.diff("cats", NO_REVISION, NO_REVISION),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[[", b'{"revision": "../x"}', b'[{"revision": 1}]', b"\xff"])
def test_answer_that_is_none_is_an_error(
    client: DatasetHubClient, hub: ScriptedHub, call: Callable[[DatasetHubClient], object], body: bytes
) -> None:
    hub.script = lambda _: answer(200, body)
    with pytest.raises(HubError, match="older hub"):
        call(client)
