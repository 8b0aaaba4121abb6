"""A hub on a disk that takes its time: ``cold_hub.py DELAY_MS``, the rest is in the variables of the hub.

A sleep before each open stands for a network disk that has nothing in its cache. Scans are not slowed down.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from dsx.errors import DsxError
from dsx_server.app import create_app
from dsx_server.process import configure_logging, make_server, tune_collector
from dsx_server.run import bind
from dsx_server.settings import Settings
from dsx_server.storage import Content, Listing, LocalStorage, OpenEntry, Read, Reader, Storage, Watchable


class ColdReader:
    """Reads as ``reader`` does, and sleeps ``delay_s`` for each entry."""

    def __init__(self, reader: Reader, delay_s: float) -> None:
        self._reader = reader
        self._delay_s = delay_s

    def read_many(self, reads: Sequence[Read], *, limit: int) -> list[Content | DsxError]:
        """Read one after another, as `Reader.read_many` promises: each is waited for before the next is opened."""
        found: list[Content | DsxError] = []
        for read in reads:
            time.sleep(self._delay_s)
            results = self._reader.read_many([read], limit=limit)
            if not results:
                break
            found += results
            limit -= sum(len(result.data) for result in results if isinstance(result, Content))
        return found

    def open(self, path: str) -> OpenEntry:
        """Open one entry."""
        time.sleep(self._delay_s)
        return self._reader.open(path)


class ColdStorage:
    """A storage each open of which takes ``delay_s`` longer."""

    def __init__(self, storage: Storage, delay_s: float) -> None:
        self._storage = storage
        self._delay_s = delay_s

    def list_datasets(self) -> list[str]:
        """Return the names of all datasets, sorted."""
        return self._storage.list_datasets()

    def has_name(self, dataset: str) -> bool:
        """Tell whether there is anything of this name."""
        return self._storage.has_name(dataset)

    def identify_folder(self, dataset: str | None) -> tuple[int, int]:
        """Return what tells the folder of a dataset, or the served folder, from another at the same place."""
        return self._storage.identify_folder(dataset)

    def list_watchable(self) -> Mapping[str, Watchable]:
        """Return the folders of which the system tells every change."""
        return self._storage.list_watchable()

    def walk(self, dataset: str, folder: str = "") -> Iterator[Listing]:
        """Yield the listing of every folder."""
        return self._storage.walk(dataset, folder)

    def list_folder(self, dataset: str, folder: str) -> Listing | None:
        """Return the listing of one folder."""
        return self._storage.list_folder(dataset, folder)

    def get_reader(self, dataset: str) -> Reader:
        """Return what reads many entries of a dataset."""
        return ColdReader(self._storage.get_reader(dataset), self._delay_s)

    def open(self, dataset: str, path: str) -> OpenEntry:
        """Open one entry."""
        time.sleep(self._delay_s)
        return self._storage.open(dataset, path)


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.load()
    configure_logging(settings)
    tune_collector()
    storage = ColdStorage(LocalStorage(settings.dataset_path), float(sys.argv[1]) / 1000)
    listener = bind(settings)
    host, port = listener.getsockname()[:2]
    with closing(create_app(settings, storage)) as app:
        print(f"the cold hub listens on http://{host}:{port}", flush=True)
        make_server(app).run(sockets=[listener])


if __name__ == "__main__":
    main()
