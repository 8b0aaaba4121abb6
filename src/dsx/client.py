"""`DatasetHubClient`: the calls that people make. It checks arguments and hands on; the work is done below."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dsx._access import Access
from dsx._ahead import BUDGET_BYTES, iter_bytes
from dsx._cleaning import clear_cache, measure_cache
from dsx._pull import Pull, find_manifest
from dsx._reads import OnError, Origin, plan_entries, plan_ranges
from dsx._retry import FIRST_CONTACT_S, Patience
from dsx._revisions import Revisions
from dsx._selecting import Options, Verify, hold_list
from dsx._single import SingleReads
from dsx._source import SampleSource
from dsx._state import Choice
from dsx.config import resolve_address, resolve_cache_limit
from dsx.errors import HubError, InvalidRequestError
from dsx.manifest import Manifest
from dsx.order import Remainder
from dsx.protocol.globs import Patterns
from dsx.protocol.models import DatasetDiff, DatasetName, RevisionInfo
from dsx.stream import SampleStream, StreamOptions

DATASETS_TIMEOUT_S = 10.0
DATASETS_BYTES = 64 * 1024**2

_NAMES = TypeAdapter(list[DatasetName])


class DatasetHubClient:
    """Read the datasets of one hub.

    Threads may share a client. It pickles, and it works on after a fork: every process makes its own connections.
    Making one sends nothing; `close` it, or use it in a ``with`` block, to end its connections.

    Args:
        base_url: Where the hub is, like ``http://192.168.1.5:8000``; left out, the variable ``DSX_URL`` says it.
        api_key: The hub's key; left out, the variable ``DSX_API_KEY`` says it.
        cache_dir: Folder for downloaded files and manifests; None to keep nothing on disk.
        readahead: Whether calls of `get_file_bytes` and `get_file` that follow a manifest are served ahead.
        cache_limit_bytes: How many bytes the files in the cache may have together; what was not used for longest makes
            room, but nothing handed out within ten minutes. Left out, ``DSX_CACHE_LIMIT`` says it, else there is none.

    Raises:
        InvalidRequestError: The address or the key is missing or cannot be right.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        cache_dir: str | os.PathLike[str] | None = "./cache",
        *,
        readahead: bool = True,
        cache_limit_bytes: int | None = None,
    ) -> None:
        address = resolve_address(base_url, api_key)
        if cache_dir == "":
            raise InvalidRequestError("cache_dir is empty; name a folder, or pass None to keep nothing on disk")
        folder = None if cache_dir is None else Path(cache_dir).expanduser()
        self._access = Access(address, folder, resolve_cache_limit(cache_limit_bytes))
        self._transport = self._access.transport
        self._manifests = self._access.manifests
        self._batches = self._access.batches
        self._folders = self._access.folders
        self._revisions = Revisions(self._transport)
        self._singles = SingleReads(self._batches, self._manifests, self._folders, reads_ahead=readahead)

    def list_datasets(self) -> list[str]:
        """List the datasets that the hub has and this key may read, sorted by name."""
        if self._transport.is_offline:
            return self._manifests.list_cached()
        body = Patience(FIRST_CONTACT_S).run(
            lambda: self._transport.get_body("/datasets", timeout_s=DATASETS_TIMEOUT_S, limit=DATASETS_BYTES)
        )
        try:
            return _NAMES.validate_json(body.data)
        except ValidationError as error:
            raise HubError(
                f"what answers at {self._transport.url} is not a DSX hub: it sent no list of datasets"
            ) from error

    def get_manifest(self, dataset: str, *, revision: str | None = None) -> list[dict[str, Any]]:
        """Get the list of all files of a dataset, sorted by path.

        The hub is asked whether the cached manifest is still right, and sends it anew only if not. When the hub cannot
        be reached the cached one is returned, with a warning. The manifest of a revision is fetched once.

        Args:
            dataset: Name of the dataset.
            revision: State of the dataset that is meant; left out, the newest.

        Returns:
            One dictionary per file: ``path`` relative to the dataset, ``size`` in bytes, and ``hash``, the MD5 of its
            first 1024 bytes in hex.

        Raises:
            DatasetNotFoundError: The hub has no such dataset; the message says which it has.
            RevisionNotFoundError: The dataset has no such revision, or has it no longer.
            HubUnreachableError: No hub answers, and the manifest is not cached.
        """
        if revision is not None:
            return self._manifests.get_pinned(dataset, revision).to_rows()
        return self._manifests.refresh(dataset).to_rows()

    def load_manifest(self, dataset: str, *, revision: str | None = None) -> Manifest:
        """Get the list of all files of a dataset as a `Manifest`: columns, 100 bytes per file, for millions of them.

        One conditional request, as `get_manifest` makes; none for a revision that was asked for before.

        Args:
            dataset: Name of the dataset.
            revision: State of the dataset that is meant; left out, the newest.

        Raises:
            DatasetNotFoundError: The hub has no such dataset; the message says which it has.
            RevisionNotFoundError: The dataset has no such revision, or has it no longer.
            HubUnreachableError: No hub answers, and the manifest is not cached.
        """
        if revision is not None:
            return self._manifests.get_pinned(dataset, revision)
        return self._manifests.refresh(dataset, keep_rows=False)

    def get_revision(self, dataset: str) -> str:
        """Ask the hub for the id of the dataset's newest revision.

        Args:
            dataset: Name of the dataset.
        """
        return self._revisions.get_newest(dataset)

    def list_revisions(self, dataset: str) -> list[RevisionInfo]:
        """List the revisions that the hub keeps of a dataset, newest first.

        Args:
            dataset: Name of the dataset.
        """
        return self._revisions.list_kept(dataset)

    def diff(self, dataset: str, a: str, b: str) -> DatasetDiff:
        """Ask the hub what has changed in a dataset from revision ``a`` to revision ``b``.

        Args:
            dataset: Name of the dataset.
            a: One revision.
            b: The other.

        Returns:
            An object with ``added``, ``changed`` and ``removed``: sorted lists of paths.

        Raises:
            RevisionNotFoundError: The dataset has no such revision, or has it no longer.
        """
        return self._revisions.diff(dataset, a, b)

    def get_file(self, dataset: str, subpath: str, *, revision: str | None = None) -> Path:
        """Download one file into the cache, unless it is there, and return where it lies.

        The file is complete and verified. No request is made for one that is in the cache as the newest manifest known
        to this client names it, or as that of the revision does; without a manifest the hub is asked whether it
        changed.

        Args:
            dataset: Name of the dataset.
            subpath: Path of the file, as in the manifest.
            revision: State of the dataset that the file has to be of; left out, whatever the hub has.

        Raises:
            CacheDisabledError: The client was made with ``cache_dir=None``.
            EntryNotFoundError: The dataset has no such file.
            ConflictError: The file has changed since the revision.
            IntegrityError: Wrong bytes came, twice; nothing was kept.
            CacheError: The cache cannot be written, or a file of somebody else's is in the way.
        """
        return self._singles.get_file(dataset, subpath, revision)

    def get_file_bytes(self, dataset: str, subpath: str, *, revision: str | None = None) -> bytes:
        """Read one file from the hub into memory; the file is not written to disk.

        Calls that follow a manifest which this client has loaded, or a filtered part of it, are served ahead: the file
        is then what that manifest names, read within the last minute.

        Args:
            dataset: Name of the dataset.
            subpath: Path of the file, as in the manifest.
            revision: State of the dataset that the file has to be of; left out, whatever the hub has.

        Returns:
            The bytes of the whole file, verified against the hashes that the hub says of it.

        Raises:
            EntryNotFoundError: The dataset has no such file.
            ConflictError: The file has changed since the revision.
            IntegrityError: Wrong bytes came, twice.
        """
        return self._singles.get_bytes(dataset, subpath, revision)

    def iter_file_bytes(
        self, dataset: str, subpaths: Iterable[str], *, on_error: OnError = "raise"
    ) -> Generator[tuple[str, bytes], None, None]:
        """Read many files from the hub, in few requests, and yield them in the order given.

        The next ones are on their way while one is used, within a bounded memory. What of a broken request has come is
        kept. Closing the iterator, or leaving it to be collected, ends what is under way.

        Args:
            dataset: Name of the dataset.
            subpaths: Paths of the files, as in the manifest; one that comes twice is yielded twice. An iterator is read
                ahead of what is yielded.
            on_error: What to do about a file that is not there or cannot be read: ``"raise"``, or ``"skip"`` to leave
                it out, with a warning in the log ``dsx``.

        Yields:
            Path and bytes of each file, verified by the checksum of its transfer, and by its digest if a manifest that
            this client has loaded names one.

        Raises:
            InvalidPathError: A path cannot be one; of a list, nothing was read.
            EntryNotFoundError: The dataset has no such file.
            ConflictError: The file is being written again and again.
            UnreadableError: The hub's disk did not give the file.
            IntegrityError: Wrong bytes came, twice.
        """
        reads = plan_entries(subpaths, self._manifests.find_loaded(dataset), on_error)
        return iter_bytes(self._batches, Origin(dataset), reads, skips=on_error == "skip")

    def read_ranges(self, dataset: str, reads: Iterable[tuple[str, int, int]]) -> list[bytes]:
        """Read parts of files from the hub, in few requests.

        Args:
            dataset: Name of the dataset.
            reads: ``(path, start, stop)`` for the bytes ``[start, stop)`` of a file, ``0 <= start <= stop``; ``stop``
                is clamped to the size of the file, and a ``start`` past the end gives ``b""``.

        Returns:
            The bytes of each, in the order given.

        Raises:
            InvalidRequestError: A range cannot be one; nothing was read.
            EntryNotFoundError: The dataset has no such file.
        """
        planned = plan_ranges(reads, self._manifests.find_loaded(dataset))
        return [data for _, data in iter_bytes(self._batches, Origin(dataset), iter(planned), skips=False)]

    def download_dataset(
        self,
        dataset: str,
        file_list: Iterable[str] | None = None,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        dest: str | os.PathLike[str] | None = None,
        verify: Verify = "auto",
        delete: bool = False,
        revision: str | None = None,
    ) -> list[Path]:
        """Download many files, in few requests, and return where they lie.

        Only what is missing or has changed is fetched. When some files fail, the others are kept; a call that was
        interrupted is gone on with by the next.

        Args:
            dataset: Name of the dataset.
            file_list: Paths of the files wanted, as in the manifest; left out, all files of the dataset.
            include: Patterns of which a path has to match one, as for `Manifest.select`; not with ``file_list``.
            exclude: Patterns of which a path must match none; not with ``file_list``.
            dest: A folder of your own, in which the files lie as ``<dest>/<path>``; left out, the cache. What you have
                put there is not touched.
            verify: ``"auto"`` believes what was verified before and nobody has touched since; ``"full"`` reads every
                file that is there, and fetches what is not right.
            delete: Whether to remove from ``dest`` what an earlier call has put there and the files wanted now do not
                have; nothing is removed when there are none at all, nor after an error.
            revision: State of the dataset that the files have to be of; left out, the newest.

        Returns:
            One path per path asked for, in the same order.

        Raises:
            CacheDisabledError: The client was made with ``cache_dir=None``, and no ``dest`` is given.
            InvalidRequestError: The arguments do not go together.
            EntryNotFoundError: Some paths are not in the manifest; nothing was downloaded.
            DownloadError: Some files failed; ``failures`` says which and why.
            CacheError: The folder cannot be used.
        """
        options = Options(hold_list(file_list), include, exclude, verify, delete)
        options.check(has_dest=dest is not None)
        folder = self._folders.find("download_dataset", dest)
        manifest = find_manifest(self._manifests, dataset, revision, may_be_old=not delete)  # what it lacks is removed
        selection = options.select(dataset, manifest, is_pinned=revision is not None)
        Pull(self._batches, folder, selection, deletes=delete).run()
        prefix = folder.layout.find_prefix(folder.root if dest is None else Path(dest).expanduser(), dataset)
        return [Path(prefix + path) for path in options.list_paths(selection)]

    def stream(
        self,
        dataset: str,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        revision: str | None = None,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        remainder: Remainder = "exact",
        prefetch_bytes: int = BUDGET_BYTES,
        cache: bool = False,
        on_error: OnError = "raise",
    ) -> SampleStream:
        """Open a stream of samples for training: all files of a dataset, in an order that seed and epoch fix.

        One request, for the manifest. Samples are of its revision in every epoch; one that has changed on the hub since
        is an error.

        Args:
            dataset: Name of the dataset.
            include: Patterns of which a path has to match one, as for `Manifest.select`.
            exclude: Patterns of which a path must match none.
            revision: State of the dataset that is meant; left out, the newest.
            shuffle: Whether each epoch has a random order of all samples; else it is that of the manifest.
            seed: Any integer, of which the orders are made.
            epoch: Number of the first epoch.
            rank: Which of several processes this one is, from 0.
            world_size: How many there are; together they take every sample.
            remainder: What is done when they do not divide the samples: ``"exact"`` gives some ranks one more,
                ``"drop"`` leaves the last samples out, ``"pad"`` takes the first ones again.
            prefetch_bytes: How many bytes may have come and not been taken.
            cache: Whether samples are kept in the cache, and taken from there.
            on_error: What to do about a sample that cannot be read: ``"raise"``, or ``"skip"`` to leave it out, with a
                warning in the log ``dsx``.

        Raises:
            DatasetNotFoundError: The hub has no such dataset.
            RevisionNotFoundError: The dataset has no such revision.
            InvalidRequestError: An argument cannot be right.
            CacheDisabledError: ``cache=True``, and the client was made with ``cache_dir=None``.
        """
        options = StreamOptions(shuffle, seed, epoch, rank, world_size, remainder, prefetch_bytes, on_error)
        choice = Choice.make(dataset, include, exclude, revision)
        return SampleStream(SampleSource.open(self._access, choice, is_kept=cache), options)

    def clear_cache(self, dataset: str | None = None) -> int:
        """Delete what this SDK put into the cache, and nothing else.

        Args:
            dataset: Dataset to forget; left out, all.

        Returns:
            The bytes freed: what `get_cache_size` said before.
        """
        self._manifests.forget(dataset)
        self._singles.forget(dataset)
        return 0 if self._access.cache is None else clear_cache(self._access.cache, dataset)

    def get_cache_size(self, dataset: str | None = None) -> int:
        """Return how many bytes of files and manifests this SDK has put into the cache.

        Args:
            dataset: Dataset to measure; left out, all.
        """
        return 0 if self._access.cache is None else measure_cache(self._access.cache, dataset)

    def close(self) -> None:
        """End this process's connections and bring what it wrote to rest; the client may be used again."""
        self._singles.close()
        self._access.close()

    def __enter__(self) -> DatasetHubClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        cache_dir = None if self._access.cache_dir is None else str(self._access.cache_dir)
        return f"DatasetHubClient(base_url={self._access.address.url!r}, cache_dir={cache_dir!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        access, limit = self._access, self._access.cache_limit_bytes
        make = functools.partial(type(self), readahead=self._singles.reads_ahead, cache_limit_bytes=limit)
        return make, (access.address.url, access.address.api_key, access.cache_dir)


def access_of(client: DatasetHubClient) -> Access:
    """Return the way of a client to its hub, for those who do with it what no call of the client does."""
    return client._access
