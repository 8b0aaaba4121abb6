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
HeadHash = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
MtimeNs = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class WireModel(BaseModel):
    """Base of the wire models: strict about types, silent about members that a newer program adds."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class ManifestEntry(WireModel):
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
    entries: int = Field(ge=0, description="Number of entries.")
    bytes: int = Field(ge=0, description="Sum of their sizes.")
    revision: Revision
    scanned_at: str = Field(description="When the folder was last read: ISO 8601, UTC.")
    left_out: dict[str, int] = Field(description="How many files were left out of the manifest, by reason.")


class RevisionInfo(WireModel):
    """One revision in the list of ``GET /datasets/{dataset}/revisions``."""

    revision: Revision
    created_at: str = Field(description="When it was published: ISO 8601, UTC.")
    entries: int = Field(ge=0, description="Number of entries.")
    bytes: int = Field(ge=0, description="Sum of their sizes.")


class DatasetDiff(WireModel):
    """What ``GET /datasets/{dataset}/diff`` says: paths, sorted."""

    from_: Revision = Field(alias="from")
    to: Revision
    added: list[EntryPath]
    changed: list[EntryPath]
    removed: list[EntryPath]


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
