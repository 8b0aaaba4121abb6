"""A manifest in the SDK's hands: the sorted list of a dataset's entries, kept as columns."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from dsx.errors import IntegrityError
from dsx.protocol.digests import compute_revision
from dsx.protocol.models import ManifestColumns, ManifestEntry
from dsx.protocol.text import shown


class Entry(NamedTuple):
    """One entry as a manifest names it.

    Attributes:
        path: POSIX path relative to the dataset.
        size: Size in bytes.
        head_hash: MD5 of the first 1024 bytes, in hex.
        mtime_ns: Modification time on the hub, ns since 1970; None when the manifest does not say.
        digest: SHA-256 of the whole entry in hex; None when the hub does not know it.
    """

    path: str
    size: int
    head_hash: str
    mtime_ns: int | None
    digest: str | None


class Manifest:
    """All entries of one state of a dataset, sorted by path.

    Attributes:
        revision: Id of that state; empty for a manifest that was read from the contract's plain array.
    """

    def __init__(self, columns: ManifestColumns, *, has_times: bool = True) -> None:
        self._columns = columns
        self._has_times = has_times
        self.revision = columns.revision if has_times else ""

    def __len__(self) -> int:
        return len(self._columns.paths)

    @property
    def paths(self) -> list[str]:
        """Every path, sorted."""
        return self._columns.paths

    def find(self, path: str) -> Entry | None:
        """Return the entry at ``path``, or None when the manifest has none."""
        columns = self._columns
        row = bisect_left(columns.paths, path)
        if row == len(columns.paths) or columns.paths[row] != path:
            return None
        mtime_ns = columns.mtimes_ns[row] if self._has_times else None
        return Entry(path, columns.sizes[row], columns.hashes[row], mtime_ns, columns.digests[row])

    def to_rows(self) -> list[dict[str, str | int]]:
        """Return the contract's list of dictionaries with ``path``, ``size`` and ``hash``."""
        columns = self._columns
        return [
            {"path": path, "size": size, "hash": head}
            for path, size, head in zip(columns.paths, columns.sizes, columns.hashes, strict=True)
        ]


_ROWS = TypeAdapter(list[ManifestEntry])


def parse_columns(data: bytes) -> Manifest:
    """Read what ``GET /manifest/{dataset}?format=columns`` answers.

    Raises:
        IntegrityError: It is no manifest, or its rows do not add up to the revision that it names.
    """
    try:
        columns = ManifestColumns.model_validate_json(data)
    except ValidationError as error:
        raise _refusal(error) from error
    rows = zip(columns.paths, columns.sizes, columns.hashes, columns.mtimes_ns, strict=True)
    if compute_revision(rows) != columns.revision:
        raise IntegrityError("the manifest that came does not add up to its own revision; it was thrown away")
    return Manifest(columns)


def parse_rows(data: bytes) -> Manifest:
    """Read the contract's plain array, as the cache keeps it.

    Raises:
        IntegrityError: It is no manifest.
    """
    try:
        rows = sorted(_ROWS.validate_json(data), key=lambda row: row.path)
        columns = ManifestColumns(
            revision="0" * 32,
            paths=[row.path for row in rows],
            sizes=[row.size for row in rows],
            mtimes_ns=[0] * len(rows),
            hashes=[row.hash for row in rows],
            digests=[None] * len(rows),
        )
    except ValidationError as error:
        raise _refusal(error) from error
    return Manifest(columns, has_times=False)


def _refusal(error: ValidationError) -> IntegrityError:
    """Say what is wrong without repeating a whole manifest."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "its form"
    return IntegrityError(f"the manifest that came is not valid: {where}: {shown(first['msg'])}; it was thrown away")
