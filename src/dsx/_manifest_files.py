"""How manifests lie in the cache folder: the contract's plain array, and the SDK's own file of columns.

The columns file is one line of JSON about what follows, ``{"etag": ..., "sha256": ...}``, then the columns as the hub
sent them. The checksum is what finds a damaged file: its rows could still be valid.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

from dsx.errors import IntegrityError, InvalidPathError
from dsx.manifest import Entry, Manifest, parse_columns, parse_rows
from dsx.protocol.digests import HEAD_BYTES, head_hash
from dsx.protocol.paths import check_dataset

MANIFEST_SUFFIX = "_manifest.json"


def format_columns_file(etag: str, columns: bytes) -> bytes:
    """Return the content of a columns file."""
    head = {"etag": etag, "sha256": hashlib.sha256(columns).hexdigest()}
    return json.dumps(head).encode() + b"\n" + columns


def read_columns_file(file: Path) -> tuple[str, Manifest] | None:
    """Return validator and manifest; None when the file is missing or damaged."""
    try:
        head, _, columns = file.read_bytes().partition(b"\n")
        about = json.loads(head)
        if about["sha256"] != hashlib.sha256(columns).hexdigest():
            return None
        return str(about["etag"]), parse_columns(columns)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def format_rows_file(manifest: Manifest) -> bytes:
    """Return the content of the contract's ``<dataset>_manifest.json``."""
    return json.dumps(manifest.to_rows(), ensure_ascii=False, indent=1).encode()


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
        kept = read_columns_file(manifests / f"{dataset}.json")
        rows_file = root / f"{dataset}{MANIFEST_SUFFIX}"
        manifest = kept[1] if kept else read_rows_file(rows_file)
        found = kept is not None
        for path in manifest.paths if manifest else ():
            entry = manifest.find(path) if manifest else None
            if entry is not None and _may_be(root.joinpath(dataset, *path.split("/")), entry):
                found = True
                yield dataset, path
        if found:
            yield "", rows_file.name


def _may_be(file: Path, entry: Entry) -> bool:
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
            return False
        with open(file, "rb") as opened:
            return head_hash(opened.read(HEAD_BYTES)) == entry.head_hash
    except OSError:
        return False


def _list_datasets(root: Path, manifests: Path) -> set[str]:
    names = {file.stem for file in manifests.glob("*.json")}
    names |= {file.name.removesuffix(MANIFEST_SUFFIX) for file in root.glob(f"*{MANIFEST_SUFFIX}")}
    return {name for name in names if _is_dataset(name)}


def _is_dataset(name: str) -> bool:
    try:
        check_dataset(name)
    except InvalidPathError:
        return False
    return True
