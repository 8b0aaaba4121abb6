"""``GET, HEAD /file`` as a client sees it: over a real socket, byte by byte."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsx_server.storage import LocalStorage
from dsx_server.storage.entries import LocalEntry
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import Answer, InProcessHub, ask, connect, format_request, parse_answer, receive_all, wait_until

DATA = bytes(range(256)) * 40
BIG = bytes(range(251)) * 40_000  # ten blocks
HUGE_BYTES = 64 * 1024 * 1024  # more than all buffers between hub and client hold


@pytest.fixture
def folder(request: pytest.FixtureRequest, shared_served: Path) -> Path:
    """A dataset of the test's own on the shared hub."""
    path = shared_served / f"d{abs(hash(request.node.nodeid))}"
    path.mkdir()
    return path


@pytest.fixture
def get(shared_hub: HubProcess, folder: Path) -> Callable[..., Answer]:
    """Ask for an entry of `folder`; keyword arguments are request headers."""

    def send(name: str, *, method: str = "GET", **headers: str) -> Answer:
        lines = [f"{key.replace('_', '-')}: {value}".encode("latin-1") for key, value in headers.items()]
        return ask(shared_hub, f"/file/{folder.name}/{quote(name)}".encode(), method=method.encode(), headers=lines)

    return send


def problem_code(answer: Answer) -> str:
    """Read the stable code of a problem answer."""
    assert answer.headers["content-type"] == "application/problem+json"
    return str(json.loads(answer.body)["code"])


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 256 * 1024, 256 * 1024 + 1, len(BIG)])
def test_body_is_the_file(get: Callable[..., Answer], folder: Path, size: int) -> None:
    (folder / "x").write_bytes(BIG[:size])
    answer = get("x")
    assert answer.status == 200
    assert answer.headers["content-length"] == str(size)
    assert answer.body == BIG[:size]


@pytest.mark.parametrize("size", [0, 5, 1024, 5000, len(BIG)])
def test_head_hash_is_the_md5_of_the_first_1024_bytes(get: Callable[..., Answer], folder: Path, size: int) -> None:
    (folder / "x").write_bytes(BIG[:size])
    assert get("x").headers["x-dsx-hash"] == hashlib.md5(BIG[: min(size, 1024)]).hexdigest()


def test_head_hash_of_a_range_is_that_of_the_file(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    assert get("x", range="bytes=5000-5009").headers["x-dsx-hash"] == hashlib.md5(DATA[:1024]).hexdigest()


@pytest.mark.parametrize("size", [0, 10, len(BIG)])
def test_head_has_the_headers_of_get_and_no_body(get: Callable[..., Answer], folder: Path, size: int) -> None:
    (folder / "x.png").write_bytes(BIG[:size])
    of_get, of_head = get("x.png").headers, get("x.png", method="HEAD")
    changing = ("date", "x-request-id", "repr-digest")  # the digest is known once a whole entry was sent
    assert of_head.status == 200
    assert of_head.body == b""
    assert {name: value for name, value in of_head.headers.items() if name not in changing} == {
        name: value for name, value in of_get.items() if name not in changing
    }


def test_head_ignores_a_range(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", method="HEAD", range="bytes=0-4")
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(DATA)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "image/png"),
        ("a.JPG", "image/jpeg"),
        ("a.json", "application/json"),
        ("a.txt", "text/plain"),
        ("a.csv", "text/csv"),
        ("a", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("a.csv.gz", "application/octet-stream"),
        ("a.tar.xz", "application/octet-stream"),
        (".png", "application/octet-stream"),
    ],
)
def test_content_type_follows_the_ending(get: Callable[..., Answer], folder: Path, name: str, expected: str) -> None:
    (folder / name).write_bytes(b"x")
    answer = get(name)
    assert answer.headers["content-type"].split(";")[0] == expected
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        "data:text/html,a.png",
        "data:text/html\r\nX-Injected: 1,a.png",
        "data:a/\u6f22,a.png",
        "data:a/b\x01,a.png",
        "http:a.png",
    ],
)
def test_name_that_looks_like_a_url_is_only_a_name(get: Callable[..., Answer], folder: Path, name: str) -> None:
    write_files(folder, {name: b"x"})
    answer = get(name)
    assert answer.status == 200
    assert answer.headers["content-type"] == "image/png"
    assert "x-injected" not in answer.headers


