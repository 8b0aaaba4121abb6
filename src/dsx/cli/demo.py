"""``dsx demo``: a storage PC, a hub and a training device, on one machine and for less than a minute::

    <temporary folder>/
    ├── served/digits/{train,test}/<digit>/<number>.png
    ├── state/              the hub's index
    ├── cache/              the training process's downloads
    └── report.json         what the training process found

All of it is removed at the end, however the demo ends.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dsx.cli.digits import load_digits, missing_extra, write_digits
from dsx.cli.interrupts import Interrupts
from dsx.cli.report import Job, Report, Stopwatch, format_table
from dsx.errors import DsxError

DATASET = "digits"
LEAST_ACCURACY = 0.93
LOOK_EVERY_S = 0.2

OWN_FOLDER = """\
To do the same with a folder of yours, on the machine that holds it (each folder directly inside is a dataset):

    export DSX_API_KEY=choose-a-key
    export DSX_DATASET_PATH=/path/to/your/datasets
    python server/server.py

and on the machine that trains, with the address that the hub prints:

    from dsx import DatasetHubClient
    hub = DatasetHubClient("http://192.168.1.5:8000", "choose-a-key")
    paths = [item["path"] for item in hub.get_manifest("your-dataset")]
    data = hub.get_file_bytes("your-dataset", paths[0])
"""


def run_demo() -> None:
    """Serve the digits, train on them from another process, and print how it went.

    Raises:
        MissingExtraError: The extra ``demo`` is not installed.
        DsxError: A part failed, or the accuracy is below `LEAST_ACCURACY`.
    """
    watch = Stopwatch()
    with Interrupts() as interrupts, ExitStack() as stack:
        report = _run(stack, interrupts, watch)
    print(f"\naccuracy: {report.accuracy:.1%}\n\nWhere the time went:\n")
    print(format_table([*watch.steps, *report.steps], watch.elapsed_s()), flush=True)
    if report.accuracy < LEAST_ACCURACY:
        raise DsxError(
            f"the accuracy is {report.accuracy:.1%}, and this classifier reaches {LEAST_ACCURACY:.0%} on these files "
            "when every byte arrives as it was written; please report this"
        )
    print(f"\nThe demo has removed its files.\n\n{OWN_FOLDER}", end="")


def _run(stack: ExitStack, interrupts: Interrupts, watch: Stopwatch) -> Report:
    """Do all that makes something; ``stack`` holds what has to be removed."""
    _say("Loading the hub, and the handwritten digits of scikit-learn ...")
    pictures = load_digits()
    _find_hub()
    interrupts.check()
    try:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsx-demo-")))
        served = folder / "served"
        _say(f"Writing {len(pictures):,} digits as PNG files to {served / DATASET} ...")
        with watch.time("writing files", files=len(pictures)):
            for _ in write_digits(served / DATASET, pictures):
                interrupts.check()
    except BrokenPipeError:
        raise  # nobody reads the output any more
    except OSError as error:
        raise DsxError(f"the demo's files cannot be written: {error}") from error

    api_key = secrets.token_urlsafe()
    _say("Starting a hub that serves this folder, on a free port and with a random key ...")
    url = stack.enter_context(_hub(api_key, served, folder / "state"))
    _say(f"Starting a second process, which is told {url} and the key, and reads the files over HTTP:")
    job = Job(url=url, api_key=api_key, dataset=DATASET, cache_dir=folder / "cache", report=folder / "report.json")
    return _train(stack, interrupts, job)


def _find_hub() -> None:
    """Make sure that the hub can be started, before anything is written."""
    try:
        import dsx_server  # noqa: F401 -- looked for
    except ImportError as error:
        raise missing_extra(error) from error


@contextmanager
def _hub(api_key: str, served: Path, state: Path) -> Iterator[str]:
    """Run a hub in a thread of this process and give its address. Its log stays unconfigured: warnings are shown."""
    from dsx_server import Settings, serve_background

    settings = Settings(api_key=api_key, dataset_path=served, host="127.0.0.1", port=0, state_dir=state)
    with serve_background(settings) as hub:
        yield hub.url


def _train(stack: ExitStack, interrupts: Interrupts, job: Job) -> Report:
    """Run the training process to its end."""
    told: str | None = job.model_dump_json()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "dsx.cli.training"],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C comes here only, and here it ends that process too
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    while process.returncode is None:
        try:
            process.communicate(told, timeout=LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            told = None
            interrupts.check()
    interrupts.check()  # the same signal may have ended that process
    if process.returncode != 0:
        raise DsxError(f"the training process ended with status {process.returncode} and no result")
    report = Report.model_validate_json(job.report.read_bytes())
    if report.error:
        raise DsxError(report.error)
    return report


def _say(text: str) -> None:
    print(text, flush=True)
