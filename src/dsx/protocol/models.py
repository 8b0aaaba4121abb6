"""The JSON of the wire, as pydantic models: what the hub writes and what the SDK accepts.

The SDK validates everything that a hub sends with these, so that a broken or hostile hub gives an error and not a
surprise later: paths pass the gate, sizes lie between 0 and 2^63 - 1, hashes are hashes, no path comes twice.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dsx.protocol.paths import check_dataset, check_path
from dsx.protocol.text import shown

EntryPath = Annotated[str, AfterValidator(check_path)]
DatasetName = Annotated[str, AfterValidator(check_dataset)]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Offset = Annotated[int, Field(ge=0, le=2**63)]
HeadHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
MtimeNs = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class WireModel(BaseModel):
    """Base of the wire models: strict about types, silent about members that a newer program adds."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class ManifestRow(WireModel):
    """One row of the contract's manifest."""

    path: EntryPath = Field(description="Path relative to the dataset, with / between segments.")
    size: Size = Field(description="Size in bytes.")
    hash: HeadHash = Field(description="MD5 of the first 1024 bytes, in hex.")


class ManifestColumns(WireModel):
    """A manifest as columns: row ``i`` is the ``i``-th element of each array; rows are sorted by path."""

    revision: Revision
    paths: list[EntryPath]
    sizes: list[Size]
    mtimes_ns: list[MtimeNs] = Field(description="Modification times, in ns since 1970.")
    hashes: list[HeadHash]
    digests: list[Digest | None] = Field(description="SHA-256 of the whole entry in hex, where the hub knows it.")

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        lengths = {len(self.paths), len(self.sizes), len(self.mtimes_ns), len(self.hashes), len(self.digests)}
        if len(lengths) != 1:
            raise ValueError("the columns of the manifest differ in length")
        for before, after in zip(self.paths, self.paths[1:], strict=False):
            if before >= after:
                raise ValueError(f"manifest paths are not sorted or repeat: {shown(before)}, {shown(after)}")
        return self


class DatasetInfo(WireModel):
    """What ``GET /datasets/{dataset}`` says about one dataset."""

    name: DatasetName
    entries: int = Field(ge=0, description="Number of entries; during the first scan, of those found so far.")
    bytes: int = Field(ge=0, description="Sum of their sizes.")
    revision: Revision | None = Field(default=None, description="Newest revision; null until the first scan has ended.")
    scanned_at: str | None = Field(default=None, description="When the folder was last read: ISO 8601, UTC.")
    scanning: bool = Field(default=False, description="Whether the folder is being read just now.")
    digest_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of the entries whose SHA-256 the hub knows, from 0 to 1."
    )
    left_out: dict[str, int] = Field(description="How many files were left out of the manifest, by reason.")


class RevisionInfo(WireModel):
    """One revision that the hub keeps of a dataset.

    Attributes:
        revision: Its id.
        created_at: When it was published: ISO 8601, UTC.
        entries: Number of entries.
        bytes: Sum of their sizes, in bytes.
    """

    revision: Revision
    created_at: str = Field(description="When it was published: ISO 8601, UTC.")
    entries: int = Field(ge=0, description="Number of entries.")
    bytes: int = Field(ge=0, description="Sum of their sizes.")


class DatasetDiff(WireModel):
    """What differs between two revisions of a dataset; the paths are sorted.

    Attributes:
        from_revision: The one, ``from`` in JSON.
        to_revision: The other, ``to`` in JSON.
        added: Paths that only the other has.
        changed: Paths that both have, with other content or another modification time.
        removed: Paths that only the one has.
    """

    model_config = ConfigDict(populate_by_name=True)

    from_revision: Revision = Field(alias="from", description="The revision compared with.")
    to_revision: Revision = Field(alias="to", description="The revision compared.")
    added: list[EntryPath] = Field(description="Paths that only `to` has.")
    changed: list[EntryPath] = Field(description="Paths of entries that differ.")
    removed: list[EntryPath] = Field(description="Paths that only `from` has.")


class BatchRequest(WireModel):
    """What ``POST /batch/{dataset}`` asks for: whole entries, or bytes of entries.

    Paths do not pass the gate here: one that it refuses is a frame that says so, and does not fail the others.
    """

    # What is wrong is told up to the first mistake: to collect 190,000 of them takes half a second.
    paths: list[str] | None = Field(default=None, fail_fast=True, description="Entries that are wanted whole.")
    reads: list[tuple[str, Offset, Offset]] | None = Field(
        default=None,
        fail_fast=True,
        description="`[path, start, stop]`: bytes of entries; `stop` may lie past the end.",
    )
    revision: str | None = Field(default=None, description="Entries that are not what this revision says are changed.")

    @model_validator(mode="after")
    def _check_reads(self) -> Self:
        if (self.paths is None) == (self.reads is None):
            raise ValueError("a batch has either paths or reads")
        for number, (path, start, stop) in enumerate(self.reads or ()):
            if start > stop:
                raise ValueError(f"read {number}, of {shown(path)}, begins at {start} and ends before that, at {stop}")
        return self


MAX_BATCH_ENTRIES = 65_536
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""The most that a batch request may ask for, and the longest that its JSON may be, in bytes."""


class Health(WireModel):
    """What ``GET /health`` says."""

    status: str
    version: str


class ProblemDetail(WireModel):
    """The body of every error answer.

    Source:
        RFC 9457; ``code`` and ``request_id`` are extension members. Media type: `PROBLEM_TYPE`.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="What happened, where, and what to do.")
    code: str = Field(description="Stable name of the error.")
    request_id: str | None = Field(
        default=None, description="The id of the line in the hub's log; 401 has it only in X-Request-Id."
    )


PROBLEM_TYPE = "application/problem+json"