def test_browser_is_told_not_to_guess_the_type(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"<script>")
    assert get("x").headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "name",
    [
        "x" * 255,
        "\U0001f431" * 63,
        "a b.txt",
        "'single' \"double\".txt",
        "#?%&+=;,@!$.txt",
        "100%25.txt",
        "%2e%2e",
        "line\nbreak\r.txt",
        "tab\tbell\x07",
        "\U0001f431.png",
        "...",
        "-",
        "~",
        "a:b|c<d>e*",
        "deep/" * 30 + "x",
    ],
)
def test_any_name_a_file_can_have_is_served(get: Callable[..., Answer], folder: Path, name: str) -> None:
    write_files(folder, {name: name.encode()})
    answer = get(name)
    assert (answer.status, answer.body) == (200, name.encode())


def test_both_unicode_forms_of_a_name_are_two_files(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {"caf\u00e9": b"one character", "cafe\u0301": b"two characters"})
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system keeps only one Unicode form of a name")
    assert get("caf\u00e9").body == b"one character"
    assert get("cafe\u0301").body == b"two characters"


def test_path_may_be_sent_with_its_slashes_encoded(shared_hub: HubProcess, folder: Path) -> None:
    write_files(folder, {"a/b/c": b"deep"})
    assert ask(shared_hub, f"/file/{folder.name}/a%2Fb%2fc".encode()).body == b"deep"


def test_percent_encoding_is_undone_once_only(shared_hub: HubProcess, folder: Path) -> None:
    write_files(folder, {"%41": b"percent", "A": b"letter"})
    assert ask(shared_hub, f"/file/{folder.name}/%2541".encode()).body == b"percent"
    assert ask(shared_hub, f"/file/{folder.name}/%41".encode()).body == b"letter"


def test_plus_is_a_plus(get: Callable[..., Answer], shared_hub: HubProcess, folder: Path) -> None:
    write_files(folder, {"a+b": b"plus", "a b": b"space"})
    assert ask(shared_hub, f"/file/{folder.name}/a+b".encode()).body == b"plus"


def test_query_is_no_part_of_the_path(shared_hub: HubProcess, folder: Path) -> None:
    write_files(folder, {"a": b"a"})
    assert ask(shared_hub, f"/file/{folder.name}/a?x=../b".encode()).body == b"a"


def test_dot_file_is_an_entry(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {".zarray": b"{}", ".hidden/x": b"x"})
    assert get(".zarray").body == b"{}"
    assert get(".hidden/x").body == b"x"


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "._a.png",
        "Thumbs.db",
        "thumbs.DB",
        "desktop.ini",
        "@eaDir/a.png",
        "a/.DS_Store",
        "._d/x",
        ".ds_store",
    ],
)
def test_what_systems_leave_behind_is_not_served(get: Callable[..., Answer], folder: Path, name: str) -> None:
    write_files(folder, {name: b"junk"})
    answer = get(name)
    assert (answer.status, problem_code(answer)) == (404, "entry_not_found")


def test_file_is_served_as_soon_as_it_is_there(get: Callable[..., Answer], folder: Path) -> None:
    assert get("x").status == 404
    (folder / "x").write_bytes(b"new")
    assert get("x").body == b"new"


def test_missing_entry_is_404_and_named(get: Callable[..., Answer], folder: Path) -> None:
    answer = get("a/missing.png")
    assert (answer.status, problem_code(answer)) == (404, "entry_not_found")
    assert b"a/missing.png" in answer.body


def test_missing_dataset_is_404_and_the_others_are_named(shared_hub: HubProcess, folder: Path) -> None:
    answer = ask(shared_hub, b"/file/no-such-dataset/x")
    assert (answer.status, problem_code(answer)) == (404, "dataset_not_found")
    assert b"no-such-dataset" in answer.body


def test_folder_is_no_entry(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {"a/b": b"x"})
    assert get("a").status == 404


def test_path_through_a_file_is_404(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {"a": b"x"})
    assert get("a/b").status == 404


