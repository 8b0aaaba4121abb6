"""``GET /manifest/{dataset}``: what a dataset holds, and whether it changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import HubProcess, write_files
from tests.hub.conftest import Answer, ask


@pytest.fixture
def folder(request: pytest.FixtureRequest, shared_served: Path) -> Path:
    """A dataset of the test's own on the shared hub."""
    path = shared_served / f"d{abs(hash(request.node.nodeid))}"
    path.mkdir()
    return path


@pytest.fixture
def get(shared_hub: HubProcess, folder: Path) -> Callable[..., Answer]:
    """Ask for the manifest of `folder`; keyword arguments are request headers."""

    def send(query: str = "", *, method: str = "GET", **headers: str) -> Answer:
        lines = [f"{key.replace('_', '-')}: {value}".encode("latin-1") for key, value in headers.items()]
        return ask(shared_hub, f"/manifest/{folder.name}{query}".encode(), method=method.encode(), headers=lines)

    return send


@pytest.fixture
def rows(get: Callable[..., Answer]) -> Callable[[], list[dict[str, Any]]]:
    """Read the manifest of `folder` as rows."""
    return lambda: json.loads(get().body)


@pytest.fixture
def paths(rows: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[str]]:
    """Read the paths of the manifest of `folder`."""
    return lambda: [row["path"] for row in rows()]


def test_manifest_is_the_array_of_the_contract(rows: Callable[[], list[dict[str, Any]]], folder: Path) -> None:
    write_files(folder, {"train/img_001.jpg": b"a" * 2000, "empty": b""})
    assert rows() == [
        {"path": "empty", "size": 0, "hash": hashlib.md5(b"").hexdigest()},
        {"path": "train/img_001.jpg", "size": 2000, "hash": hashlib.md5(b"a" * 1024).hexdigest()},
    ]


def test_manifest_of_an_empty_folder_is_an_empty_array(get: Callable[..., Answer]) -> None:
    answer = get()
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/json", b"[]")


def test_manifest_is_sorted_by_path(paths: Callable[[], list[str]], folder: Path) -> None:
    names = ["b", "a/z", "a-b", "a.b", "B", "\u00e9", "z", "\uffee", "\U0001f431", "a0"]
    write_files(folder, dict.fromkeys(names, b""))
    assert paths() == sorted(names)


def test_names_come_as_they_are_on_the_disk(paths: Callable[[], list[str]], folder: Path) -> None:
    names = ["x" * 255, "a b", "'\"", "#?%&+", "new\nline", "tab\t\x01", "\U0001f431", "</script>", "caf\u00e9"]
    write_files(folder, dict.fromkeys(names, b"x"))
    assert paths() == sorted(names)


def test_both_unicode_forms_of_a_name_are_two_entries(paths: Callable[[], list[str]], folder: Path) -> None:
    write_files(folder, {"caf\u00e9": b"1", "cafe\u0301": b"2"})
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system keeps only one Unicode form of a name")
    assert paths() == ["cafe\u0301", "caf\u00e9"]


def test_names_that_differ_in_case_are_two_entries(paths: Callable[[], list[str]], folder: Path) -> None:
    write_files(folder, {"a": b"1", "A": b"2"})
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system ignores case")
    assert paths() == ["A", "a"]


def test_dot_files_are_entries(paths: Callable[[], list[str]], folder: Path) -> None:
    write_files(folder, {".zarray": b"", ".zgroup/.zattrs": b"", "a": b""})
    assert paths() == [".zarray", ".zgroup/.zattrs", "a"]


def test_what_systems_leave_behind_is_not_listed(paths: Callable[[], list[str]], folder: Path) -> None:
    junk = [".DS_Store", "d/.DS_Store", "._a", "Thumbs.db", "desktop.ini", "@eaDir/a/b", "d/@eaDir/c"]
    write_files(folder, dict.fromkeys([*junk, "a", "DS_Store", "eaDir/x", ".-x"], b""))
    assert paths() == [".-x", "DS_Store", "a", "eaDir/x"]


@pytest.mark.skipif(os.name != "posix", reason="other systems cannot make such names")
def test_names_that_json_or_http_cannot_carry_are_left_out(paths: Callable[[], list[str]], folder: Path) -> None:
    write_files(folder, {"a": b""})
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")).write_bytes(b"")
    (folder / "back\\slash").write_bytes(b"")
    (folder / "folder\\").mkdir()
    (folder / "folder\\" / "below").write_bytes(b"")
    assert paths() == ["a"]


def test_very_deep_folders_are_listed(paths: Callable[[], list[str]], folder: Path) -> None:
    path = "/".join(["d"] * 200) + "/x"
    write_files(folder, {path: b""})
    assert paths() == [path]


