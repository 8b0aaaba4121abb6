"""The manifests that a client knows: in memory, in its cache, on the hub."""

from __future__ import annotations

import logging
import warnings

from dsx._cache import Cache
from dsx._manifest_files import format_columns_file, format_rows_file, read_columns_file, read_rows_file
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx._transport import LARGE_BODY_BYTES, Body, Transport, quote_path
from dsx.errors import CacheError, HubTimeoutError, HubUnreachableError
from dsx.manifest import Manifest, parse_columns
from dsx.protocol.paths import check_dataset
from dsx.protocol.text import shown

log = logging.getLogger("dsx")

SCAN_TIMEOUT_S = 120.0
"""Longest wait, in s, for a hub that scans a dataset before it answers."""


class Manifests:
    """The newest manifest known of each dataset.

    Args:
        transport: The hub.
        cache: Where manifests are kept between runs; None to keep them in memory only.
    """

    def __init__(self, transport: Transport, cache: Cache | None) -> None:
        self._transport = transport
        self._cache = cache
        self._known: dict[str, tuple[str, Manifest]] = {}

    def find_newest(self, dataset: str) -> Manifest | None:
        """Return the newest manifest known, without a request; None when there is none."""
        known = self._known.get(dataset) or self._load(dataset)
        return None if known is None else known[1]

    def refresh(self, dataset: str) -> Manifest:
        """Ask the hub whether the manifest known is still right, and return the newest.

        One conditional request. When the hub cannot be reached, the manifest known is returned, with a warning.

        Raises:
            DsxError: The hub refused, or there is neither hub nor cached manifest.
        """
        known = self._known.get(check_dataset(dataset)) or self._load(dataset)
        try:
            body, manifest = self._request(dataset, known[0] if known else "")
        except (HubUnreachableError, HubTimeoutError) as error:
            if known is None:
                raise
            warnings.warn(f"using the cached manifest of dataset {shown(dataset)}: {error}", stacklevel=3)
            return known[1]
        if manifest is None and known is not None:
            self._restore_rows(dataset, known[1])
            return known[1]
        if manifest is None:
            raise HubUnreachableError(f"the hub did not send the manifest of dataset {shown(dataset)}")
        etag = body.headers.get("ETag", "")
        self._store(dataset, etag, manifest, body.data)
        self._known[dataset] = etag, manifest
        return manifest

    def forget(self, dataset: str | None) -> None:
        """Forget the manifest of one dataset, or all."""
        if dataset is None:
            self._known.clear()
        else:
            self._known.pop(dataset, None)

    def _request(self, dataset: str, etag: str) -> tuple[Body, Manifest | None]:
        """Return the answer and the manifest in it; None in its place for "still right"."""
        url = f"/manifest/{quote_path(dataset)}?format=columns"
        headers = {"If-None-Match": etag} if etag else {}

        def ask() -> tuple[Body, Manifest | None]:
            body = self._transport.get_body(url, headers=headers, timeout_s=SCAN_TIMEOUT_S, limit=LARGE_BODY_BYTES)
            return body, None if body.status == 304 else parse_columns(body.data)

        return Patience(FIRST_CONTACT_S).run(ask)

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

    def _store(self, dataset: str, etag: str, manifest: Manifest, data: bytes) -> None:
        """Keep a manifest on disk; one that cannot be kept is no reason not to use it."""
        if self._cache is None:
            return
        self._cache.open()
        try:
            self._cache.write_document(self._cache.manifest_file(dataset), format_rows_file(manifest))
            self._cache.write_document(self._cache.columns_file(dataset), format_columns_file(etag, data))
        except CacheError as error:
            log.warning("the manifest of dataset %s is not kept: %s", shown(dataset), error)

    def _restore_rows(self, dataset: str, manifest: Manifest) -> None:
        """Write the contract's array anew when it is not as it was written."""
        if self._cache is None:
            return
        try:
            if not self._cache.is_as_written(file := self._cache.manifest_file(dataset)):
                self._cache.write_document(file, format_rows_file(manifest))
        except CacheError as error:
            log.warning("the manifest of dataset %s is not kept: %s", shown(dataset), error)