def test_name_longer_than_the_system_allows_is_404(get: Callable[..., Answer], folder: Path) -> None:
    assert get("x" * 256).status == 404


def test_path_with_a_slash_at_its_end_names_no_file(get: Callable[..., Answer], folder: Path) -> None:
    write_files(folder, {"a": b"x"})
    assert get("a/").status == 400


@pytest.mark.parametrize("target", ["/file", "/file/", "/file/{}", "/file/{}/", "/file//a"])
def test_target_without_dataset_and_path_is_404(shared_hub: HubProcess, folder: Path, target: str) -> None:
    answer = ask(shared_hub, target.format(folder.name).encode())
    assert (answer.status, problem_code(answer)) == (404, "route_not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405_with_those_allowed(get: Callable[..., Answer], folder: Path, method: str) -> None:
    (folder / "x").write_bytes(b"x")
    answer = get("x", method=method)
    assert (answer.status, problem_code(answer)) == (405, "method_not_allowed")
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD"}
    assert (folder / "x").read_bytes() == b"x"


def test_unreadable_file_is_500_and_never_404(
    served: Path, powerless_hub: HubProcess, request: pytest.FixtureRequest
) -> None:
    write_files(served / "cats", {"closed": b"x", "below/open": b"y"})
    (served / "cats" / "closed").chmod(0)
    (served / "cats" / "below").chmod(0)
    request.addfinalizer(lambda: (served / "cats" / "below").chmod(0o755))
    for name in ("closed", "below/open"):
        answer = ask(powerless_hub, f"/file/cats/{name}".encode())
        assert (answer.status, problem_code(answer)) == (500, "unreadable")
        assert name.encode() in answer.body


def test_read_error_in_a_short_file_is_500(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    write_files(served / "cats", {"x": b"x" * 100})
    hub = start_in_process(FaultyStorage(served, fails_from=0))
    answer = ask(hub, b"/file/cats/x")
    assert (answer.status, problem_code(answer)) == (500, "unreadable")


def test_read_error_in_a_long_file_breaks_the_connection(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    write_files(served / "cats", {"x": BIG})
    hub = start_in_process(FaultyStorage(served, fails_from=3_000_000))
    answer = ask(hub, b"/file/cats/x")
    assert answer.status == 200
    assert not answer.is_whole
    assert BIG.startswith(answer.body)


class FaultyEntry(LocalEntry):
    """A file whose disk is broken from some byte on."""

    def __init__(self, descriptor: int, path: str, fails_from: int) -> None:
        super().__init__(descriptor, path)
        self._fails_from = fails_from

    def read(self, start: int, stop: int) -> bytes:
        if stop <= self._fails_from:
            return super().read(start, stop)
        with LocalEntry(os.open("/", os.O_RDONLY), "x") as no_file:
            return no_file.read(start, stop)  # EISDIR


class FaultyStorage(LocalStorage):
    """Real files on a disk that is broken from some byte on."""

    def __init__(self, served: Path, fails_from: int) -> None:
        super().__init__(served)
        self._fails_from = fails_from

    def open(self, dataset: str, path: str) -> LocalEntry:
        with super().open(dataset, path) as entry:
            return FaultyEntry(os.dup(entry._descriptor), path, self._fails_from)


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 10240),
        ("bytes=5-9", 5, 10),
        ("bytes=10239-", 10239, 10240),
        ("bytes=10000-99999", 10000, 10240),
        ("bytes=-1", 10239, 10240),
        ("bytes=-99999", 0, 10240),
        ("bytes=0-" + "9" * 5000, 0, 10240),
    ],
)
def test_range_is_206_with_its_bytes(
    get: Callable[..., Answer], folder: Path, value: str, start: int, stop: int
) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", range=value)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/10240"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.body == DATA[start:stop]


