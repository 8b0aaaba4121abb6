"""What a call wants read of a dataset: whole entries, or bytes of entries; checked before the hub is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from dsx.errors import InvalidPathError, InvalidRequestError
from dsx.manifest import Manifest, ManifestEntry
from dsx.protocol.digests import HEAD_BYTES
from dsx.protocol.paths import check_path
from dsx.protocol.text import shown

OnError = Literal["raise", "skip"]

MAX_OFFSET = 2**63
"""The largest offset that the wire carries; no entry is as long."""


TO_THE_END_BYTES = 64 * 1024 * 1024
"""Somebody who asks for more than this, in bytes, probably means the rest of the entry, however long that is."""


class Origin(NamedTuple):
    """Where reads are from.

    Attributes:
        dataset: Name of the dataset.
        revision: The revision that an entry has to be of, else it is a `ConflictError` at once, or one that is not
            found; empty for whatever the hub has.
    """

    dataset: str
    revision: str = ""

    def without_revision_if(self, are_told: bool) -> Origin:
        """Return what the hub has to be asked when the bytes alone tell what they are.

        The hub looks up every entry of a batch that names a revision; that is a third of its work for short ones.
        """
        return Origin(self.dataset) if are_told else self


class Read(NamedTuple):
    """One entry, or some bytes of it.

    Attributes:
        path: Path of the entry.
        span: The bytes wanted, half-open; None for the whole entry.
        entry: What a manifest says of it; None when no manifest is in memory.
        refusal: Why it is not even asked for; None when it is.
        is_held_later: Whether whoever takes the bytes holds them against the manifest.
    """

    path: str
    span: tuple[int, int] | None = None
    entry: ManifestEntry | None = None
    refusal: InvalidPathError | None = None
    is_held_later: bool = False

    @property
    def most_bytes(self) -> int:
        """The most bytes that the hub may send for it."""
        return MAX_OFFSET if self.span is None else self.span[1] - self.span[0]

    @property
    def is_told(self) -> bool:
        """Whether its bytes alone tell that they are the entry that the manifest names."""
        entry = self.entry
        return self.span is None and entry is not None and (entry.digest is not None or entry.size <= HEAD_BYTES)

    @property
    def expected_bytes(self) -> int | None:
        """How many bytes it will probably be; None when nothing is known."""
        size = None if self.entry is None else self.entry.size
        if self.span is None:
            return size
        start, stop = self.span
        if size is None:
            return stop - start if stop - start <= TO_THE_END_BYTES else None
        return max(0, min(stop, size) - start)


def plan_entries(subpaths: Iterable[str], manifest: Manifest | None, on_error: OnError) -> Iterator[Read]:
    """Return one read per path, made as they are asked for.

    Raises:
        InvalidRequestError: Something is no list of paths, or ``on_error`` is not what it can be.
        InvalidPathError: The gate does not admit one of a list, and ``on_error`` is ``"raise"``. A path of an
            iterator, which cannot be looked at beforehand, is refused when its turn comes.
    """
    if on_error not in ("raise", "skip"):
        raise InvalidRequestError(f"on_error is 'raise' or 'skip', not {shown(on_error)}")
    if isinstance(subpaths, (str, bytes)):
        raise InvalidRequestError(f"subpaths is a list of paths; for one file pass [{shown(subpaths)}]")
    if on_error == "raise" and isinstance(subpaths, (list, tuple)):
        checked = [check_path(path) for path in subpaths]
        return (_plan_entry(path, manifest) for path in checked)
    return (_check_entry(path, manifest) for path in subpaths)


def _check_entry(path: str, manifest: Manifest | None) -> Read:
    try:
        return _plan_entry(check_path(path), manifest)
    except InvalidPathError as error:
        return Read(path, refusal=error)


def _plan_entry(path: str, manifest: Manifest | None) -> Read:
    return Read(path, None, None if manifest is None else manifest.find(path))


def plan_ranges(reads: Iterable[tuple[str, int, int]], manifest: Manifest | None) -> list[Read]:
    """Return one read per ``(path, start, stop)``.

    Raises:
        InvalidRequestError: One is not of that form, or not ``0 <= start <= stop``.
        InvalidPathError: The gate does not admit a path.
    """
    return [_plan_range(read, manifest) for read in reads]


def _plan_range(read: tuple[str, int, int], manifest: Manifest | None) -> Read:
    try:
        path, start, stop = read
        is_range = isinstance(start, int) and isinstance(stop, int) and 0 <= start <= stop
    except (TypeError, ValueError):
        is_range = False
    if not is_range:
        raise InvalidRequestError(f"a read is (path, start, stop) with 0 <= start <= stop; got {shown(read)}")
    entry = None if manifest is None else manifest.find(check_path(path))
    return Read(check_path(path), (min(start, MAX_OFFSET), min(stop, MAX_OFFSET)), entry)
