"""Patterns mean what their page says, and no pattern takes long."""

from __future__ import annotations

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsx.errors import InvalidRequestError
from dsx.protocol.globs import Globs, make_filter

PATHS = [
    "a.png",
    "train/a.png",
    "train/b.jpg",
    "train/3/c.png",
    "train/3/.zarray",
    "val/3/c.png",
    "x[1].txt",
    "é/ü.png",
]


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("*.png", ["a.png", "train/a.png", "train/3/c.png", "val/3/c.png", "é/ü.png"]),
        ("a.png", ["a.png", "train/a.png"]),
        ("/a.png", ["a.png"]),
        ("/*", ["a.png", "x[1].txt"]),
        ("train/*", ["train/a.png", "train/b.jpg"]),
        ("train/**", ["train/a.png", "train/b.jpg", "train/3/c.png", "train/3/.zarray"]),
        ("train/", ["train/a.png", "train/b.jpg", "train/3/c.png", "train/3/.zarray"]),
        ("train/**/*.png", ["train/a.png", "train/3/c.png"]),
        ("train/**.png", ["train/a.png", "train/3/c.png"]),
        ("**/3/*", ["train/3/c.png", "train/3/.zarray", "val/3/c.png"]),
        ("*/3/c.png", ["train/3/c.png", "val/3/c.png"]),
        ("**/*", PATHS),
        ("**", PATHS),
        ("?.png", ["a.png", "train/a.png", "train/3/c.png", "val/3/c.png", "é/ü.png"]),
        ("train?a.png", []),
        ("train[/]a.png", []),
        ("train[.-0]a.png", []),
        ("train[!x]a.png", []),
        ("[ab].???", ["a.png", "train/a.png", "train/b.jpg"]),
        ("[a-b].*", ["a.png", "train/a.png", "train/b.jpg"]),
        ("[!a-b].png", ["train/3/c.png", "val/3/c.png", "é/ü.png"]),
        ("[^a].png", ["train/3/c.png", "val/3/c.png", "é/ü.png"]),
        ("x[[]1[]].txt", ["x[1].txt"]),
        ("x[1].txt", []),
        ("x[1*", ["x[1].txt"]),
        ("A.PNG", []),
        ("a.pn", []),
        (".*", ["train/3/.zarray"]),
        ("t**g", []),
        ("/t**g", ["train/a.png", "train/b.jpg", "train/3/c.png"]),
    ],
)
def test_pattern_matches_these_paths(pattern: str, matching: list[str]) -> None:
    globs = Globs(pattern)
    assert [path for path in PATHS if globs.match(path)] == matching


def test_one_of_several_patterns_is_enough() -> None:
    globs = Globs(["*.jpg", "val/**"])
    assert [path for path in PATHS if globs.match(path)] == ["train/b.jpg", "val/3/c.png"]


def test_no_patterns_match_nothing() -> None:
    assert not any(map(Globs([]).match, PATHS))


def test_filter_takes_what_is_included_and_not_excluded() -> None:
    is_wanted = make_filter(include="*.png", exclude=["train/**", "/*"])
    assert [path for path in PATHS if is_wanted(path)] == ["val/3/c.png", "é/ü.png"]


def test_filter_of_nothing_takes_all() -> None:
    assert all(map(make_filter(None, None), PATHS))


@pytest.mark.parametrize("pattern", ["", "/", "a\\b", 3, None, b"*.png", ["*.png", 3], [""], [["a"]]], ids=repr)
def test_what_is_no_pattern_is_refused(pattern: object) -> None:
    with pytest.raises(InvalidRequestError, match="pattern"):
        Globs(pattern)  # type: ignore[arg-type]  # refused, which is the point


PIECES = ["*", "**", "**/", "/", "?", "a", "b", "[ab]", "[!a]", "é"]


def matches_by_definition(pieces: list[str], path: str) -> bool:
    """Compute a match by trying everything, straight from the words of the page."""
    if not any("/" in piece for piece in pieces):
        path = path.rpartition("/")[2]

    @functools.cache
    def match(piece: int, at: int) -> bool:
        if piece == len(pieces):
            return at == len(path)
        kind, rest = pieces[piece], path[at:]
        if kind in ("*", "**"):
            ends = range(at, len(path) + 1)
            return any(match(piece + 1, end) for end in ends if kind == "**" or "/" not in path[at:end])
        if kind == "**/":
            return match(piece + 1, at) or any(match(piece + 1, at + n + 1) for n, c in enumerate(rest) if c == "/")
        is_taken = {"?": rest[:1] != "/", "[ab]": rest[:1] in ("a", "b"), "[!a]": rest[:1] not in ("a", "/")}
        return rest != "" and is_taken.get(kind, rest[0] == kind) and match(piece + 1, at + 1)

    return match(0, 0)


def is_plain(pieces: list[str]) -> bool:
    """Leave out what two pieces side by side would make another one, or give a meaning of its own."""
    for before, after in zip(["/", *pieces], pieces, strict=False):
        if before[-1] == "*" and after[0] in "*/":
            return False
        if after == "**/" and not before.endswith("/"):
            return False
    return pieces[-1][-1] != "/" and pieces[0] != "/"


@given(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).filter(is_plain),
    st.lists(st.text("abé", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join),
)
@example(["a", "**"], "a/b")
def test_match_is_the_match_by_definition(pieces: list[str], path: str) -> None:
    assert Globs("".join(pieces)).match(path) == matches_by_definition(pieces, path)


@given(
    st.text("ab/*?[]!^-é", min_size=1, max_size=12), st.lists(st.text("ab[]-", min_size=1), min_size=1).map("/".join)
)
def test_any_text_without_a_backslash_is_a_pattern_or_refused(pattern: str, path: str) -> None:
    if pattern != "/":
        assert Globs(pattern).match(path) in (True, False)


@given(st.lists(st.sampled_from(["*.a", "b/**", "?", "**/a/*"]), max_size=4), st.text("ab/.", min_size=1, max_size=8))
def test_set_matches_what_one_of_its_patterns_matches(patterns: list[str], path: str) -> None:
    assert Globs(patterns).match(path) == any(Globs(pattern).match(path) for pattern in patterns)


@pytest.mark.parametrize("pattern", ["a*" * 200 + "b", "**a" * 200 + "b", "**/" * 200 + "b", "*?" * 200 + "b"])
def test_hostile_pattern_does_not_take_years(pattern: str) -> None:
    assert not Globs(pattern).match("a" * 2000 + "/" + "a" * 2000)


def test_many_states_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsx.protocol.globs.STATES_KEPT", 3)
    globs = Globs("*a*b*c")
    assert [globs.match(f"{n}a{n}b{n}c") for n in range(50)] == [True] * 50
    assert len(globs._steps) <= 5
