"""The gate for names and paths, with the path flavours of POSIX and Windows."""

from __future__ import annotations

import ntpath
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsx.errors import InvalidPathError
from dsx.protocol.paths import check_dataset, check_local, check_path, fold_path
from dsx.protocol.text import shown

DANGEROUS = [
    ".",
    "..",
    "/",
    "\\",
    "a",
    "b.txt",
    "C:",
    ":",
    "\0",
    " ",
    "~",
    "%2e",
    "//",
    "CON",
    "nul",
    "\n",
    "\ud800",
    "é",
]

any_path = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from(DANGEROUS), max_size=8).map("".join),
    st.lists(st.sampled_from(DANGEROUS), max_size=5).map("/".join),
)
segment = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1, max_size=20).filter(
    lambda text: text not in (".", "..")
)


# Sharp s, two small sigmas and their capital, e with acute in three spellings, the Turkish i's, the ligature fi.
CASED = "aAbBSsiIfe\u00df\u03c3\u03c2\u03a3\u00e9\u00c9\u0301\u0130\u0131\ufb01"


def is_reserved(path: str) -> bool:
    """Ask Python which names Windows keeps for devices; the function moved in 3.13."""
    return ntpath.isreserved(path) if hasattr(ntpath, "isreserved") else PureWindowsPath(path).is_reserved()


def is_admitted(path: str) -> bool:
    try:
        check_path(path)
    except InvalidPathError:
        return False
    return True


@given(any_path)
def test_admitted_path_stays_beneath_a_posix_folder(path: str) -> None:
    assume(is_admitted(path))
    root = PurePosixPath("/data/cats")
    inside = root / path
    assert inside.is_relative_to(root)
    assert inside != root
    assert ".." not in inside.parts
    assert str(inside) == f"/data/cats/{path}"


@given(any_path)
def test_path_admitted_for_windows_stays_beneath_a_windows_folder(path: str) -> None:
    assume(is_admitted(path))
    try:
        check_local(path, windows=True)
    except InvalidPathError:
        return
    root = PureWindowsPath("C:\\data\\cats")
    inside = root / path
    assert inside.is_relative_to(root)
    assert inside.parts == (*root.parts, *path.split("/"))


@given(st.lists(segment, min_size=1, max_size=5).map("/".join))
def test_every_path_of_ordinary_segments_is_admitted_unchanged(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "a.txt",
        "train/3/0042.png",
        ".zarray",
        "...",
        "..a",
        "a..",
        "a/...",
        "a b/c'd\"e",
        "#?%&+",
        "%2e%2e/x",
        "a\nb",
        "\U0001f431.png",
        "caf\u00e9",
        "cafe\u0301",
        "x" * 255,
        "C:/x",
        "~/x",
        "/".join(["d"] * 2048),
    ],
)
def test_odd_but_harmless_path_is_admitted(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "/",
        "/a",
        "a/",
        "a//b",
        "./a",
        "a/.",
        "a/./b",
        "../a",
        "a/..",
        "a/../b",
        "a\\b",
        "..\\a",
        "\\\\host\\share",
        "a\0b",
        "\ud800",
        "a/\udcff",
        "x" * 4097,
        "é" * 2049,
    ],
)
def test_path_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidPathError):
        check_path(path)


@pytest.mark.parametrize("path", [None, 3, b"a", ["a"]])
def test_path_that_is_no_text_is_refused(path: object) -> None:
    with pytest.raises(InvalidPathError):
        check_path(path)  # type: ignore[arg-type]  # the wrong type is the point


@given(st.integers(0, 10**6))
def test_refusal_of_a_long_path_is_a_short_message(length: int) -> None:
    with pytest.raises(InvalidPathError) as caught:
        check_path("/" + "x" * length)
    assert len(str(caught.value)) < 500


def test_refusal_names_the_path() -> None:
    with pytest.raises(InvalidPathError, match=r"\.\./secret"):
        check_path("../secret")


def test_refused_path_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="inside a dataset"):
        check_path("..")


@pytest.mark.parametrize("name", ["cats", "my data", "cats.v2", "caf\u00e9", "lost+found", "a:b", "-x", "x" * 255])
def test_ordinary_dataset_name_is_admitted(name: str) -> None:
    assert check_dataset(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".dsx", "a/b", "/a", "a/", "a\\b", "a\0", "\udc80", "x" * 256, None, 3]
)
def test_name_that_can_be_no_dataset_is_refused(name: object) -> None:
    with pytest.raises(InvalidPathError):
        check_dataset(name)  # type: ignore[arg-type]  # wrong types are among them


@given(any_path)
def test_admitted_dataset_is_one_segment_on_both_systems(name: str) -> None:
    try:
        check_dataset(name)
    except InvalidPathError:
        return
    assert PurePosixPath(name).parts == (name,)
    assert not name.startswith(".")
    assert "\\" not in name


@pytest.mark.parametrize(
    "path",
    [
        "a:b",
        "C:/x",
        "a<b",
        "a>b",
        'a"b',
        "a|b",
        "a?b",
        "a*b",
        "a\nb",
        "a.",
        "a ",
        "a./b",
        "a /b",
        "CON",
        "con",
        "x/Nul.txt",
        "aux.tar.gz",
        "PRN/x",
        "COM1",
        "lpt9.log",
        "COM\u00b9",
        "NUL .txt",
        "CONIN$",
        "conout$",
    ],
)
def test_name_that_windows_cannot_hold_is_refused_there_only(path: str) -> None:
    assert check_local(path, windows=False) == path
    with pytest.raises(InvalidPathError, match="Windows"):
        check_local(path, windows=True)


@pytest.mark.parametrize(
    "path", ["a.b", "train/3/0042.png", ".zarray", "console", "com", "nully.txt", "a b", "caf\u00e9"]
)
def test_ordinary_name_is_admitted_on_windows(path: str) -> None:
    assert check_local(path, windows=True) == path


@given(
    st.sampled_from(["CON", "prn", "Aux", "NUL", "COM1", "lpt3", "COM\u00b2", "CONIN$", "x"]),
    st.sampled_from(["", ".", " ", ".txt", " .txt", "x", "..", ".a.b"]),
)
def test_what_windows_reserves_is_never_admitted_there(stem: str, rest: str) -> None:
    path = f"a/{stem}{rest}"
    assume(is_reserved(path))
    with pytest.raises(InvalidPathError):
        check_local(path, windows=True)


def caseless(text: str) -> str:
    """Unicode's own canonical caseless form (The Unicode Standard, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


@given(
    st.text(st.sampled_from(CASED), max_size=5),
    st.text(st.sampled_from(CASED), max_size=5),
)
def test_paths_fold_together_exactly_when_unicode_calls_them_caseless_equal(one: str, other: str) -> None:
    assert (fold_path(one) == fold_path(other)) == (caseless(one) == caseless(other))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_both_unicode_forms_of_a_path_fold_together(path: str) -> None:
    assert fold_path(unicodedata.normalize("NFC", path)) == fold_path(unicodedata.normalize("NFD", path))


@given(st.text())
def test_shown_text_is_one_printable_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 203