def test_long_range_is_sent_in_full(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(BIG)
    answer = get("x", range="bytes=1000000-8999999")
    assert (answer.status, answer.body) == (206, BIG[1_000_000:9_000_000])


@pytest.mark.parametrize("value", ["bytes=10240-", "bytes=10240-10250", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_range_past_the_end_is_416_and_says_the_size(get: Callable[..., Answer], folder: Path, value: str) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", range=value)
    assert (answer.status, problem_code(answer)) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */10240"


@pytest.mark.parametrize(
    "value",
    ["bytes=0-1,4-5", "lines=0-1", "bytes=5-4", "bytes=", "bytes=-", "rubbish", "bytes=0-1;2", "bytes=\xb2-3"],
)
def test_range_that_is_not_one_plain_range_is_ignored(get: Callable[..., Answer], folder: Path, value: str) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", range=value)
    assert (answer.status, answer.body) == (200, DATA)
    assert "content-range" not in answer.headers


def test_ten_thousand_ranges_are_ignored(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", range="bytes=" + ",".join(["0-"] * 10_000))
    assert answer.status in (200, 400, 431)
    assert answer.body == DATA or answer.status != 200


def test_two_range_headers_are_ignored(shared_hub: HubProcess, folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    headers = [b"Range: bytes=0-1", b"Range: bytes=4-5"]
    answer = ask(shared_hub, f"/file/{folder.name}/x".encode(), headers=headers)
    assert (answer.status, answer.body) == (200, DATA)


@pytest.mark.parametrize(
    ("value", "status"), [("bytes=0-", 416), ("bytes=0-5", 416), ("bytes=-0", 416), ("bytes=-5", 200)]
)
def test_range_of_an_empty_file_never_gives_a_206(
    get: Callable[..., Answer], folder: Path, value: str, status: int
) -> None:
    (folder / "x").write_bytes(b"")
    answer = get("x", range=value)
    assert answer.status == status
    assert status == 200 or answer.headers["content-range"] == "bytes */0"


def test_ranges_are_offered(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    assert get("x").headers["accept-ranges"] == "bytes"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 10_300), length=st.integers(1, 10_300))
def test_any_range_is_a_slice(get: Callable[..., Answer], folder: Path, first: int, length: int) -> None:
    if not (folder / "x").exists():
        (folder / "x").write_bytes(DATA)
    answer = get("x", range=f"bytes={first}-{first + length - 1}")
    assert answer.status == (206 if first < len(DATA) else 416)
    if answer.status == 206:
        assert answer.body == DATA[first : first + length]


def test_etag_is_strong_and_quoted(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    etag = get("x").headers["etag"]
    assert etag.startswith('"')
    assert etag.endswith('"')
    assert etag.strip('"').isprintable()


def test_etag_stays_while_the_file_does(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    etags = {
        get("x").headers["etag"],
        get("x", method="HEAD").headers["etag"],
        get("x", range="bytes=1-2").headers["etag"],
    }
    assert len(etags) == 1


def test_every_rewrite_at_equal_size_and_mtime_gets_an_etag_of_its_own(
    get: Callable[..., Answer], folder: Path
) -> None:
    seen = {}
    for number in range(20):
        data = b"%04d" % number
        (folder / "x").write_bytes(data)
        os.utime(folder / "x", ns=(10**18, 10**18))
        answer = get("x")
        assert answer.body == data
        seen[answer.headers["etag"]] = data
    assert len(seen) == 20


def test_file_swapped_for_one_of_equal_size_and_mtime_gets_another_etag(
    get: Callable[..., Answer], folder: Path
) -> None:
    for name in ("x", "other"):
        (folder / name).write_bytes(name[0].encode() * 10)
        os.utime(folder / name, ns=(10**18, 10**18))
    before = get("x").headers["etag"]
    (folder / "other").replace(folder / "x")
    assert get("x").headers["etag"] != before


@pytest.mark.parametrize("modified_s", [0, 1, 784_111_777, 1_700_000_000])
def test_last_modified_is_the_mtime(get: Callable[..., Answer], folder: Path, modified_s: int) -> None:
    (folder / "x").write_bytes(b"x")
    os.utime(folder / "x", (modified_s, modified_s))
    assert get("x").headers["last-modified"] == formatdate(modified_s, usegmt=True)


@pytest.mark.parametrize("modified_s", [2**33, 15_000_000_000])
def test_mtime_in_the_future_is_given_as_now(get: Callable[..., Answer], folder: Path, modified_s: int) -> None:
    # RFC 9110, section 8.8.2.1: no Last-Modified later than the time of the answer.
    (folder / "x").write_bytes(b"x")
    os.utime(folder / "x", (modified_s, modified_s))
    answer = get("x")
    assert parsedate_to_datetime(answer.headers["last-modified"]).timestamp() <= time.time()
    assert answer.body == b"x"


@pytest.mark.parametrize("modified_s", [-1, -(2**31)])
def test_file_from_before_1970_is_served(get: Callable[..., Answer], folder: Path, modified_s: int) -> None:
    (folder / "x").write_bytes(b"x")
    os.utime(folder / "x", (modified_s, modified_s))
    answer = get("x", if_modified_since="Thu, 01 Jan 1970 00:00:00 GMT")
    assert answer.status in (200, 304)
    assert get("x").body == b"x"
    assert parsedate_to_datetime(get("x").headers["last-modified"]).timestamp() <= 0


def test_matching_if_none_match_is_304_without_a_body(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    etag = get("x").headers["etag"]
    answer = get("x", if_none_match=f'"other", W/{etag}')
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == etag


def test_304_leaves_the_connection_usable(shared_hub: HubProcess, folder: Path) -> None:
    (folder / "x").write_bytes(b"body")
    target = f"/file/{folder.name}/x".encode()
    with connect(shared_hub) as connection:
        connection.sendall(format_request(target, headers=[b"If-None-Match: *"], close=False) + format_request(target))
        raw = receive_all(connection)
    first, second = raw.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"304", b"200")
    assert second.endswith(b"\r\n\r\nbody")


def test_if_none_match_goes_before_if_modified_since(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    os.utime(folder / "x", (10**9, 10**9))
    now = formatdate(usegmt=True)
    assert get("x", if_modified_since=now).status == 304
    assert get("x", if_none_match='"other"', if_modified_since=now).status == 200
    assert get("x", if_none_match=get("x").headers["etag"], if_modified_since=formatdate(0, usegmt=True)).status == 304


def test_last_modified_sent_back_is_304(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    os.utime(folder / "x", ns=(10**18 + 999_999_999, 10**18 + 999_999_999))
    assert get("x", if_modified_since=get("x").headers["last-modified"]).status == 304


def test_if_match_of_another_version_is_412(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    etag = get("x").headers["etag"]
    (folder / "x").write_bytes(b"new")
    answer = get("x", if_match=etag)
    assert (answer.status, problem_code(answer)) == (412, "precondition_failed")


def test_if_match_of_this_version_is_served(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    etag = get("x").headers["etag"]
    answer = get("x", if_match=etag, range="bytes=10-19")
    assert (answer.status, answer.body) == (206, DATA[10:20])


def test_if_match_of_a_missing_entry_is_404(get: Callable[..., Answer]) -> None:
    assert get("x", if_match="*").status == 404


def test_if_unmodified_since_an_earlier_time_is_412(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    os.utime(folder / "x", (10**9, 10**9))
    assert get("x", if_unmodified_since=formatdate(10**9 - 1, usegmt=True)).status == 412
    assert get("x", if_unmodified_since=formatdate(10**9, usegmt=True)).status == 200


def test_if_range_with_the_etag_gives_the_range(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", range="bytes=10-19", if_range=get("x").headers["etag"])
    assert (answer.status, answer.body) == (206, DATA[10:20])


@pytest.mark.parametrize("value", ['"other"', 'W/"other"', "rubbish", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_if_range_of_another_version_gives_the_whole(get: Callable[..., Answer], folder: Path, value: str) -> None:
    (folder / "x").write_bytes(DATA)
    answer = get("x", range="bytes=10-19", if_range=value)
    assert (answer.status, answer.body) == (200, DATA)


def test_if_range_with_the_weakened_etag_gives_the_whole(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(DATA)
    assert get("x", range="bytes=10-19", if_range=f"W/{get('x').headers['etag']}").status == 200


def test_if_range_by_date_never_joins_versions_of_one_second(get: Callable[..., Answer], folder: Path) -> None:
    # RFC 9110, section 8.8.2.2: a date is a strong validator only where no second change can have the same date.
    path = folder / "x"
    for _ in range(5):
        path.write_bytes(b"old" * 100)
        first = get("x")
        path.write_bytes(b"new" * 100)
        second = get("x", range="bytes=100-", if_range=first.headers["last-modified"])
        if get("x").headers["last-modified"] == first.headers["last-modified"]:
            assert (second.status, second.body) == (200, b"new" * 100)
            return
    pytest.fail("two writes never fell into one second")


def test_if_range_by_date_never_joins_versions_whose_mtime_was_set(get: Callable[..., Answer], folder: Path) -> None:
    path = folder / "x"
    path.write_bytes(b"old" * 100)
    os.utime(path, (10**9, 10**9))
    date = get("x").headers["last-modified"]
    path.write_bytes(b"new" * 100)
    os.utime(path, (10**9, 10**9))
    answer = get("x", range="bytes=100-", if_range=date)
    assert (answer.status, answer.body) == (200, b"new" * 100)


def expected_digest(data: bytes) -> str:
    return "sha-256=:" + base64.b64encode(hashlib.sha256(data).digest()).decode() + ":"


@pytest.mark.parametrize("size", [0, 5, 256 * 1024])
def test_digest_of_a_short_file_comes_when_wanted(get: Callable[..., Answer], folder: Path, size: int) -> None:
    (folder / "x").write_bytes(BIG[:size])
    assert "repr-digest" not in get("x", range="bytes=0-0", method="HEAD").headers
    assert get("x", want_repr_digest="sha-256=10").headers["repr-digest"] == expected_digest(BIG[:size])


@pytest.mark.parametrize("size", [0, 5, len(BIG)])
def test_head_always_gives_the_digest_that_it_is_asked_for(get: Callable[..., Answer], folder: Path, size: int) -> None:
    (folder / "x").write_bytes(BIG[:size])
    answer = get("x", method="HEAD", want_repr_digest="sha-256=10")
    assert (answer.headers["repr-digest"], answer.body) == (expected_digest(BIG[:size]), b"")


def test_digest_of_a_range_is_that_of_the_whole_file(get: Callable[..., Answer], folder: Path) -> None:
    # RFC 9530, section 3: the representation, not the part that is sent.
    (folder / "x").write_bytes(DATA)
    get("x", method="HEAD", want_repr_digest="sha-256=10")
    answer = get("x", range="bytes=10-19", want_repr_digest="sha-256=10")
    assert (answer.status, answer.headers["repr-digest"]) == (206, expected_digest(DATA))


def test_digest_follows_a_change_of_the_file(get: Callable[..., Answer], folder: Path) -> None:
    for data in (b"old", b"new"):
        (folder / "x").write_bytes(data)
        assert get("x", want_repr_digest="sha-256=10").headers["repr-digest"] == expected_digest(data)


def test_digest_that_is_refused_is_not_computed(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(b"x")
    assert "repr-digest" not in get("x", method="HEAD", want_repr_digest="sha-256=0").headers


def test_digest_of_what_is_served_whole_is_known_though_nobody_asked(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(BIG)
    assert get("x").body == BIG
    wait_until(lambda: "repr-digest" in get("x", range="bytes=0-0").headers, "the digest was kept")
    assert get("x", range="bytes=0-0").headers["repr-digest"] == expected_digest(BIG)


def test_long_file_sent_once_has_its_digest_known(get: Callable[..., Answer], folder: Path) -> None:
    (folder / "x").write_bytes(BIG)
    assert get("x", want_repr_digest="sha-256=10").body == BIG
    wait_until(lambda: "repr-digest" in get("x", range="bytes=0-0").headers, "the digest was kept")
    assert get("x", range="bytes=0-0").headers["repr-digest"] == expected_digest(BIG)


def change_by_shrinking(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(HUGE_BYTES // 2)


def change_by_growing(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"B" * 1_000_000)


def change_by_overwriting(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(HUGE_BYTES // 2)
        file.write(b"B" * (HUGE_BYTES // 2))


def change_by_replacing(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(b"B" * HUGE_BYTES)
    other.replace(path)


def change_by_removing(path: Path) -> None:
    path.unlink()


def change_by_rewriting(path: Path) -> None:
    path.write_bytes(b"B" * HUGE_BYTES)
    os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize(
    "change",
    [
        change_by_shrinking,
        change_by_growing,
        change_by_overwriting,
        change_by_replacing,
        change_by_removing,
        change_by_rewriting,
    ],
)
def test_whole_answer_never_mixes_two_contents(
    shared_hub: HubProcess, folder: Path, change: Callable[[Path], None]
) -> None:
    path = folder / "x"
    path.write_bytes(b"A" * HUGE_BYTES)
    os.utime(path, ns=(10**18, 10**18))
    with connect(shared_hub) as connection:
        connection.sendall(format_request(f"/file/{folder.name}/x".encode()))
        begin = connection.recv(1000)
        change(path)
        answer = parse_answer(begin + receive_all(connection))
    path.unlink(missing_ok=True)
    assert answer.status == 200
    assert len(answer.body) <= HUGE_BYTES
    assert not answer.is_whole or answer.body == b"A" * HUGE_BYTES


def test_hub_serves_the_new_content_after_it_broke_off_the_old(shared_hub: HubProcess, folder: Path) -> None:
    path = folder / "x"
    path.write_bytes(b"A" * HUGE_BYTES)
    target = f"/file/{folder.name}/x".encode()
    with connect(shared_hub) as connection:
        connection.sendall(format_request(target))
        connection.recv(1000)
        change_by_shrinking(path)
        receive_all(connection)
    assert ask(shared_hub, target).body == b"A" * (HUGE_BYTES // 2)


class RewrittenEntry(LocalEntry):
    """A file that somebody rewrites in place while its middle is read."""

    def __init__(self, descriptor: int, path: str, rewrite: Callable[[], None]) -> None:
        super().__init__(descriptor, path)
        self._rewrite = rewrite

    def read(self, start: int, stop: int) -> bytes:
        middle = (start + stop) // 2
        half = super().read(start, middle)
        self._rewrite()
        return half + super().read(middle, stop)


class RewrittenStorage(LocalStorage):
    """Real files, rewritten with the next of ``contents`` whenever one is read; at rest when there is none left."""

    def __init__(self, served: Path, contents: list[bytes]) -> None:
        super().__init__(served)
        self._file = served / "cats" / "x"
        self._contents = contents

    def _rewrite(self) -> None:
        if self._contents:
            self._file.write_bytes(self._contents.pop(0))

    def open(self, dataset: str, path: str) -> LocalEntry:
        with super().open(dataset, path) as entry:
            return RewrittenEntry(os.dup(entry._descriptor), path, self._rewrite)


def test_short_file_rewritten_while_it_is_read_is_read_again(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    write_files(served, {"cats/x": b"A" * 1000})
    hub = start_in_process(RewrittenStorage(served, [b"B" * 1000]))
    assert ask(hub, b"/file/cats/x").body == b"B" * 1000


def test_short_file_rewritten_at_every_read_is_a_conflict(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    write_files(served, {"cats/x": b"A" * 1000})
    hub = start_in_process(RewrittenStorage(served, [b"B" * 1000, b"A" * 1000] * 50))
    answer = ask(hub, b"/file/cats/x")
    assert (answer.status, problem_code(answer)) == (409, "conflict")


def test_digest_of_a_file_rewritten_while_it_is_read_is_that_of_what_is_sent(
    served: Path, start_in_process: Callable[[LocalStorage], InProcessHub]
) -> None:
    write_files(served, {"cats/x": b"A" * 1000})
    hub = start_in_process(RewrittenStorage(served, [b"B" * 1000]))
    answer = ask(hub, b"/file/cats/x", headers=[b"Want-Repr-Digest: sha-256=10"])
    assert answer.headers["repr-digest"] == expected_digest(answer.body) == expected_digest(b"B" * 1000)


def test_client_that_goes_away_leaves_no_file_open(shared_hub: HubProcess, folder: Path) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("open files can be counted only where there is /proc")
    (folder / "x").write_bytes(b"A" * HUGE_BYTES)
    for _ in range(5):
        with connect(shared_hub) as connection:
            connection.sendall(format_request(f"/file/{folder.name}/x".encode()))
            connection.recv(1000)
    open_files = Path(f"/proc/{shared_hub.process.pid}/fd")

    def is_closed() -> bool:
        targets = []
        for descriptor in open_files.iterdir():
            try:
                targets.append(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
        return not any(folder.name in target for target in targets)

    wait_until(is_closed, "the file was closed")
