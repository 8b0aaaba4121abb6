"""Head hash, digest headers and revision, against independent computations."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx.protocol.digests import (
    HEAD_BYTES,
    WANT_SHA256,
    compute_revision,
    format_repr_digest,
    head_hash,
    is_sha256_wanted,
    parse_repr_digest,
)

# `printf hello | md5sum` and `printf '' | md5sum`
MD5_OF_HELLO = "5d41402abc4b2a76b9719d911017c592"
MD5_OF_NOTHING = "d41d8cd98f00b204e9800998ecf8427e"

rows = st.tuples(
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


def test_revision_is_the_sha256_of_the_rows() -> None:
    text = f"a.txt\x005\x00{MD5_OF_HELLO}\x001700000000000000000\nb\x000\x00{MD5_OF_NOTHING}\x00-1\n"
    found = compute_revision([("a.txt", 5, MD5_OF_HELLO, 1_700_000_000_000_000_000), ("b", 0, MD5_OF_NOTHING, -1)])
    assert found == hashlib.sha256(text.encode()).hexdigest()[:32]


@given(st.lists(rows, max_size=4), st.lists(rows, max_size=4))
def test_different_rows_have_different_revisions(
    one: list[tuple[str, int, str, int]], other: list[tuple[str, int, str, int]]
) -> None:
    assert (compute_revision(one) == compute_revision(other)) == (one == other)


@given(st.lists(rows, min_size=1, max_size=3), st.integers(0, 3), st.data())
def test_change_of_any_column_changes_the_revision(
    before: list[tuple[str, int, str, int]], column: int, data: st.DataObject
) -> None:
    other = data.draw(rows.filter(lambda row: row[column] != before[-1][column]))
    changed = (*before[-1][:column], other[column], *before[-1][column + 1 :])
    assert compute_revision([*before[:-1], changed]) != compute_revision(before)


def test_newline_in_a_path_cannot_imitate_two_rows() -> None:
    head = MD5_OF_HELLO
    two = [("a", 1, head, 2), ("b", 3, head, 4)]
    one = [(f"a\x001\x00{head}\x002\nb".replace("\0", ""), 3, head, 4)]
    assert compute_revision(one) != compute_revision(two)
