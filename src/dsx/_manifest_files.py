"""How manifests lie in the cache folder: the contract's plain array, and the SDK's own file of columns.

A columns file is one line of JSON about what follows, ``{"etag": ..., "sha256": ...}``, then the columns as the hub
sent them. The checksum is what finds a damaged file: its rows could still be valid. ``cats.json`` has the newest
manifest known of a dataset, ``cats@<revision>.json`` one that was asked for by its revision.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from dsx.errors import IntegrityError, InvalidPathError
from dsx.manifest import Manifest, ManifestEntry, parse_columns, parse_rows
from dsx.protocol.digests import HEAD_BYTES, head_hash
from dsx.protocol.paths import check_dataset

MANIFEST_SUFFIX = "_manifest.json"
PINNED_SUFFIX = re.compile(r"@[0-9a-f]{32}\Z")
HEAD_LINE_BYTES = 10_000
ROWS_AT_ONCE = 1024


def format_columns_file(etag: str, columns: bytes) -> list[bytes]:
    """Return the content of a columns file, in pieces."""
    head = {"etag": etag, "sha256": hashlib.sha256(columns).hexdigest()}
    return [json.dumps(head).encode(), b"\n", columns]


def read_columns_file(file: Path) -> tuple[str, Manifest] | None:
    """Return validator and manifest; None when the file is missing or damaged."""
    try:
        with open(file, "rb") as opened:
            about = json.loads(opened.readline(HEAD_LINE_BYTES))
            columns = opened.read()
        if about["sha256"] != hashlib.sha256(columns).hexdigest():
            return None
        return str(about["etag"]), parse_columns(columns)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def format_rows_file(manifest: Manifest) -> Iterator[bytes]:
    """Yield the content of the contract's ``<dataset>_manifest.json``, a row a line."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    before = "[\n"
    for start in range(0, len(manifest), ROWS_AT_ONCE):
        rows = manifest[start : start + ROWS_AT_ONCE].to_rows()
        yield (before + ",\n".join(map(encode, rows))).encode()
        before = ",\n"
    yield b"\n]" if len(manifest) else b"[]"


def read_rows_file(file: Path) -> Manifest | None:
    """Return the manifest in a plain array; None when the file is missing or is no manifest."""
    try:
        return parse_rows(file.read_bytes())
    except (OSError, IntegrityError):
        return None


def list_named_files(root: Path, manifests: Path) -> Iterator[tuple[str, str]]:
    """Name the files below ``root`` that its cached manifests name, as far as they are there.

    One of another size or with other first bytes is not what was published, but somebody's own.

    Yields:
        ``(dataset, path)`` of each entry, and ``("", name)`` of each manifest of which anything is there.
    """
    for dataset in _list_datasets(root, manifests):
        rows_file = root / f"{dataset}{MANIFEST_SUFFIX}"
        kept = [each[1] for file in list_columns_files(manifests, dataset) if (each := read_columns_file(file))]
        plain = None if kept else read_rows_file(rows_file)
        found = set()
        for entry in (entry for manifest in [*kept, plain] if manifest for entry in manifest):
            if entry.path not in found and _may_be(root.joinpath(dataset, *entry.path.split("/")), entry):
                found.add(entry.path)
                yield dataset, entry.path
        if kept or found:
            yield "", rows_file.name


def list_columns_files(manifests: Path, dataset: str) -> list[Path]:
    """Return the columns files of a dataset: of the newest manifest known, and of those asked for by revision."""
    return sorted(file for file in manifests.glob("*.json") if name_dataset(file) == dataset)


def name_dataset(file: Path) -> str:
    """Return the name of the dataset that a columns file is of."""
    return PINNED_SUFFIX.sub("", file.stem)


def _may_be(file: Path, entry: ManifestEntry) -> bool:
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        with open(file, "rb") as opened:
            return head_hash(opened.read(HEAD_BYTES)) == entry.hash
    except OSError:
        return False


def _list_datasets(root: Path, manifests: Path) -> set[str]:
    names = {name_dataset(file) for file in manifests.glob("*.json")}
    names |= {file.name.removesuffix(MANIFEST_SUFFIX) for file in root.glob(f"*{MANIFEST_SUFFIX}")}
    return {name for name in names if _is_dataset(name)}


def _is_dataset(name: str) -> bool:
    try:
        check_dataset(name)
    except InvalidPathError:
        return False
    return True