def test_empty_folders_are_no_entries(paths: Callable[[], list[str]], folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    assert paths() == []


def test_every_entry_can_be_fetched_by_its_path(
    shared_hub: HubProcess, paths: Callable[[], list[str]], folder: Path
) -> None:
    names = ["a b", "#?%&+", "new\nline", "\U0001f431/\u00e9", "%41", "'\";", "...", "x" * 255]
    write_files(folder, {name: name.encode() for name in names})
    for path in paths():
        assert ask(shared_hub, f"/file/{folder.name}/{quote(path)}".encode()).body == path.encode()


def test_changes_are_seen_at_once(rows: Callable[[], list[dict[str, Any]]], folder: Path) -> None:
    (folder / "a").write_bytes(b"1")
    assert [row["path"] for row in rows()] == ["a"]
    (folder / "b").write_bytes(b"1")
    assert [row["path"] for row in rows()] == ["a", "b"]
    (folder / "a").unlink()
    assert [row["path"] for row in rows()] == ["b"]
    (folder / "b").write_bytes(b"2")
    assert rows()[0]["hash"] == hashlib.md5(b"2").hexdigest()


def test_rewrite_at_equal_size_and_mtime_is_seen_at_once(
    rows: Callable[[], list[dict[str, Any]]], folder: Path
) -> None:
    for number in range(10):
        data = b"%d" % number
        (folder / "a").write_bytes(data)
        os.utime(folder / "a", ns=(10**18, 10**18))
        assert rows()[0]["hash"] == hashlib.md5(data).hexdigest()


def test_manifest_has_a_weak_etag_that_stays_while_nothing_changes(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "a").write_bytes(b"1")
    etags = {get().headers["etag"] for _ in range(3)}
    assert len(etags) == 1
    assert etags.pop().startswith('W/"')


@pytest.mark.parametrize("change", ["add", "remove", "rename", "rewrite", "touch"])
def test_etag_changes_with_the_dataset(get: Callable[..., Answer], folder: Path, change: str) -> None:
    write_files(folder, {"a": b"1", "b": b"2"})
    before = get().headers["etag"]
    if change == "add":
        (folder / "c").write_bytes(b"")
    elif change == "remove":
        (folder / "b").unlink()
    elif change == "rename":
        (folder / "b").rename(folder / "c")
    elif change == "rewrite":
        (folder / "b").write_bytes(b"3")
    else:
        os.utime(folder / "b", (10**9, 10**9))
    assert get(if_none_match=before).status == 200
    assert get().headers["etag"] != before


def test_change_of_permissions_changes_nothing(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "a").write_bytes(b"1")
    before = get().headers["etag"]
    (folder / "a").chmod(0o600)
    assert get(if_none_match=before).status == 304


@pytest.mark.parametrize("form", ["{}", '"x", {}', '{}, W/"y"', "*", ", {}"])
def test_manifest_that_the_client_has_is_304_without_a_body(
    get: Callable[..., Answer], folder: Path, form: str
) -> None:
    (folder / "a").write_bytes(b"1")
    etag = get().headers["etag"]
    answer = get(if_none_match=form.format(etag))
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["vary"].lower() == "accept-encoding"


def test_strong_form_of_the_etag_matches_too(get: Callable[..., Answer], folder: Path) -> None:
    # RFC 9110, section 13.1.2: If-None-Match compares weakly.
    assert get(if_none_match=get().headers["etag"].removeprefix("W/")).status == 304


@pytest.mark.parametrize("value", ['W/"other"', "rubbish", '"'])
def test_other_etag_gets_the_manifest(get: Callable[..., Answer], folder: Path, value: str) -> None:
    (folder / "a").write_bytes(b"1")
    answer = get(if_none_match=value)
    assert (answer.status, len(json.loads(answer.body))) == (200, 1)


@pytest.mark.parametrize(
    "accept", ["gzip", "deflate, gzip", "GZIP", "gzip;q=0.5", "*", "gzip;q=1.000", "br;q=1.0, gzip ; q=0.1"]
)
def test_long_manifest_is_gzipped_for_who_takes_it(get: Callable[..., Answer], folder: Path, accept: str) -> None:
    write_files(folder, {f"{number:04}": b"" for number in range(100)})
    plain, packed = get(), get(accept_encoding=accept)
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body)
    assert packed.headers["vary"].lower() == "accept-encoding"


@pytest.mark.parametrize(
    "accept", ["", "identity", "deflate", "gzip;q=0", "gzip; q=0.000", "*;q=0", "gzip;q=0, *", "*, gzip;q=0", "notgzip"]
)
def test_manifest_is_plain_for_who_does_not_take_gzip(get: Callable[..., Answer], folder: Path, accept: str) -> None:
    # RFC 9110, section 12.5.3: q=0 is a refusal; "*" stands only for what is not named.
    write_files(folder, {f"{number:04}": b"" for number in range(100)})
    answer = get(accept_encoding=accept)
    assert "content-encoding" not in answer.headers
    assert len(json.loads(answer.body)) == 100
    assert answer.headers["vary"].lower() == "accept-encoding"


