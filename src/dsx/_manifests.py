"""The manifests that a client knows: in memory, in its cache, on the hub."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

from dsx._cache import Cache
from dsx._manifest_files import format_columns_file, format_rows_file, read_columns_file, read_rows_file
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx._revisions import check_revision, naming_revisions
from dsx._scan import run_through_scan
from dsx._transport import LARGE_BODY_BYTES, Body, Transport, quote_path
from dsx.errors import CacheError, HubTimeoutError, HubUnreachableError, IntegrityError, OfflineError
from dsx.manifest import Manifest, parse_columns
from dsx.protocol.paths import check_dataset
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

MANIFEST_TIMEOUT_S = 120.0
"""Longest silence, in s, of a hub that puts a manifest together."""

PINNED_IN_MEMORY = 4
"""How many manifests of revisions a client holds at once; the others are on the disk."""


class Manifests:
    """The newest manifest known of each dataset, and those asked for by revision.

    Args:
        transport: The hub.
        cache: Where manifests are kept between runs; None to keep them in memory only.
        keeps: Whether they are; else what is there already is only read.
    """

    def __init__(self, transport: Transport, cache: Cache | None, *, keeps: bool = True) -> None:
        self._transport = transport
        self._cache = cache
        self._keeps = keeps
        self._known: dict[str, tuple[str, Manifest]] = {}
        self._pinned: dict[tuple[str, str], Manifest] = {}

    def find_newest(self, dataset: str) -> Manifest | None:
        """Return the newest manifest known, without a request; None when there is none."""
        known = self._known.get(check_dataset(dataset)) or self._load(dataset)
        return None if known is None else known[1]

    def find_loaded(self, dataset: str) -> Manifest | None:
        """Return the newest manifest known if it is in memory, else None."""
        known = self._known.get(check_dataset(dataset))
        return None if known is None else known[1]

    def refresh(self, dataset: str, *, keep_rows: bool = True, may_be_old: bool = True) -> Manifest:
        """Ask the hub whether the manifest known is still right, and return the newest.

        One conditional request. When the hub cannot be reached, the manifest known is returned, with a warning. When
        none is known and the hub is still looking at the dataset for the first time, that is waited for.

        Args:
            dataset: Name of the dataset.
            keep_rows: Whether the cache is to have the contract's plain array of it too.
            may_be_old: Whether the one known will do when the hub cannot be reached.

        Raises:
            DsxError: The hub refused, or there is neither hub nor cached manifest.
        """
        known = self._known.get(check_dataset(dataset)) or self._load(dataset)
        if self._transport.is_offline:
            if known is None:
                raise OfflineError.name(f"the manifest of dataset {shown(dataset)}")
            return known[1]
        try:
            body, came = self._request(dataset, known[0] if known else "", is_known=known is not None)
        except (HubUnreachableError, HubTimeoutError) as error:
            if known is None or not may_be_old:
                raise
            warnings.warn(f"using the cached manifest of dataset {shown(dataset)}: {error}", stacklevel=3)
            return known[1]
        if came is not None:
            etag = body.headers.get("ETag", "")
            self._keep_columns(dataset, "", format_columns_file(etag, body.data))
            known = self._known[dataset] = etag, came
        if known is None:
            raise HubUnreachableError(f"the hub did not send the manifest of dataset {shown(dataset)}")
        manifest = known[1]
        if keep_rows:
            self._keep_rows(dataset, manifest)
        return manifest

    def get_pinned(self, dataset: str, revision: str) -> Manifest:
        """Return the manifest of one revision: from memory, from the cache, or from the hub, and keep it.

        Raises:
            RevisionNotFoundError: The hub has no such revision, and neither has the cache.
        """
        key = check_dataset(dataset), check_revision(dataset, revision)
        manifest = self._pinned.get(key) or self._load_pinned(dataset, revision)
        if manifest is None and self._transport.is_offline:
            raise OfflineError.name(f"the manifest of revision {revision} of dataset {shown(dataset)}")
        if manifest is None:
            with naming_revisions(dataset, revision):
                body, manifest = self._request(dataset, "", revision=revision)
            if manifest is None or manifest.revision != revision:
                raise IntegrityError(
                    f"the hub sent another manifest of dataset {shown(dataset)} than that of revision {revision}"
                )
            self._keep_columns(dataset, revision, format_columns_file(body.headers.get("ETag", ""), body.data))
        while len(self._pinned) >= PINNED_IN_MEMORY and key not in self._pinned:
            self._pinned.pop(next(iter(self._pinned)), None)
        self._pinned[key] = manifest
        return manifest

    def list_cached(self) -> list[str]:
        """Return the names of the datasets whose manifest is in the cache, sorted."""
        if self._cache is None:
            return []
        names = {file.stem for file in self._cache.manifests.glob("*.json") if "@" not in file.stem}
        return sorted(names)

    def forget(self, dataset: str | None) -> None:
        """Forget the manifests of one dataset, or all."""
        for name in list(self._known):
            if dataset in (None, name):
                self._known.pop(name, None)
        for key in list(self._pinned):
            if dataset in (None, key[0]):
                self._pinned.pop(key, None)

    def _request(
        self, dataset: str, etag: str, *, revision: str = "", is_known: bool = False
    ) -> tuple[Body, Manifest | None]:
        """Return the answer and the manifest in it; None in its place for "still right"."""
        url = f"/manifest/{quote_path(dataset)}?format=columns" + (f"&revision={revision}" if revision else "")
        headers = {"If-None-Match": etag} if etag else {}

        def ask() -> tuple[Body, Manifest | None]:
            body = self._transport.get_body(url, headers=headers, timeout_s=MANIFEST_TIMEOUT_S, limit=LARGE_BODY_BYTES)
            return body, None if body.status == 304 else parse_columns(body.data)

        if is_known:
            return Patience(FIRST_CONTACT_S).run(ask)
        return run_through_scan(ask, dataset, patience_s=FIRST_CONTACT_S)

    def _load(self, dataset: str) -> tuple[str, Manifest] | None:
        if self._cache is None:
            return None
        found = read_columns_file(self._cache.columns_file(dataset))
        if found is None:
            rows = read_rows_file(self._cache.manifest_file(dataset))
            found = None if rows is None else ("", rows)
        if found is not None:
            self._known[dataset] = found
        return found

    def _load_pinned(self, dataset: str, revision: str) -> Manifest | None:
        found = None if self._cache is None else read_columns_file(self._cache.pinned_file(dataset, revision))
        return found[1] if found is not None and found[1].revision == revision else None

    def _keep_columns(self, dataset: str, revision: str, parts: Iterable[bytes]) -> None:
        """Keep the newest manifest, or that of a revision."""
        if (cache := self._cache) is not None and self._keeps:
            file = cache.pinned_file(dataset, revision) if revision else cache.columns_file(dataset)
            self._write(cache, dataset, file, parts)

    def _keep_rows(self, dataset: str, manifest: Manifest) -> None:
        """Keep the contract's array, unless it is there as it was written."""
        if (cache := self._cache) is None or not self._keeps:
            return
        file = cache.manifest_file(dataset)
        try:
            is_there = cache.is_as_written(file, manifest.revision)
        except CacheError:
            is_there = False
        if not is_there:
            self._write(cache, dataset, file, format_rows_file(manifest), revision=manifest.revision)

    def _write(self, cache: Cache, dataset: str, file: Path, parts: Iterable[bytes], *, revision: str = "") -> None:
        """Write a manifest; one that cannot be kept is no reason not to use it, but a cache that cannot be is one."""
        cache.open()
        try:
            cache.write_document(file, parts, revision=revision)
        except CacheError as error:
            log.warning("the manifest of dataset %s is not kept: %s", shown(dataset), error)
