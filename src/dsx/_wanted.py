"""Which entry is meant, and what a manifest and the hub say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from dsx._transport import quote_path
from dsx.errors import ConflictError
from dsx.manifest import ManifestEntry
from dsx.protocol.digests import parse_repr_digest
from dsx.protocol.paths import check_dataset, check_path
from dsx.protocol.text import shown


class State(NamedTuple):
    """What the hub says of the entry that it has.

    Attributes:
        size: Size in bytes.
        head_hash: MD5 of the first 1024 bytes, in hex; None when it did not say.
        mtime_ns: Modification time on the hub, ns since 1970; None when it did not say.
        digest: SHA-256 of the whole entry, in hex; None when it did not say.
    """

    size: int
    head_hash: str | None
    mtime_ns: int | None
    digest: str | None

    @classmethod
    def read(cls, headers: Mapping[str, str], *, size: int) -> State:
        """Read it from the headers of an answer about an entry of ``size`` bytes."""
        mtime_ns = _parse_mtime(headers.get("X-DSX-Mtime-Ns", ""))
        return cls(size, headers.get("X-DSX-Hash"), mtime_ns, parse_repr_digest(headers.get("Repr-Digest", "")))


class Wanted(NamedTuple):
    """An entry, and what is known of it before it is asked for.

    Attributes:
        dataset: Name of its dataset.
        path: Its path.
        entry: What a manifest says of it; None when no manifest is known.
        revision: The revision of that manifest when the entry has to be of it; empty for whatever the hub has.
    """

    dataset: str
    path: str
    entry: ManifestEntry | None = None
    revision: str = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        return shown(f"{self.dataset}/{self.path}")

    @property
    def url(self) -> str:
        """Path and query of its URL.

        Raises:
            InvalidPathError: The gate does not admit the names.
        """
        query = f"?revision={self.revision}" if self.revision else ""
        return "/file/" + quote_path(check_dataset(self.dataset), check_path(self.path)) + query

    def is_entry(self, state: State) -> bool:
        """Tell whether what the hub has is what the manifest names; a digest counts when both have one."""
        entry = self.entry
        if entry is None:
            return False
        is_same = (state.size, state.head_hash) == (entry.size, entry.hash) and entry.mtime_ns in (None, state.mtime_ns)
        return is_same and (state.digest is None or entry.digest in (None, state.digest))

    def check_pinned(self, state: State) -> None:
        """Raise ConflictError when it has to be of a revision and what the hub has is not."""
        if self.revision and not self.is_entry(state):
            raise self.make_conflict("has changed")

    def make_conflict(self, what: str) -> ConflictError:
        """Word that the hub no longer has it as it was in the revision."""
        return ConflictError(
            f"{self.name} {what} since revision {self.revision}, so that it cannot be read as it was then; "
            f"hub.diff({shown(self.dataset)}, ...) says what else has changed"
        )


def _parse_mtime(text: str) -> int | None:
    """Read ``X-DSX-Mtime-Ns``; None when it is no time that a file can have."""
    return int(text) if re.fullmatch(r"-?\d{1,19}", text, re.ASCII) and -(2**63) <= int(text) < 2**63 else None
