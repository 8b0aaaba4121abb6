"""One process that goes over a dataset once, shuffled, through a loader of PyTorch, and prints what that took, as JSON.

`training.py` runs it: ``training_loops.py JOB``, the job being JSON: ``kind`` names the loader, ``workers`` and
``decodes`` say how, the rest is what it needs. Samples are bytes, or with ``decodes`` JPEG files that become tensors of
one size.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from readers import BATCH, Job, read_paths

Batches: TypeAlias = Iterator[tuple[int, int]]
"""How many samples each batch has, and how many bytes, or 0 for decoded ones."""

SIDE = 224


def to_tensor(image: Any) -> Any:
    """Return an image as a tensor of `SIDE` by `SIDE`."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(image.resize((SIDE, SIDE))))


def keep(items: list[Any]) -> list[Any]:
    """Leave a batch of bytes as it is."""
    return items


def iter_loader(loader: Any, job: Job) -> Batches:
    """Go over a loader whose items are data and label."""
    for batch in loader:
        if job["decodes"]:
            yield len(batch[0]), 0
        else:
            yield len(batch), sum(len(data) for data, _ in batch)


def iter_plain(loader: Any) -> Batches:
    """Go over a loader whose items are bytes."""
    for batch in loader:
        yield len(batch), sum(map(len, batch))


def make_options(job: Job) -> dict[str, Any]:
    """Return what the loaders of PyTorch's kind are given alike."""
    collate = {} if job["decodes"] else {"collate_fn": keep}
    return {"batch_size": BATCH, "shuffle": True, "num_workers": job["workers"], **collate}


def open_hub(job: Job) -> Batches:
    """`HubDataLoader`; with ``position`` it begins there, as a state says it."""
    from dsx import DatasetHubClient
    from dsx.torch import HubDataLoader, HubDataset

    hub = DatasetHubClient(job["url"], job["key"], cache_dir=None)
    dataset = HubDataset(hub, job["dataset"], transform=to_tensor if job["decodes"] else None)
    loader = HubDataLoader(dataset, **make_options(job))
    if job.get("position"):
        loader.load_state_dict(loader.state_dict() | {"position": job["position"]})
    return iter_loader(loader, job)


def open_cached(job: Job) -> Batches:
    """`HubDataLoader` over what an earlier epoch has kept: its second epoch, after one that nobody times."""
    from dsx import DatasetHubClient
    from dsx.torch import HubDataLoader, HubDataset

    hub = DatasetHubClient(job["url"], job["key"], cache_dir=job["copy"])
    loader = HubDataLoader(HubDataset(hub, job["dataset"], cache=True), **make_options(job))
    for _ in loader:
        pass
    return iter_loader(loader, job)


class LocalFolder:
    """The files of a folder, as one writes it for PyTorch: data and label."""

    def __init__(self, root: str, paths: list[str], *, decodes: bool) -> None:
        folders = sorted({path.split("/")[-2] for path in paths})
        self._samples = [(f"{root}/{path}", folders.index(path.split("/")[-2])) for path in paths]
        self._decodes = decodes

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        path, label = self._samples[number]
        with open(path, "rb") as file:
            data = file.read()
        if not self._decodes:
            return data, label
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            return to_tensor(image.convert("RGB")), label


def open_local(job: Job) -> Batches:
    """The local folder through PyTorch's DataLoader."""
    from torch.utils.data import DataLoader

    dataset: Any = LocalFolder(job["root"], read_paths(job), decodes=job["decodes"])
    return iter_loader(DataLoader(dataset, **make_options(job)), job)


def open_mosaic(job: Job) -> Batches:
    """MosaicML Streaming: its shards, brought from a local folder into an empty one."""
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    local = tempfile.mkdtemp(dir=Path(job["copy"]).parent)
    files = len(read_paths(job))

    def run() -> Batches:
        dataset = StreamingDataset(
            remote=job["copy"], local=local, shuffle=True, batch_size=BATCH, predownload=files, num_canonical_nodes=1
        )
        loader = StreamingDataLoader(
            dataset,
            batch_size=BATCH,
            num_workers=job["workers"],
            collate_fn=lambda items: [item["data"] for item in items],
        )
        yield from iter_plain(loader)
        shutil.rmtree(local, ignore_errors=True)

    return run()


def open_litdata(job: Job) -> Batches:
    """LitData: its chunks, where they lie."""
    import litdata

    dataset = litdata.StreamingDataset(job["copy"], shuffle=True)
    return iter_plain(
        litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=job["workers"], collate_fn=keep)
    )


def open_webdataset(job: Job) -> Batches:
    """WebDataset: TAR shards over HTTP, through a buffer that shuffles a thousand."""
    import webdataset

    urls = [f"{job['url']}/{shard.name}" for shard in sorted(Path(job["copy"]).glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False, seed=1).shuffle(1000)
    loader = webdataset.WebLoader(dataset, batch_size=BATCH, num_workers=job["workers"], collate_fn=keep)

    def run() -> Batches:
        for batch in loader:
            yield len(batch), sum(len(sample["bin"]) for sample in batch)

    return run()


KINDS: dict[str, Callable[[Job], Batches]] = {
    "hub": open_hub,
    "cached": open_cached,
    "local": open_local,
    "mosaic": open_mosaic,
    "litdata": open_litdata,
    "webdataset": open_webdataset,
}


def main() -> None:
    """Do the job of the command line."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    import torch  # noqa: F401 -- importing it takes seconds, of nobody's epoch

    batches = KINDS[job["kind"]](job)
    first_s, files, total = 0.0, 0, 0
    began = time.perf_counter()
    for count, size in batches:
        first_s = first_s or time.perf_counter() - began
        files, total = files + count, total + size
        if job.get("first"):
            break
    took_s = time.perf_counter() - began
    print("\n" + json.dumps({"files": files, "bytes": total, "took_s": took_s, "first_s": first_s}))


if __name__ == "__main__":
    main()
