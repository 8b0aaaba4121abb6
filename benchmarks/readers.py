"""One process that reads a dataset in one way and prints, as JSON, what that took.

`transfer.py` runs it: ``readers.py JOB``, the job being JSON: ``kind`` names the way, the rest is what it needs. With
``exact`` each file is held against the one on the disk, which takes time: such a run is for its result alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from tally import ExactTally, Run, Tally, measure_run

Job: TypeAlias = dict[str, Any]

AIOHTTP_AT_A_TIME = 32
BATCH = 64


def read_paths(job: Job) -> list[str]:
    """Return the paths to read, in order."""
    paths: list[str] = json.loads(Path(job["order"]).read_text(encoding="utf-8"))
    return paths[: job["limit"]]


def read_urls(job: Job) -> list[tuple[str, str]]:
    """Return path and URL of each file to read, in order."""
    return [(path, f"{job['url']}/{job['dataset']}/{quote(path)}") for path in read_paths(job)]


def prepare_iter(job: Job) -> Run:
    """`iter_file_bytes` of the SDK."""
    import dsx

    paths = read_paths(job)
    client = dsx.DatasetHubClient(job["url"], job["key"], cache_dir=None)

    def run(tally: Tally) -> None:
        for path, data in client.iter_file_bytes(job["dataset"], paths):
            tally.add(path, data)

    return run


def prepare_contract(job: Job) -> Run:
    """The loop of the contract: a file after another, along the manifest."""
    import dsx

    hub = dsx.DatasetHubClient(job["url"], job["key"], cache_dir=None)

    def run(tally: Tally) -> None:
        for item in hub.get_manifest(job["dataset"]):
            tally.add(item["path"], hub.get_file_bytes(job["dataset"], item["path"]))

    return run


def prepare_download(job: Job) -> Run:
    """`download_dataset` of the SDK, into an empty cache, until everything is at rest."""
    import dsx

    hub = dsx.DatasetHubClient(job["url"], job["key"], cache_dir=job["cache"])

    def run(tally: Tally) -> None:
        files = hub.download_dataset(job["dataset"])
        hub.close()
        tally.files = len(files)

    return run


def prepare_requests(job: Job) -> Run:
    """What everybody writes first: one request after another, on one session."""
    import requests

    session, urls = requests.Session(), read_urls(job)

    def run(tally: Tally) -> None:
        for path, url in urls:
            response = session.get(url)
            response.raise_for_status()
            tally.add(path, response.content)

    return run


def prepare_aiohttp(job: Job) -> Run:
    """`AIOHTTP_AT_A_TIME` requests at a time, in whatever order the answers come."""
    import aiohttp

    urls = read_urls(job)

    async def read_all(tally: Tally) -> None:
        connector = aiohttp.TCPConnector(limit=AIOHTTP_AT_A_TIME)
        async with aiohttp.ClientSession(connector=connector) as session:
            left = iter(urls)
            await asyncio.gather(*(read_some(session, left, tally) for _ in range(AIOHTTP_AT_A_TIME)))

    async def read_some(session: aiohttp.ClientSession, left: Iterator[tuple[str, str]], tally: Tally) -> None:
        for path, url in left:
            async with session.get(url) as response:
                response.raise_for_status()
                tally.add(path, await response.read())

    return lambda tally: asyncio.run(read_all(tally))


class LocalFiles:
    """A dataset for PyTorch: item by item, the bytes of a file in a local folder."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self._files = [f"{root}/{path}" for path in paths]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> bytes:
        with open(self._files[number], "rb") as file:
            return file.read()


def keep_list(batch: list[bytes]) -> list[bytes]:
    """Collate nothing."""
    return batch


def prepare_local(job: Job) -> Run:
    """The local folder through a PyTorch ``DataLoader``."""
    from torch.utils.data import DataLoader

    dataset: Any = LocalFiles(Path(job["root"]), read_paths(job))
    loader: Any = DataLoader(dataset, batch_size=BATCH, num_workers=job["workers"], collate_fn=keep_list)

    def run(tally: Tally) -> None:
        for batch in loader:
            for data in batch:
                tally.add("", data)

    return run


KINDS: dict[str, Callable[[Job], Run]] = {
    "iter": prepare_iter,
    "contract": prepare_contract,
    "download": prepare_download,
    "requests": prepare_requests,
    "aiohttp": prepare_aiohttp,
    "local": prepare_local,
}


def main() -> None:
    """Do the job of the command line."""
    job: Job = json.loads(sys.argv[1])
    run = KINDS[job["kind"]](job)
    tally = ExactTally(Path(job["root"])) if job.get("exact") else Tally()
    print(json.dumps(measure_run(run, tally)))


if __name__ == "__main__":
    main()
