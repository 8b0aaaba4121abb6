"""From JSON to columns, with little memory: the arrays of a manifest are cut out and parsed piece by piece.

Parsed in one go, a million rows with digests are 400 MB of Python objects beside the document itself. A document that
is written in another way than hubs write it, with more members for one, is parsed in one go all the same.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from dsx._columns import (
    HASH_BYTES,
    Columns,
    pack_digests,
    pack_hashes,
    pack_numbers,
    pack_paths,
    refuse,
)
from dsx.errors import InvalidPathError
from dsx.protocol.digests import compute_revision
from dsx.protocol.text import shown

PIECE_BYTES = 1024 * 1024

CHECKED_ROWS = 100_000
"""Up to this many rows, a manifest is held against its revision; it would take seconds for millions."""

_MEMBERS = ("revision", "paths", "sizes", "mtimes_ns", "hashes", "digests")

_OPENING = re.compile(rb"\s*\{\s*")
_MEMBER = re.compile(rb'"(%s)"\s*:\s*(?=["\[])' % "|".join(_MEMBERS).encode())
_SEPARATOR = re.compile(rb"\s*([,}])\s*")
# Possessive, so that nothing is remembered for a second try: strings, and what is between them, up to the bracket.
_STRINGS = re.compile(rb'\[[^"\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"\]]*+)*+\]', re.DOTALL)


def is_revision(text: str) -> bool:
    """Tell whether ``text`` is written as the id of a revision is."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def parse_columns_json(data: bytes) -> Columns:
    """Read what ``GET /manifest/{dataset}?format=columns`` answers.

    Raises:
        IntegrityError: It is no manifest, or its rows do not add up to the revision that it names.
    """
    try:
        spans = _find_members(data)
        columns = _pack_whole(json.loads(data)) if spans is None else _pack_pieces(data, spans)
    except (ValueError, RecursionError) as error:
        raise _reword(error) from error
    if len(columns.sizes) <= CHECKED_ROWS and _compute_revision(columns) != columns.revision:
        raise refuse("it does not add up to its own revision")
    return columns


def parse_rows_json(data: bytes) -> Columns:
    """Read the contract's plain array, in any order.

    Raises:
        IntegrityError: It is no manifest.
    """
    try:
        rows = json.loads(data)
        if not isinstance(rows, list):
            raise refuse("it is no array")
        rows.sort(key=lambda row: row["path"])
        blob, starts = pack_paths([row["path"] for row in rows])
        sizes = pack_numbers("size", [[row["size"] for row in rows]], lowest=0)
        hashes = pack_hashes("hash", [[row["hash"] for row in rows]], length=HASH_BYTES)
    except (ValueError, RecursionError, TypeError, LookupError) as error:
        raise _reword(error) from error
    return Columns("", blob, starts, sizes, None, hashes, b"")


def _find_members(data: bytes) -> dict[str, tuple[int, int]] | None:
    """Find where the value of each member begins and ends; None when the document is written in another way."""
    spans: dict[str, tuple[int, int]] = {}
    found = _OPENING.match(data)
    while found is not None:
        key = _MEMBER.match(data, found.end())
        if key is None:
            return None
        name, start = key[1].decode(), key.end()
        if data[start] == ord('"'):
            stop = data.find(b'"', start + 1) + 1
        elif name == "paths":
            stop = _find_end_of_strings(data, start)
        else:
            stop = data.find(b"]", start) + 1
        found = _SEPARATOR.match(data, stop) if stop else None
        spans[name] = start, stop
        if found is not None and found[1] == b"}":
            return spans if found.end() == len(data) and len(spans) == len(_MEMBERS) else None
    return None


def _find_end_of_strings(data: bytes, start: int) -> int:
    """Return where an array of strings ends; 0 when it does not."""
    end = data.find(b'"]', start) + 2
    # Such a quote is part of a string if it is escaped, and begins one if that is where strings begin.
    if end - 3 > start and data[end - 3] not in b"\\,[ \t\r\n":
        return end
    strings = _STRINGS.match(data, start)
    return 0 if strings is None else strings.end()


def _pack_pieces(data: bytes, spans: dict[str, tuple[int, int]]) -> Columns:
    def parse(name: str) -> Any:
        start, stop = spans[name]
        return json.loads(str(data[start:stop], "utf-8"))

    # None of the strings but those of paths can have a comma in it; where one has, what is parsed is no JSON.
    def cut(name: str) -> Iterator[list[Any]]:
        start, stop = spans[name]
        at, end = start + 1, stop - 1
        while at < end:
            comma = data.find(b",", at + PIECE_BYTES, end)
            until = end if comma < 0 else comma
            yield json.loads(f"[{str(data[at:until], 'utf-8')}]")
            at = until + 1

    if any(data[spans[name][0]] != ord("[") for name in _MEMBERS[1:]):
        raise refuse("its columns are no arrays")
    # The paths come first: their list is the largest thing here, and gone before there is much else.
    blob, starts = pack_paths(parse("paths"))
    return _pack(parse("revision"), blob, starts, {name: cut(name) for name in _MEMBERS[2:]})


def _pack_whole(document: object) -> Columns:
    if not isinstance(document, dict) or not all(name in document for name in _MEMBERS):
        raise refuse("it has no columns")
    if not all(isinstance(document[name], list) for name in _MEMBERS[1:]):
        raise refuse("its columns are no arrays")
    blob, starts = pack_paths(document["paths"])
    return _pack(document["revision"], blob, starts, {name: [document[name]] for name in _MEMBERS[2:]})


def _pack(revision: object, blob: bytes, starts: array[int], pieces: dict[str, Iterable[list[Any]]]) -> Columns:
    if not isinstance(revision, str) or not is_revision(revision):
        raise refuse(f"revision: {shown(revision)} is none")
    sizes = pack_numbers("sizes", pieces["sizes"], lowest=0)
    mtimes_ns = pack_numbers("mtimes_ns", pieces["mtimes_ns"], lowest=-(2**63))
    hashes = pack_hashes("hashes", pieces["hashes"], length=HASH_BYTES)
    digests, digest_count = pack_digests(pieces["digests"])
    if {len(sizes), len(mtimes_ns), len(hashes) // HASH_BYTES, digest_count} != {len(starts) - 1}:
        raise refuse("its columns differ in length")
    return Columns(revision, blob, starts, sizes, mtimes_ns, hashes, digests)


def _compute_revision(columns: Columns) -> str:
    count = len(columns.sizes)
    hashes = columns.hashes.hex(",", -HASH_BYTES).split(",") if count else ()  # a call per row would take longer
    rows = zip(columns.read_paths(0, count), columns.sizes, hashes, columns.mtimes_ns or (), strict=True)
    return compute_revision(rows)


def _reword(error: Exception) -> Exception:
    if isinstance(error, InvalidPathError) or not isinstance(error, OSError):
        return refuse(shown(str(error)))
    return error
