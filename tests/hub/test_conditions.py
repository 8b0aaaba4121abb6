"""Ranges and preconditions as RFC 9110 has them, without a socket."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsx_server.routes.conditions import Validators, decide, matches_weakly, parse_range, parse_tags

ETAG = '"0123456789abcdef"'
MODIFIED_S = 784_111_777  # Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110, section 5.6.7
VALIDATORS = Validators(etag=ETAG, modified_s=MODIFIED_S)
BEFORE = formatdate(MODIFIED_S - 1, usegmt=True)
SAME = formatdate(MODIFIED_S, usegmt=True)
AFTER = formatdate(MODIFIED_S + 1, usegmt=True)

digits = st.one_of(
    st.integers(0, 30).map(str),
    st.integers(0, 10**25).map(str),
    st.integers(0, 30).map(lambda number: f"000{number}"),
    st.just(""),
)


def to_number(text: str) -> int:
    """Read digits of any length; ``int`` alone stops at 4,300."""
    number = 0
    for start in range(0, len(text), 1000):
        chunk = text[start : start + 1000]
        number = number * 10 ** len(chunk) + int(chunk)
    return number


def expected_range(first: str, last: str, size: int) -> tuple[int, int] | str | None:
    """RFC 9110, section 14.1.2, once more: half-open range, "unsatisfiable", or None for "ignore"."""
    if first == "":
        if last == "":
            return None
        wanted = to_number(last)
        if wanted == 0:
            return "unsatisfiable"
        return (size - min(wanted, size), size) if size else None
    if last != "" and to_number(last) < to_number(first):
        return None
    if to_number(first) >= size:
        return "unsatisfiable"
    return to_number(first), size if last == "" else min(to_number(last) + 1, size)


@given(first=digits, last=digits, size=st.integers(0, 40))
@example(first="0", last="0", size=1)
@example(first="", last="0", size=10)
@example(first="9" * 19, last="1" + "0" * 19, size=10)
@example(first="1" + "0" * 5000, last="1" + "0" * 4999, size=10)
@example(first="1" + "0" * 4999, last="1" + "0" * 5000, size=10)
def test_range_is_what_the_rfc_says(first: str, last: str, size: int) -> None:
    expected = expected_range(first, last, size)
    found = parse_range(f"bytes={first}-{last}", size)
    assert found == ((0, 0) if expected == "unsatisfiable" else expected)


@given(first=digits, last=digits, size=st.integers(0, 2**62))
def test_admitted_range_lies_inside_the_entry(first: str, last: str, size: int) -> None:
    found = parse_range(f"bytes={first}-{last}", size)
    assert found is None or found == (0, 0) or 0 <= found[0] < found[1] <= size


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=" + "9" * 5000 + "-", (0, 0)),
        ("bytes=0-" + "9" * 5000, (0, 10)),
        ("bytes=-" + "9" * 5000, (0, 10)),
        ("bytes=" + "0" * 5000 + "3-5", (3, 6)),
        ("bytes=-" + "0" * 5000, (0, 0)),
    ],
    ids=["first", "last", "suffix", "zeros", "suffix-of-zeros"],
)
def test_numbers_of_5000_digits_are_read(value: str, expected: tuple[int, int]) -> None:
    assert parse_range(value, 10) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,3-4",
        "bytes=0-1,",
        "bytes=--1",
        "bytes=-1-2",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=0x1-2",
        "bytes=1_0-20",
        "bytes=5-4",
        "items=0-1",
        "0-1",
        "bytes:0-1",
        "bytes=\u0661-\u0662",
        "bytes=\u00b2-3",
    ],
)
def test_range_that_is_none_is_ignored(value: str) -> None:
    assert parse_range(value, 10) is None


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_none(value: str) -> None:
    found = parse_range(value, 10)
    assert found is None or 0 <= found[0] <= found[1] <= 10


def test_unit_of_a_range_has_no_case() -> None:
    assert parse_range("BYTES=1-2", 10) == (1, 3)


def test_ten_thousand_ranges_are_ignored() -> None:
    assert parse_range("bytes=" + ",".join(["0-0"] * 10_000), 10) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"a"', ['"a"']),
        ('"a", W/"b"', ['"a"', 'W/"b"']),
        ('"a,b" , "c"', ['"a,b"', '"c"']),
        ('""', ['""']),
        (', "a"', ['"a"']),
        ('"a", , "b",', ['"a"', '"b"']),
    ],
)
def test_list_of_tags_is_read_with_empty_members_ignored(value: str, expected: list[str]) -> None:
    # RFC 9110, section 5.6.1.2: a recipient must accept a few empty list elements.
    assert parse_tags(value) == expected


@pytest.mark.parametrize("value", ["a", '"a', '"a" "b"', 'w/"a"', "'a'", '"a"b'])
def test_list_that_is_no_list_of_tags_is_none(value: str) -> None:
    assert parse_tags(value) is None


@given(st.lists(st.text(st.characters(min_codepoint=0x23, max_codepoint=0x7E), max_size=5), min_size=1, max_size=5))
def test_every_tag_of_a_list_matches(names: list[str]) -> None:
    value = ", ".join(f'W/"{name}"' for name in names)
    assert all(matches_weakly(value, f'"{name}"') for name in names)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"if-match": ETAG}, 200),
        ({"if-match": "*"}, 200),
        ({"if-match": f'"x", {ETAG}'}, 200),
        ({"if-match": '"x"'}, 412),
        ({"if-match": f"W/{ETAG}"}, 412),
        ({"if-match": ""}, 412),
        ({"if-none-match": ETAG}, 304),
        ({"if-none-match": f"W/{ETAG}"}, 304),
        ({"if-none-match": "*"}, 304),
        ({"if-none-match": '"x"'}, 200),
        ({"if-unmodified-since": BEFORE}, 412),
        ({"if-unmodified-since": SAME}, 200),
        ({"if-unmodified-since": "yesterday"}, 200),
        ({"if-modified-since": BEFORE}, 200),
        ({"if-modified-since": SAME}, 304),
        ({"if-modified-since": AFTER}, 304),
        ({"if-modified-since": "yesterday"}, 200),
        ({"if-match": ETAG, "if-unmodified-since": BEFORE}, 200),
        ({"if-none-match": '"x"', "if-modified-since": AFTER}, 200),
        ({"if-none-match": ETAG, "if-modified-since": BEFORE}, 304),
        ({"if-match": '"x"', "if-none-match": ETAG}, 412),
        ({"if-unmodified-since": BEFORE, "if-none-match": ETAG}, 412),
        ({"if-none-match": ETAG, "range": "bytes=0-1"}, 304),
        ({"if-match": '"x"', "range": "bytes=99-"}, 412),
    ],
)
def test_preconditions_are_judged_in_the_order_of_the_rfc(headers: dict[str, str], status: int) -> None:
    assert decide("GET", headers, VALIDATORS, 10).status == status


@pytest.mark.parametrize(
    "date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_a_date_are_read(date: str) -> None:
    assert decide("GET", {"if-modified-since": date}, VALIDATORS, 10).status == 304


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process can be set on POSIX only")
@pytest.mark.parametrize("zone", ["UTC+9", "UTC-9"])
def test_date_without_a_zone_is_gmt_wherever_the_hub_stands(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 9110, section 5.6.7: asctime dates are to be taken as UTC.
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        asked = decide("GET", {"if-modified-since": "Sun Nov  6 08:49:37 1994"}, VALIDATORS, 10).status
        second_before = decide("GET", {"if-modified-since": "Sun Nov  6 08:49:36 1994"}, VALIDATORS, 10).status
    time.tzset()
    assert (asked, second_before) == (304, 200)


@pytest.mark.parametrize(
    ("if_range", "status"),
    [(ETAG, 206), (f"W/{ETAG}", 200), ('"x"', 200), (BEFORE, 200), (AFTER, 200), ("yesterday", 200), ("", 200)],
)
def test_range_is_served_only_of_the_version_that_if_range_names(if_range: str, status: int) -> None:
    headers = {"range": "bytes=2-3", "if-range": if_range}
    assert decide("GET", headers, VALIDATORS, 10).status == status


def test_if_range_that_fails_saves_from_416() -> None:
    verdict = decide("GET", {"range": "bytes=99-", "if-range": '"x"'}, VALIDATORS, 10)
    assert (verdict.status, verdict.start, verdict.stop) == (200, 0, 10)


def test_head_ignores_a_range() -> None:
    # RFC 9110, section 14.2: ranges are defined for GET only.
    assert decide("HEAD", {"range": "bytes=99-"}, VALIDATORS, 10).status == 200


@given(
    headers=st.dictionaries(
        st.sampled_from(["range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]),
        st.one_of(st.text(max_size=40), st.sampled_from([ETAG, BEFORE, SAME, AFTER, "*", "bytes=0-4", "bytes=-0"])),
    ),
    size=st.integers(0, 20),
)
def test_any_headers_give_a_verdict_that_fits_the_entry(headers: dict[str, str], size: int) -> None:
    verdict = decide("GET", headers, VALIDATORS, size)
    assert verdict.status in (200, 206, 304, 412, 416)
    if verdict.status == 200:
        assert (verdict.start, verdict.stop) == (0, size)
    if verdict.status == 206:
        assert 0 <= verdict.start < verdict.stop <= size
