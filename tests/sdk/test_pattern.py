"""What is foretold from the calls made so far."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable

import pytest

from dsx._pattern import SURE_AFTER, Pattern
from dsx.manifest import Manifest, parse_columns

from .scripted import columns_of


def make_manifest(paths: Iterable[str]) -> Manifest:
    """Make the manifest of empty entries."""
    return parse_columns(json.dumps(columns_of(dict.fromkeys(paths, b""))).encode())


PAIRS = [f"{folder}/{number:03}.{suffix}" for folder in "abc" for number in range(40) for suffix in ("jpg", "txt")]
KINDS = [f"{scene}/{kind}/{number:02}.png" for scene in "abc" for kind in ("depth", "rgb") for number in range(20)]
MIXED = [f"{scene}/{kind}/{number:02}.{suffix}" for scene in "ab" for kind in "de" for number in range(20)
         for suffix in ("png", "xml")]  # fmt: skip
NUMBERS = [f"frame.{number:04}" for number in range(200)]


def foretell(paths: list[str], wanted: list[str], start: int) -> tuple[list[str], list[str]]:
    """Return what is foretold after the first ``start`` calls, and what comes."""
    manifest = make_manifest(paths)
    pattern = Pattern(manifest)
    for path in wanted[:start]:
        row = pattern.find_row(path)
        assert row is not None
        pattern.see(row)
    assert pattern.is_sure
    return [path for _, path in pattern.iter_expected(pattern.row) if path], wanted[start:]


@pytest.mark.parametrize(
    ("paths", "is_wanted", "calls"),
    [
        pytest.param(PAIRS, lambda path: path.endswith(".jpg"), 4, id="suffix"),
        pytest.param(PAIRS, lambda path: True, 8, id="all of two suffixes"),
        pytest.param(KINDS, lambda path: "/rgb/" in path, 26, id="folders of another name"),
        pytest.param(KINDS, lambda path: "/depth/" in path, 26, id="folders of one name"),
        pytest.param(MIXED, lambda path: "/d/" in path and path.endswith("png"), 27, id="folder and suffix"),
        pytest.param(NUMBERS, lambda path: True, 5, id="suffixes that are numbers"),
        pytest.param(NUMBERS, lambda path: path.endswith("0"), 5, id="every tenth"),
        pytest.param(KINDS, lambda path: int(path[-6:-4]) % 4 == 1, 5, id="every fourth of one kind"),
    ],
)
def test_rest_of_a_filtered_list_is_foretold(paths: list[str], is_wanted: Callable[[str], bool], calls: int) -> None:
    foretold, comes = foretell(paths, [path for path in sorted(paths) if is_wanted(path)], calls)
    assert foretold == comes


def test_nothing_is_foretold_before_it_would_have_come_true() -> None:
    pattern = Pattern(make_manifest(PAIRS))
    seen = []
    for row in range(0, 12, 2):
        pattern.see(row)
        seen.append(pattern.is_sure)
    assert seen == [False] * SURE_AFTER + [True] * (6 - SURE_AFTER)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_foretold_of_random_access(seed: int) -> None:
    pattern = Pattern(make_manifest(KINDS + PAIRS))
    rows = list(range(len(KINDS + PAIRS)))
    random.Random(seed).shuffle(rows)
    for row in rows:
        pattern.see(row)
        assert not pattern.is_sure


def test_nothing_is_foretold_of_going_backward() -> None:
    pattern = Pattern(make_manifest(PAIRS))
    for row in reversed(range(100)):
        pattern.see(row)
        assert not pattern.is_sure


def test_going_back_begins_anew_and_the_kinds_are_still_known() -> None:
    manifest = make_manifest(PAIRS)
    pattern = Pattern(manifest)
    for row in range(0, 40, 2):
        assert pattern.see(row)
    assert not pattern.see(0)
    assert not pattern.is_sure
    for row in (2, 4, 6):
        assert pattern.see(row)
    assert pattern.is_sure
    assert next(pattern.iter_expected(6)) == (8, "a/004.jpg")


def test_same_row_again_changes_nothing() -> None:
    pattern = Pattern(make_manifest(PAIRS))
    for row in range(8):
        assert pattern.see(row)
        assert pattern.see(row)
    assert pattern.is_sure


def test_kind_that_was_passed_over_is_not_foretold_until_it_is_asked_for_again() -> None:
    pattern = Pattern(make_manifest(PAIRS))
    for row in range(10):
        pattern.see(row)
    assert pattern.is_sure
    pattern.pass_over([11])  # a text
    assert not pattern.is_sure
    for row in range(12, 20, 2):
        pattern.see(row)
    assert {path[-3:] for _, path in pattern.iter_expected(20) if path} == {"jpg"}
    for row in range(20, 50):
        pattern.see(row)
    assert {path[-3:] for _, path in pattern.iter_expected(50) if path} == {"jpg", "txt"}


def test_calls_a_little_out_of_order_are_no_step_back() -> None:
    pattern = Pattern(make_manifest(NUMBERS))
    for row in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 10, 12, 13, 14, 15, 16, 17):
        assert pattern.see(row, is_ordered=False)


def test_what_is_looked_through_has_an_end() -> None:
    manifest = make_manifest([f"a/{number:05}.{'jpg' if number < 10 else 'txt'}" for number in range(30_000)])
    pattern = Pattern(manifest)
    for row in range(6):
        pattern.see(row)
    rows = [row for row, _ in pattern.iter_expected(5)]
    assert rows[:4] == [6, 7, 8, 9]
    assert rows[-1] < 10_000
