"""What works behind the routes: scans, the watch on folders, the computing of digests. One process of a hub has it."""

from __future__ import annotations

import contextlib
import logging

from dsx.errors import DsxError
from dsx_server.activity import Activity
from dsx_server.index import Digester, Index, Keeper, Watcher, can_watch, claim_folder
from dsx_server.settings import Settings
from dsx_server.storage import Storage

log = logging.getLogger("dsx.index")

SNAPSHOT_FROM = 2000
"""The manifest of a dataset with so many entries is made ready before anybody asks for it."""


class Backstage:
    """Keeps the index of one state folder, which no other hub may use meanwhile; `close` it when done.

    Args:
        settings: What the hub was told.
        storage: Where the datasets lie.

    Attributes:
        index: What is known.
        keeper: Scans when asked.
        activity: Is told of requests, so that digests are computed when there are none.

    Raises:
        SettingsError: The state folder cannot be used, or another hub uses it.
    """

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self._claim = claim_folder(settings.index_dir)
        try:
            self.index = Index(settings.index_dir, storage)
        except BaseException:
            self._claim.close()
            raise
        self.activity = Activity()
        self.keeper = Keeper(
            self.index.db,
            storage,
            list_datasets=self.index.list_datasets,
            rescan_s=settings.rescan_s,
            on_news=self._prepare_manifest,
            on_rebuilt=self.index.snapshots.clear,
        )
        self._helpers: list[Watcher | Digester] = []
        if settings.digests == "background":
            self._helpers.append(Digester(self.index, storage, is_idle=self._is_idle, on_news=self._prepare_manifest))
        if settings.watch and can_watch():
            self._helpers.append(Watcher(storage, self.keeper))
        elif settings.watch:
            log.info(
                "changes are looked for every %g s; to see them at once: pip install 'dsx-hub[watch]'",
                settings.rescan_s,
            )

    def start(self) -> None:
        """Begin to work."""
        self.keeper.start()
        for helper in self._helpers:
            helper.start()

    def close(self) -> None:
        """Begin nothing more, and let the state folder go; may be called twice."""
        for helper in self._helpers:
            helper.close()
        self.keeper.close()
        self.index.close()
        self._claim.close()

    def _is_idle(self) -> bool:
        """Tell whether there is time for digests: nobody waits for a request, and no scan is under way."""
        return self.activity.is_idle() and not self.keeper.is_scanning()

    def _prepare_manifest(self, dataset: str) -> None:
        """Make the manifest of a large dataset ready to be sent."""
        with contextlib.suppress(DsxError):  # whoever asks for it learns what is wrong
            newest = self.index.find_newest(dataset)
            if newest is not None and newest.entries >= SNAPSHOT_FROM:
                self.index.open_manifest(dataset, None, "columns").file.close()