def test_columns_hold_what_the_rows_hold(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {"b": b"22", "a/c": b"1"})
    os.utime(folder / "b", ns=(10**18 + 7, 10**18 + 7))
    os.utime(folder / "a" / "c", ns=(-5, -5))
    answer = get("?format=columns")
    columns = json.loads(answer.body)
    assert columns.pop("revision") == answer.headers["etag"].removeprefix('W/"').partition(".")[0]
    assert columns == {
        "paths": ["a/c", "b"],
        "sizes": [1, 2],
        "mtimes_ns": [-5, 10**18 + 7],
        "hashes": [hashlib.md5(b"1").hexdigest(), hashlib.md5(b"22").hexdigest()],
        "digests": [None, None],
    }


def test_columns_of_an_empty_dataset_are_empty(get: Callable[..., Answer]) -> None:
    columns = json.loads(get("?format=columns").body)
    assert {name: value for name, value in columns.items() if name != "revision"} == {
        "paths": [],
        "sizes": [],
        "mtimes_ns": [],
        "hashes": [],
        "digests": [],
    }


def test_revision_is_the_hash_of_path_size_head_hash_and_mtime(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {"b": b"22", "a/c": b"1" * 3000})
    total = 0
    for name in ("a/c", "b"):
        data = (folder / name).read_bytes()
        head = hashlib.md5(data[:1024]).hexdigest()
        row = f"{name}\0{len(data)}\0{head}\0{(folder / name).stat().st_mtime_ns}"
        total += int.from_bytes(hashlib.sha256(row.encode()).digest(), "big")
    state = f"2\0{total % 2**256:064x}"
    assert json.loads(get("?format=columns").body)["revision"] == hashlib.sha256(state.encode()).hexdigest()[:32]


def test_other_format_is_422_and_says_which_there_are(get: Callable[..., Answer]) -> None:
    answer = get("?format=parquet")
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["code"] == "invalid_request"
    assert b"columns" in answer.body


@pytest.mark.parametrize("query", ["", "?format=columns"])
def test_head_has_the_headers_of_get_and_no_body(get: Callable[..., Answer], folder: Path, query: str) -> None:
    write_files(folder, {f"{number:04}": b"" for number in range(50)})
    of_get, of_head = get(query).headers, get(query, method="HEAD")
    changing = ("date", "x-request-id")
    assert (of_head.status, of_head.body) == (200, b"")
    assert {name: value for name, value in of_head.headers.items() if name not in changing} == {
        name: value for name, value in of_get.items() if name not in changing
    }


def test_unknown_dataset_is_404_and_names_those_there_are(shared_hub: HubProcess, folder: Path) -> None:
    answer = ask(shared_hub, b"/manifest/no-such-dataset")
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"], problem["status"]) == (404, "dataset_not_found", 404)
    assert "no-such-dataset" in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_dataset_that_was_removed_is_404(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "a").write_bytes(b"")
    assert get().status == 200
    (folder / "a").unlink()
    folder.rmdir()
    assert get().status == 404


@pytest.mark.parametrize("name", ["a b", "caf\u00e9", "#?%&+", "\U0001f431", "a:b", "line\nbreak"])
def test_dataset_may_have_any_name(shared_hub: HubProcess, shared_served: Path, name: str) -> None:
    write_files(shared_served / name, {"x": b"x"})
    answer = ask(shared_hub, f"/manifest/{quote(name)}".encode())
    assert [row["path"] for row in json.loads(answer.body)] == ["x"]
    assert ask(shared_hub, f"/file/{quote(name)}/x".encode()).body == b"x"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_other_methods_are_405_with_those_allowed(get: Callable[..., Answer], method: str) -> None:
    answer = get(method=method)
    assert answer.status == 405
    assert json.loads(answer.body)["code"] == "method_not_allowed"
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


def test_unreadable_file_is_left_out_and_counted(served: Path, powerless_hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"1", "b": b"2"})
    (served / "cats" / "b").chmod(0)
    assert [row["path"] for row in powerless_hub.get("/manifest/cats").json()] == ["a"]
    assert sum(powerless_hub.get("/datasets/cats").json()["left_out"].values()) == 1


def test_file_that_becomes_unreadable_is_never_answered_404(served: Path, powerless_hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"1"})
    assert len(powerless_hub.get("/manifest/cats").json()) == 1
    (served / "cats" / "a").chmod(0)
    assert powerless_hub.get("/file/cats/a").status_code == 500


def test_unreadable_dataset_is_an_error_and_never_an_empty_manifest(
    served: Path, powerless_hub: HubProcess, request: pytest.FixtureRequest
) -> None:
    write_files(served / "cats", {"a": b"1"})
    (served / "cats").chmod(0)
    request.addfinalizer(lambda: (served / "cats").chmod(0o755))
    assert powerless_hub.get("/manifest/cats").status_code == 500


def test_served_folder_that_has_gone_is_an_error_and_never_404(served: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"1"})
    assert hub.get("/manifest/cats").status_code == 200
    served.rename(served.with_name("elsewhere"))
    for target in ("/datasets", "/manifest/cats", "/file/cats/a"):
        assert hub.get(target).status_code >= 500
