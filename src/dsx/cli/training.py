"""The training device of the demo: a process of its own that knows the hub's address and key and nothing else.

`train` is the program that a user would write. The process gets a `Job` on standard input, so that the key is on no
command line, prints what it does, and writes a `Report`. `demo` starts it, and imports nothing from here.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image
from sklearn.svm import SVC

from dsx import DatasetHubClient, DsxError
from dsx.cli.report import Job, Report, Stopwatch


def train(job: Job) -> Report:
    """Train a classifier on streamed files, and evaluate it on downloaded ones.

    Raises:
        DsxError: The hub did not give what it was asked for.
    """
    watch = Stopwatch()
    with DatasetHubClient(job.url, job.api_key, cache_dir=job.cache_dir) as hub:
        _say(f"The hub has these datasets: {', '.join(hub.list_datasets())}")
        manifest = hub.get_manifest(job.dataset)
        paths = [item["path"] for item in manifest]
        train_paths = [path for path in paths if path.startswith("train/")]
        test_paths = [path for path in paths if path.startswith("test/")]
        _say(f"{job.dataset} has {len(paths):,} files with {sum(item['size'] for item in manifest):,} bytes")

        _say(f"Streaming {len(train_paths):,} train files into memory, one get_file_bytes() call each ...")
        with watch.time("streaming", files=len(train_paths)):
            files = [hub.get_file_bytes(job.dataset, path) for path in train_paths]

        _say("Training a classifier on them ...")
        with watch.time("training"):
            model = SVC().fit(_decode(files), [path.split("/")[1] for path in train_paths])  # train/3/0042.png

        _say(f"Downloading {len(test_paths):,} test files to the cache, with download_dataset() ...")
        with watch.time("downloading", files=len(test_paths)):
            cached = hub.download_dataset(job.dataset, file_list=test_paths)

        _say("Evaluating the classifier on the downloaded files ...")
        with watch.time("evaluating"):
            pictures = _decode(path.read_bytes() for path in cached)
            accuracy = model.score(pictures, [path.parent.name for path in cached])
    return Report(accuracy=float(accuracy), steps=watch.steps)


def main() -> int:
    """Do the job on standard input; return the exit status."""
    told = sys.stdin.read()
    if not told:
        return 1  # the process that started this one ended before it could say more
    job = Job.model_validate_json(told)
    try:
        report = train(job)
    except DsxError as error:
        report = Report(error=str(error))
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered fails again at the end
        report = Report(error="nobody reads the output any more")
    job.report.write_text(report.model_dump_json(), encoding="utf-8")
    return 0


def _decode(files: Iterable[bytes]) -> Any:
    """Turn the bytes of PNG files into rows of brightness from 0 to 1, one row per file."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data))).ravel() / 255 for data in files])


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
