"""`Manifest`: a sequence kept as packed columns, checked in bulk as strictly as row by row."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dsx._columns_json
from dsx import IntegrityError, InvalidPathError, InvalidRequestError, Manifest, ManifestEntry
from dsx.manifest import parse_columns, parse_rows
from dsx.protocol.paths import check_path

from .scripted import columns_of, md5_of_head, mtime_of, revision_of

FILES = {
    "a.png": b"a",
    "empty": b"",
    "train/0/b.png": b"b" * 3000,
    "train/1/c.jpg": b"c",
    'val/"q",].png': b"q",
    "val/ü.png": b"u" * 9,
    "val/\U0001f431.png": b"cat",
}
DIGEST = "0123456789abcdef" * 4
PATHS = sorted(FILES)
ENTRIES = [
    ManifestEntry(path, len(FILES[path]), md5_of_head(FILES[path]), mtime_of(FILES[path]), None) for path in PATHS
]


def read(columns: dict[str, object], **options: object) -> Manifest:
    """Read columns from JSON."""
    return parse_columns(json.dumps(columns, **options).encode())  # type: ignore[arg-type]


@pytest.fixture
def manifest() -> Manifest:
    """The manifest of `FILES`."""
    return read(columns_of(FILES))


def test_manifest_is_a_sequence_of_entries(manifest: Manifest) -> None:
    assert isinstance(manifest, Sequence)
    assert list(manifest) == ENTRIES
    assert len(manifest) == len(ENTRIES)
    assert [manifest[number] for number in range(len(ENTRIES))] == ENTRIES
    assert list(reversed(manifest)) == ENTRIES[::-1]


def test_entry_has_names(manifest: Manifest) -> None:
    entry = manifest[-1]
    assert (entry.path, entry.size, entry.hash) == ("val/\U0001f431.png", 3, md5_of_head(b"cat"))
    assert (entry.mtime_ns, entry.digest) == (mtime_of(b"cat"), None)


@pytest.mark.parametrize("index", [7, -8, 10**20])
def test_index_past_the_end_is_an_index_error(manifest: Manifest, index: int) -> None:
    with pytest.raises(IndexError):
        manifest[index]
    with pytest.raises(IndexError):
        manifest.paths[index]


@given(st.slices(len(PATHS)).filter(lambda piece: piece.step is None or piece.step > 0))
def test_slice_is_a_manifest_of_those_entries(piece: slice) -> None:
    manifest = read(columns_of(FILES))
    part = manifest[piece]
    assert isinstance(part, Manifest)
    assert list(part) == ENTRIES[piece]
    assert part.revision == manifest.revision
    assert manifest.paths[piece] == PATHS[piece]
    assert [part.find(path) is not None for path in PATHS] == [path in PATHS[piece] for path in PATHS]


def test_slice_that_turns_round_is_refused(manifest: Manifest) -> None:
    with pytest.raises(InvalidRequestError, match="reversed"):
        manifest[::-1]


def test_find_gives_the_entry_or_none(manifest: Manifest) -> None:
    assert [manifest.find(path) for path in PATHS] == ENTRIES
    assert [manifest.find(path) for path in ("", "a", "a.pn", "a.png0", "train", "zz", "\ud800")] == [None] * 7


def test_path_or_entry_is_in_the_manifest(manifest: Manifest) -> None:
    assert "a.png" in manifest
    assert ENTRIES[0] in manifest
    assert "b.png" not in manifest
    assert ENTRIES[0]._replace(size=2) not in manifest
    assert 3 not in manifest
    assert "a.png" in manifest.paths
    assert "b.png" not in manifest.paths


def test_paths_are_a_sequence(manifest: Manifest) -> None:
    assert list(manifest.paths) == PATHS
    assert manifest.paths == PATHS
    assert (len(manifest.paths), manifest.paths[0], manifest.paths[-1]) == (len(PATHS), PATHS[0], PATHS[-1])


def test_total_bytes_is_the_sum_of_the_sizes(manifest: Manifest) -> None:
    assert manifest.total_bytes == sum(map(len, FILES.values()))


def test_rows_are_those_of_the_contract(manifest: Manifest) -> None:
    assert manifest.to_rows() == [
        {"path": path, "size": len(FILES[path]), "hash": md5_of_head(FILES[path])} for path in PATHS
    ]


@pytest.mark.parametrize(
    ("include", "exclude", "selected"),
    [
        (None, None, PATHS),
        ("*.png", None, ["a.png", "train/0/b.png", 'val/"q",].png', "val/ü.png", "val/\U0001f431.png"]),
        ("train/**", "*.jpg", ["train/0/b.png"]),
        (["empty", "train/*/c.*"], None, ["empty", "train/1/c.jpg"]),
        (None, ["val/", "train/"], ["a.png", "empty"]),
        ([], None, []),
    ],
)
def test_select_gives_a_manifest_of_the_same_revision(
    manifest: Manifest, include: str | list[str] | None, exclude: str | list[str] | None, selected: list[str]
) -> None:
    part = manifest.select(include=include, exclude=exclude)
    assert list(part) == [entry for entry in ENTRIES if entry.path in selected]
    assert part.revision == manifest.revision
    assert part.total_bytes == sum(len(FILES[path]) for path in selected)


def test_selection_can_be_selected_from(manifest: Manifest) -> None:
    part = manifest.select("val/**").select(exclude="ü*")
    assert list(part.paths) == ['val/"q",].png', "val/\U0001f431.png"]


def test_manifests_are_equal_when_their_entries_are(manifest: Manifest) -> None:
    assert manifest == read(columns_of(FILES))
    assert manifest == manifest.select()
    assert manifest != manifest[1:]
    assert manifest != read(columns_of(FILES | {"a.png": b"b"}))
    assert manifest != ENTRIES
    assert manifest != read(columns_of(FILES, digests=[DIGEST] + [None] * 6))


@pytest.mark.parametrize("digests", [[None] * 7, [DIGEST] * 7, [None, DIGEST] + [None] * 5])
def test_manifest_pickles(digests: list[str | None]) -> None:
    manifest = read(columns_of(FILES, digests=digests))
    again = pickle.loads(pickle.dumps(manifest))
    assert again == manifest
    assert list(again) == [entry._replace(digest=digest) for entry, digest in zip(ENTRIES, digests, strict=True)]
    assert again.find("a.png") == manifest[0]


def test_plain_array_pickles() -> None:
    manifest = parse_rows(json.dumps(read(columns_of(FILES)).to_rows()).encode())
    assert pickle.loads(pickle.dumps(manifest)) == manifest
    assert {entry.mtime_ns for entry in manifest} == {None}


def test_empty_manifest_is_like_any_other() -> None:
    manifest = read(columns_of({}))
    assert (len(manifest), list(manifest), list(manifest.paths), manifest.to_rows()) == (0, [], [], [])
    assert (manifest.find("a"), manifest.total_bytes, list(manifest[:5])) == (None, 0, [])
    assert pickle.loads(pickle.dumps(manifest)) == manifest == manifest.select("*") == read(columns_of({}), indent=1)


def test_repr_is_short(manifest: Manifest) -> None:
    assert repr(manifest) == f"<Manifest: 7 entries, 3015 bytes, revision {manifest.revision}>"
    assert "revision unknown" in repr(parse_rows(b"[]"))


def test_equal_manifests_are_not_hashed(manifest: Manifest) -> None:
    with pytest.raises(TypeError):
        hash(manifest)


def big_columns(count: int) -> dict[str, object]:
    """Build the manifest of many entries, all of whose digests are known."""
    chance = random.Random(0)
    columns: dict[str, object] = {
        "paths": [f"train/n{number // 1000:04}/img_{number:06}.jpg" for number in range(count)],
        "sizes": [chance.randrange(200_000) for _ in range(count)],
        "mtimes_ns": [1_700_000_000_000_000_000 + chance.randrange(10**15) for _ in range(count)],
        "hashes": [f"{chance.getrandbits(128):032x}" for _ in range(count)],
        "digests": [f"{chance.getrandbits(256):064x}" for _ in range(count)],
    }
    rows = zip(*(columns[name] for name in ("paths", "sizes", "hashes", "mtimes_ns")), strict=True)  # type: ignore[call-overload]
    return {"revision": revision_of(rows)} | columns


def test_row_takes_little_memory_and_less_in_a_pickle() -> None:
    count = 20_000
    data = json.dumps(big_columns(count)).encode()
    tracemalloc.start()
    try:
        manifest = parse_columns(data)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Path 28 and NUL, three numbers of 8, hash 16, digest 32: 101 bytes; arrays grow a little ahead.
    assert held < 120 * count
    assert peak < 2 * len(data)
    assert len(pickle.dumps(manifest)) < 66 * count


def test_many_rows_are_not_held_against_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = columns_of(FILES) | {"revision": "0" * 32}
    with pytest.raises(IntegrityError, match="revision"):
        read(wrong)
    monkeypatch.setattr(dsx._columns_json, "CHECKED_ROWS", len(FILES) - 1)
    assert list(read(wrong)) == ENTRIES


@pytest.mark.parametrize("piece_bytes", [1, 7, 100, 10**6])
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("member", [{}, {"kinds": [["x"], {"y": "]"}]}], ids=["known", "newer"])
def test_any_way_to_write_the_document_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, piece_bytes: int, is_ascii: bool, indent: int | None, member: dict[str, object]
) -> None:
    monkeypatch.setattr(dsx._columns_json, "PIECE_BYTES", piece_bytes)
    digests = [None, DIGEST, None, None, DIGEST, None, DIGEST]
    columns = columns_of(FILES, digests=digests) | member
    wanted = [entry._replace(digest=digest) for entry, digest in zip(ENTRIES, digests, strict=True)]
    for names in itertools.islice(itertools.permutations(columns), 0, None, 97):
        document = {name: columns[name] for name in names}
        assert list(read(document, ensure_ascii=is_ascii, indent=indent)) == wanted


TWO = columns_of({"a": b"1", "b": b"2"})
HASH = "5d41402abc4b2a76b9719d911017c592"
WRONG = [
    {"paths": ["a"]},
    {"paths": ["a", "a"]},
    {"paths": ["b", "a"]},
    {"paths": ["a", None]},
    {"paths": ["a", ["b"]]},
    {"paths": {"a": 1, "b": 2}},
    {"paths": "ab"},
    {"paths": ["a\0b", "b"]},
    {"paths": ["a\0b"]},
    {"paths": ["a", "b\ud800"]},
    {"sizes": [1]},
    {"sizes": [1, 2, 3]},
    {"sizes": [1, -1]},
    {"sizes": [1, 2**63]},
    {"sizes": [1, True]},
    {"sizes": [1, 1.0]},
    {"sizes": [1, "1"]},
    {"sizes": [1, None]},
    {"sizes": [1, [1]]},
    {"sizes": {"1": 1}},
    {"sizes": "11"},
    {"mtimes_ns": [1, 2**63]},
    {"mtimes_ns": [1, -(2**63) - 1]},
    {"mtimes_ns": [1, False]},
    {"hashes": [HASH, HASH.upper()]},
    {"hashes": [HASH, HASH[:-1]]},
    {"hashes": [HASH[:-2], HASH + "00"]},
    {"hashes": [HASH, HASH[:-1] + " "]},
    {"hashes": [HASH, HASH[:-1] + ","]},
    {"hashes": [HASH, HASH[:-1] + "]"]},
    {"hashes": [HASH, HASH[:-1] + "é"]},
    {"hashes": [HASH, HASH + "\n"]},
    {"hashes": [HASH, None]},
    {"hashes": [HASH, 3]},
    {"hashes": [HASH]},
    {"digests": [None]},
    {"digests": [None, ""]},
    {"digests": [None, DIGEST[:-1]]},
    {"digests": [None, DIGEST.upper()]},
    {"digests": [None, 0]},
    {"digests": [None, [None]]},
    {"digests": None},
    {"revision": None},
    {"revision": "0" * 31},
    {"revision": ["0" * 32]},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
@pytest.mark.parametrize("piece_bytes", [1, 10**6])
@pytest.mark.parametrize("member", [{}, {"newer": 1}], ids=["known", "newer"])
def test_columns_that_are_wrong_are_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], piece_bytes: int, member: dict[str, object]
) -> None:
    monkeypatch.setattr(dsx._columns_json, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(dsx._columns_json, "CHECKED_ROWS", -1)  # that they do not add up would be found anyway
    assert len(read(TWO | member)) == 2
    with pytest.raises(IntegrityError, match="manifest"):
        read(TWO | change | member)


@pytest.mark.parametrize("name", list(TWO))
def test_columns_that_lack_a_member_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        read({each: value for each, value in TWO.items() if each != name})


@given(st.binary(max_size=40), st.integers(0, 400))
@example(b"]", 60)
def test_damaged_document_is_refused_or_is_another_spelling(junk: bytes, at: int) -> None:
    data = json.dumps(TWO).encode()
    try:
        manifest = parse_columns(data[:at] + junk + data[at + len(junk) :])
    except IntegrityError:
        return
    assert manifest.revision == TWO["revision"]
    assert manifest.to_rows() == read(TWO).to_rows()


def is_admitted(path: str) -> bool:
    """Ask the gate about one path."""
    try:
        check_path(path)
    except InvalidPathError:
        return False
    return True


SEGMENTS = st.sampled_from(["", ".", "..", "...", "a", ".a", "a.", "\0", "a\\b", "é", "\ud800", "x" * 2050, "\n", "-"])


@given(st.lists(st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join), min_size=1, max_size=4, unique=True))
@example(["x" * 4096])
@example(["x" * 4097])
@example(["é" * 2048])
@example(["é" * 2049])
def test_paths_pass_in_bulk_if_each_passes_the_gate(paths: list[str]) -> None:
    files = dict.fromkeys(paths, b"")
    columns = columns_of(files)
    if all(map(is_admitted, paths)):
        assert list(read(columns).paths) == sorted(paths)
    else:
        with pytest.raises(IntegrityError):
            read(columns)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\\\0/", exclude_categories=["Cs"]), min_size=1).filter(is_admitted),
        st.binary(max_size=20),
        max_size=20,
    )
)
def test_any_files_are_read_as_they_are(files: dict[str, bytes]) -> None:
    manifest = read(columns_of(files), ensure_ascii=False)
    assert [(entry.path, entry.size) for entry in manifest] == [(path, len(files[path])) for path in sorted(files)]
    assert parse_rows(json.dumps(manifest.to_rows()).encode()).to_rows() == manifest.to_rows()


@pytest.mark.parametrize("comma", [",", ", ", ",\n"])
@pytest.mark.parametrize("paths", [[], ["]"], ["A", "]"], ['a"]'], ["a,", "b["]], ids=repr)
def test_end_of_the_paths_is_found_whatever_they_hold(paths: list[str], comma: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dsx._columns_json, "_pack_whole", None)  # it would read them too, in several times the memory
        assert list(read(columns_of(dict.fromkeys(paths, b"")), separators=(comma, ":")).paths) == sorted(paths)


ROW = {"path": "a", "size": 1, "hash": HASH}


def test_plain_array_is_sorted_and_may_have_more_members() -> None:
    manifest = parse_rows(json.dumps([ROW | {"path": "b", "newer": 1}, ROW]).encode())
    assert (list(manifest.paths), manifest.revision) == (["a", "b"], "")


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [ROW, ROW],
        [3],
        [[]],
        ["a"],
        [None],
        [{}],
        [ROW | {"path": "../a"}],
        [ROW | {"path": 1}, ROW],
        [ROW | {"size": "1"}],
        [ROW | {"size": True}],
        [ROW | {"hash": "x"}],
        [ROW | {"hash": None}],
    ],
    ids=str,
)
def test_plain_array_that_is_wrong_is_refused(rows: object) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        parse_rows(json.dumps(rows).encode())


segments = st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1, max_size=3).filter(
    lambda name: name not in (".", "..")
)


@given(st.sets(st.lists(segments, min_size=1, max_size=3).map("/".join), max_size=300), st.lists(st.text(max_size=4)))
@example({f"{number:03}" for number in range(64)}, ["063"])
@example({f"{number:03}" for number in range(65)}, ["064", "06", "0640"])
@example({f"{number:03}" for number in range(130)}, ["063\x00064", "129", "130"])
def test_every_row_is_found_at_its_place_and_nothing_else_is(paths: set[str], others: list[str]) -> None:
    rows = sorted(paths)
    manifest = read(columns_of(dict.fromkeys(rows, b"")))
    for path in [*rows, *others, *(path + "\0" for path in rows[:3]), *(path[:-1] for path in rows[:70])]:
        assert manifest.find_row(path) == (rows.index(path) if path in paths else None)
