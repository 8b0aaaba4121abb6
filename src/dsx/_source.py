"""The samples of one dataset in one revision: which there are, and how their bytes come."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dsx._access import Access
from dsx._ahead import Ahead, Bring, Collector, bring_from_hub
from dsx._kept import Keeper
from dsx._meter import Meter
from dsx._placed import Nearby, Placed
from dsx._reads import Origin, Read
from dsx._state import Choice
from dsx.errors import InvalidRequestError, RevisionNotFoundError
from dsx.manifest import Manifest, ManifestEntry, columns_of
from dsx.protocol.globs import make_filter
from dsx.protocol.text import shown

log = logging.getLogger("dsx")


class Sample(NamedTuple):
    """One sample.

    Attributes:
        index: Its row in the whole manifest of its revision, also where a selection is streamed.
        path: Path of its entry.
        data: Its bytes.
    """

    index: int  # type: ignore[assignment]  # -- the name that readers expect, in place of a method that none needs
    path: str
    data: bytes


class SampleSource:
    """Samples numbered from 0, in the order of the manifest. Threads and processes may share it.

    Attributes:
        choice: What was asked for.
        revision: The revision that the samples are of.
        rows: The row of each sample in the whole manifest.

    Args:
        access: The hub.
        choice: Which samples.
        manifest: The whole manifest.
        is_kept: Whether they are kept in the cache.
    """

    def __init__(self, access: Access, choice: Choice, manifest: Manifest, *, is_kept: bool) -> None:
        self.choice = choice
        self.revision = manifest.revision
        self.rows = _select(manifest, choice)
        self._access = access
        self._manifest = manifest
        self._is_kept = is_kept
        self._placed = self._find_placed()
        self._bring = self._make_bring()

    @classmethod
    def open(cls, access: Access, choice: Choice, *, is_kept: bool) -> SampleSource:
        """Find out which samples there are, by one request.

        Raises:
            DatasetNotFoundError: The hub has no such dataset.
            RevisionNotFoundError: The dataset has no such revision.
            CacheDisabledError: They are to be kept, and there is no cache.
        """
        if is_kept:
            access.folders.find("stream")
        manifests = access.manifests
        if choice.revision is None:
            manifest = manifests.refresh(choice.dataset, keep_rows=False)
        else:
            manifest = manifests.get_pinned(choice.dataset, choice.revision)
        return cls(access, choice, manifest, is_kept=is_kept)

    def at_revision(self, revision: str) -> SampleSource:
        """Return the same samples as they were in a revision.

        Raises:
            InvalidRequestError: Neither the hub nor the cache has it any more.
        """
        if revision == self.revision:
            return self
        try:
            manifest = self._access.manifests.get_pinned(self.choice.dataset, revision)
        except (RevisionNotFoundError, InvalidRequestError) as error:
            raise InvalidRequestError(
                f"the state is of revision {shown(revision)} of dataset {shown(self.choice.dataset)}, which the hub "
                f"has no longer; the newest is {self.revision}: {error}"
            ) from error
        return SampleSource(self._access, self.choice, manifest, is_kept=self._is_kept)

    def __len__(self) -> int:
        return len(self.rows)

    def read_path(self, number: int) -> str:
        """Return the path of a sample."""
        return columns_of(self._manifest).read_path(self.rows[number]).decode()

    def iter_paths(self) -> Iterator[str]:
        """Return the path of every sample, one after another."""
        if isinstance(self.rows, range):
            return iter(self._manifest.paths)
        return map(self.read_path, range(len(self)))

    def list_sizes(self) -> Sequence[int]:
        """Return the size, in bytes, of each row of the manifest."""
        return columns_of(self._manifest).sizes

    def read_all(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the bytes of some samples: one request for up to some thousand.

        Raises:
            DsxError: What is wrong with the first that did not come, or with all of them.
        """
        collector = Collector()
        self._bring(list(self.plan(numbers)), collector, threading.Event())
        return [raise_error(result) for result in collector.results]

    def read_ahead(self, numbers: Iterable[int], *, budget_bytes: int, meter: Meter) -> Ahead | Nearby:
        """Return what brings samples ahead of whoever takes them; nothing has to, where all are in the cache."""

        def otherwise(numbers: Iterable[int]) -> Ahead:
            origin, bring = self._origin, self._bring
            reads = self.plan(numbers)
            return Ahead(self._access.batches, origin, reads, budget_bytes=budget_bytes, bring=bring, meter=meter)

        if self._placed is not None and self.is_nearby():
            return Nearby(self._placed, self.rows, numbers, otherwise)
        return otherwise(numbers)

    def is_nearby(self) -> bool:
        """Tell whether all samples are in the cache; processes that are forked afterwards need not ask."""
        return self._placed is not None and self._placed.covers(self.rows)

    def plan(self, numbers: Iterable[int]) -> Iterator[Read]:
        """Return what is to be read of each sample, made as it is asked for."""
        read_row, rows = columns_of(self._manifest).read_row, self.rows
        for number in numbers:
            entry = ManifestEntry._make(read_row(rows[number]))
            yield Read(entry.path, None, entry)

    @property
    def _origin(self) -> Origin:
        return Origin(self.choice.dataset, self.revision)

    def _find_placed(self) -> Placed | None:
        if not self._is_kept:
            return None
        return Placed(self._access.folders.find("stream"), self.choice.dataset, self._manifest)

    def _make_bring(self) -> Bring:
        from_hub = bring_from_hub(self._access.batches, self._origin)
        if not self._is_kept:
            return from_hub
        cache = self._access.folders.find("stream")
        if cache.limit_bytes is not None:
            cache.check_fits(
                max(self.list_sizes(), default=0), f"the largest file of dataset {shown(self.choice.dataset)}"
            )
        return Keeper(cache, self.choice.dataset, from_hub).bring

    def __getstate__(self) -> tuple[Access, Choice, Manifest, bool]:
        return self._access, self.choice, self._manifest, self._is_kept

    def __setstate__(self, state: tuple[Access, Choice, Manifest, bool]) -> None:
        access, choice, manifest, is_kept = state
        SampleSource.__init__(self, access, choice, manifest, is_kept=is_kept)


def raise_error(result: bytes | Exception) -> bytes:
    """Return the bytes that came, or raise what is in their place."""
    if isinstance(result, bytes):
        return result
    raise result


def _select(manifest: Manifest, choice: Choice) -> Sequence[int]:
    if choice.include is None and choice.exclude is None:
        return range(len(manifest))
    is_wanted = make_filter(choice.include, choice.exclude)
    rows = array("q", (row for row, path in enumerate(manifest.paths) if is_wanted(path)))
    if len(manifest) and not rows:
        log.warning(
            "none of the %d files of dataset %s matches include=%s, exclude=%s: there are no samples",
            len(manifest),
            shown(choice.dataset),
            shown(choice.include),
            shown(choice.exclude),
        )
    return rows
