"""One process that converts a dataset into the format of a peer, or reads such a copy, and prints, as JSON, what came.

`transfer.py` runs it: ``converted.py JOB``. The copy is written in the shuffled order, so that reading it from its
beginning to its end is the best that the peer can do. With ``convert`` it is made, and what was put into it is counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from readers import BATCH, Job, read_paths
from tally import Run, Tally, measure_run

SHARD_BYTES = 64 * 1024**2


def read_files(job: Job) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each file, in order."""
    for path in read_paths(job):
        yield path, (Path(job["root"]) / path).read_bytes()


def write_webdataset(job: Job) -> Run:
    """TAR files of `SHARD_BYTES`."""
    import webdataset

    def run(tally: Tally) -> None:
        pattern = f"{job['copy']}/shard-%04d.tar"
        with webdataset.ShardWriter(pattern, maxsize=SHARD_BYTES, maxcount=10**9, verbose=0) as writer:
            for number, (path, data) in enumerate(read_files(job)):
                writer.write({"__key__": f"{number:08d}", "bin": data})
                tally.add(path, data)

    return run


def read_webdataset(job: Job) -> Run:
    """The shards over HTTP, as WebDataset reads them: through ``curl``."""
    import webdataset

    urls = [f"{job['url']}/{shard.name}" for shard in sorted(Path(job["copy"]).glob("*.tar"))]

    def run(tally: Tally) -> None:
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
            tally.add("", sample["bin"])

    return run


def write_mosaic(job: Job) -> Run:
    """Shards of MosaicML Streaming, not compressed."""
    from streaming import MDSWriter

    def run(tally: Tally) -> None:
        with MDSWriter(out=job["copy"], columns={"data": "bytes"}, size_limit=SHARD_BYTES) as writer:
            for path, data in read_files(job):
                writer.write({"data": data})
                tally.add(path, data)

    return run


def read_mosaic(job: Job) -> Run:
    """The shards, brought from a local folder into an empty one; without the large ``predownload`` it mostly sleeps."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    local = tempfile.mkdtemp(dir=Path(job["copy"]).parent)
    dataset = StreamingDataset(
        remote=job["copy"], local=local, shuffle=False, batch_size=BATCH, predownload=len(read_paths(job))
    )

    def run(tally: Tally) -> None:
        for sample in dataset:
            tally.add("", sample["data"])

    return run


def write_litdata(job: Job) -> Run:
    """Chunks of LitData."""
    import litdata

    def run(tally: Tally) -> None:
        paths = read_paths(job)
        litdata.optimize(
            fn=partial(_read_one, job["root"]),
            inputs=paths,
            output_dir=job["copy"],
            chunk_bytes=SHARD_BYTES,
            num_workers=1,
            verbose=False,
        )
        for path in paths:
            tally.add(path, _read_one(job["root"], path))

    return run


def _read_one(root: str, path: str) -> bytes:
    return (Path(root) / path).read_bytes()


def read_litdata(job: Job) -> Run:
    """The chunks, where they lie."""
    import litdata

    dataset = litdata.StreamingDataset(job["copy"], shuffle=False)

    def run(tally: Tally) -> None:
        for sample in dataset:
            tally.add("", sample)

    return run


Way: TypeAlias = tuple[Callable[[Job], Run], Callable[[Job], Run]]

KINDS: dict[str, Way] = {
    "webdataset": (write_webdataset, read_webdataset),
    "mosaic": (write_mosaic, read_mosaic),
    "litdata": (write_litdata, read_litdata),
}


def main() -> None:
    """Do the job of the command line."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    write, read = KINDS[job["kind"]]
    run = (write if job.get("convert") else read)(job)
    print("\n" + json.dumps(measure_run(run, Tally())))


if __name__ == "__main__":
    main()
