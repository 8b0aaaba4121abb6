"""Head hash, digest headers and revision, against independent computations."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx.protocol.digests import (
    HEAD_BYTES,
    WANT_SHA256,
    compute_revision,
    format_repr_digest,
    format_revision,
    hash_row,
    head_hash,
    is_sha256_wanted,
    parse_repr_digest,
)

# `printf hello | md5sum` and `printf '' | md5sum`
MD5_OF_HELLO = "5d41402abc4b2a76b9719d911017c592"
MD5_OF_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"

Row: TypeAlias = tuple[str, int, str, int]

rows: st.SearchStrategy[Row] = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8),
    st.integers(0, 2**63 - 1),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.integers(-(2**63), 2**63 - 1),
)


@pytest.mark.parametrize(("data", "expected"), [(b"hello", MD5_OF_HELLO), (b"", MD5_OF_NOTHING)])
def test_head_hash_of_a_short_file_is_its_md5(data: bytes, expected: str) -> None:
    assert head_hash(data) == expected


def test_head_hash_is_what_other_programs_compute() -> None:
    assert (
        head_hash(bytes(range(256)) * 5) == "b2ea9f7fcea831a4a63b213f41a8855b"
    )  # said by md5sum of the first 1024 bytes


def test_head_hash_covers_1024_bytes() -> None:
    assert HEAD_BYTES == 1024
    assert head_hash(b"x" * 1024 + b"a") == head_hash(b"x" * 1024 + b"b")
    assert head_hash(b"x" * 1023 + b"a") != head_hash(b"x" * 1023 + b"b")


def test_head_hash_takes_a_view() -> None:
    assert head_hash(memoryview(b"hello")) == MD5_OF_HELLO


@given(st.binary())
def test_digest_header_is_base64_between_colons(data: bytes) -> None:
    digest = hashlib.sha256(data)
    assert format_repr_digest(digest.hexdigest()) == "sha-256=:" + base64.b64encode(digest.digest()).decode() + ":"


def test_digest_header_of_the_rfc_is_written() -> None:
    # RFC 9530, appendix B.1: the representation {"hello": "world"} and a line feed.
    digest = hashlib.sha256(b'{"hello": "world"}\n').hexdigest()
    assert format_repr_digest(digest) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


@given(st.binary(min_size=32, max_size=32))
def test_digest_survives_the_header(digest: bytes) -> None:
    assert parse_repr_digest(format_repr_digest(digest.hex())) == digest.hex()


@pytest.mark.parametrize("around", ["{}", "sha-512=:AAAA:, {}", "{}, sha-512=:AAAA:", "  {}", "md5=:AAAA:,{}"])
def test_digest_is_found_among_others(around: str) -> None:
    digest = "ab" * 32
    assert parse_repr_digest(around.format(format_repr_digest(digest))) == digest


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha-256",
        "sha-256=abc",
        "sha-256=::",
        "sha-256=:AAAA:",
        "sha-256=:" + "A" * 42 + "=:",
        "sha-256=:====:",
        "sha-512=:" + "A" * 43 + "=:",
        "xsha-256=:" + "A" * 43 + "=:",
    ],
)
def test_header_without_a_sha256_gives_none(value: str) -> None:
    assert parse_repr_digest(value) is None


@given(st.text(max_size=60))
def test_any_header_gives_64_hex_digits_or_none(value: str) -> None:
    found = parse_repr_digest(value)
    assert found is None or (len(found) == 64 and bytes.fromhex(found))


@pytest.mark.parametrize(
    "value",
    [WANT_SHA256, "sha-256=10", "sha-256=1", "sha-512=3, sha-256=10", "sha-256=9,sha=0", "sha-512=10,sha-256=2"],
)
def test_preference_above_zero_wants_the_digest(value: str) -> None:
    assert is_sha256_wanted(value)


@pytest.mark.parametrize(
    "value", ["", "sha-256=0", "sha-512=10", "sha-256=11", "xsha-256=10", "sha-256=-1", "sha-256=1.5"]
)
def test_preference_of_zero_or_none_does_not_want_the_digest(value: str) -> None:
    assert not is_sha256_wanted(value)


def number_of(row: Row) -> int:
    """Hash a row as ``docs/http-api.md`` says, bit by bit."""
    digest = hashlib.sha256(b"\0".join(str(value).encode() for value in row)).hexdigest()
    return int(digest, 16)


def revision_of(count: int, row_sum: int) -> str:
    """Write the revision of so many rows whose hashes add up to ``row_sum``, as ``docs/http-api.md`` says."""
    text = b"%d\0%064x" % (count, row_sum & ((1 << 256) - 1))
    return hashlib.sha256(text).hexdigest()[:32]


def test_hash_of_a_row_is_what_other_programs_compute() -> None:
    # printf 'a.txt\0005\0005d41402abc4b2a76b9719d911017c592\0001700000000000000000' | sha256sum
    expected = 0x7AA798F445C6D5FD1EC26E69B050DA11532932BADE0EC48B571607D43F94C183
    assert hash_row("a.txt", 5, MD5_OF_HELLO, 1_700_000_000_000_000_000) == expected


def test_revision_of_no_rows_is_what_other_programs_compute() -> None:
    # printf '0\000%064d' 0 | sha256sum
    assert compute_revision([]) == format_revision(0, 0) == "fad72e58bc418dce2a12951c7391e1dc"


def test_revision_of_two_rows_is_what_other_programs_compute() -> None:
    # sha256sum of each row, the sum modulo 2^256 by perl -Mbigint, and sha256sum of that
    found = compute_revision([("a.txt", 5, MD5_OF_HELLO, 1_700_000_000_000_000_000), ("b", 0, MD5_OF_NOTHING, -1)])
    assert found == "c263a16feb675c6e960a5f071cadd11d"


@given(rows)
def test_hash_of_a_row_is_the_sha256_of_its_values(row: Row) -> None:
    assert hash_row(*row) == number_of(row)


@given(st.integers(0, 2**40), st.integers(0, 2**280))
def test_revision_is_the_sha256_of_count_and_sum(count: int, row_sum: int) -> None:
    assert format_revision(count, row_sum) == revision_of(count, row_sum)


def test_revision_counts_the_low_256_bits_of_the_sum() -> None:
    assert format_revision(1, 2**256 + 5) == format_revision(1, 5) == format_revision(1, 5 - 2**256)
    assert format_revision(1, 2**255) != format_revision(1, 0)


@given(st.lists(rows, max_size=6))
def test_revision_is_that_of_the_sum_of_the_rows(some: list[Row]) -> None:
    assert compute_revision(iter(some)) == revision_of(len(some), sum(map(number_of, some)))


@given(st.lists(rows, max_size=6), st.randoms())
def test_order_of_the_rows_does_not_matter(some: list[Row], random: Random) -> None:
    other = list(some)
    random.shuffle(other)
    assert compute_revision(other) == compute_revision(some)


@given(st.lists(rows, max_size=5), st.lists(rows, max_size=5), st.lists(rows, max_size=5))
def test_revision_is_brought_up_to_date_from_what_changed(kept: list[Row], gone: list[Row], new: list[Row]) -> None:
    before = sum(hash_row(*row) for row in [*kept, *gone]) % 2**256
    after = before - sum(hash_row(*row) for row in gone) + sum(hash_row(*row) for row in new)
    assert format_revision(len(kept) + len(new), after) == compute_revision([*new, *kept])


@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_different_rows_have_different_revisions(one: list[Row], other: list[Row]) -> None:
    assert (compute_revision(one) == compute_revision(other)) == (Counter(one) == Counter(other))


@given(rows, st.integers(1, 4), st.integers(1, 4))
def test_row_that_comes_more_often_makes_another_revision(row: Row, one: int, other: int) -> None:
    assert (compute_revision([row] * one) == compute_revision([row] * other)) == (one == other)


@given(st.lists(rows, min_size=1, max_size=3), st.integers(0, 3), st.data())
def test_change_of_any_column_changes_the_revision(before: list[Row], column: int, data: st.DataObject) -> None:
    other = data.draw(rows.filter(lambda row: row[column] != before[-1][column]))
    changed = (*before[-1][:column], other[column], *before[-1][column + 1 :])
    assert compute_revision([*before[:-1], changed]) != compute_revision(before)


def test_hashes_that_change_places_change_the_revision() -> None:
    one = [("a", 1, MD5_OF_HELLO, 2), ("b", 1, MD5_OF_NOTHING, 2)]
    other = [("a", 1, MD5_OF_NOTHING, 2), ("b", 1, MD5_OF_HELLO, 2)]
    assert compute_revision(one) != compute_revision(other)
