"""``download_dataset``: order, failures, progress, many at once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import dsx._download_many
from dsx import (
    CacheDisabledError,
    DatasetHubClient,
    DownloadError,
    EntryNotFoundError,
    IntegrityError,
    InvalidRequestError,
)
from tests.conftest import KEY

from .conftest import WAIT_S, Dataset, files_below, leftovers, run_python, shorten_waits
from .scripted import (
    HonestScript,
    Reply,
    Request,
    ScriptedHub,
    answer,
    answer_problem,
    describe,
    format_head,
    paths_of,
    write_frame,
    write_problem,
)

FILES = {f"d{number % 3}/{number:02}": os.urandom(number * 137) for number in range(40)}

Connect = Callable[..., DatasetHubClient]
StartScripted = Callable[[Callable[[Request], Reply]], ScriptedHub]

DOWNLOAD = """
    import sys
    from dsx import DatasetHubClient
    with DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3]) as hub:
        hub.download_dataset(sys.argv[4])
"""


class PartlyScript(HonestScript):
    """Answers with the test's own reply for the paths that shall fail, and in a batch with what it is of that."""

    def __init__(self, failing: dict[str, Reply], *, knows_batches: bool = True) -> None:
        super().__init__(FILES)
        self.failing = failing
        self.knows_batches = knows_batches

    def write_frame(self, index: int, path: str, start: int, stop: int) -> bytes:
        if path not in self.failing:
            return super().write_frame(index, path, start, stop)
        status, code = FRAMES.get(path, (0, ""))
        return write_problem(index, status, code, "the disk says no") if code else write_frame(index, 0, b"wrong")

    def send_entry(self, request: Request, data: bytes) -> Reply:
        reply = self.failing.get(request.path.removeprefix("/file/cats/"))
        return super().send_entry(request, data) if reply is None else reply


WRONG = Reply(format_head(200, describe(b"right")) + b"wrong")
FAILING = {
    "d0/03": answer_problem(500, "unreadable", "the disk of the hub says I/O error"),
    "d2/11": WRONG,
    "d1/22": answer_problem(404, "entry_not_found", "it is gone"),
}
FRAMES = {"d0/03": (3, "unreadable"), "d1/22": (1, "entry_not_found")}


@pytest.fixture(params=[True, False], ids=["batches", "single files"])
def partly(request: pytest.FixtureRequest) -> PartlyScript:
    """A hub on which some files fail, one that knows batches and one that does not."""
    return PartlyScript(FAILING, knows_batches=request.param)


@pytest.fixture
def hub(start_honest: Callable[..., tuple[ScriptedHub, HonestScript]]) -> ScriptedHub:
    """A scripted hub that has `FILES`."""
    return start_honest(FILES)[0]


def asked_for(hub: ScriptedHub) -> list[str]:
    """Return the paths of the entries that were asked for, sorted."""
    single = [request.path.removeprefix("/file/cats/") for request in hub.of("GET", "/file/")]
    return sorted(single + [path for request in hub.of("POST", "/batch/") for path in paths_of(request)])


def test_all_files_are_there(client: DatasetHubClient, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    paths = client.download_dataset(dataset.name)
    assert paths == [cache_dir / dataset.name / path for path in sorted(FILES)]
    assert files_below(cache_dir / dataset.name) == FILES


def test_nothing_is_left_over(client: DatasetHubClient, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write(FILES)
    client.download_dataset(dataset.name)
    assert leftovers(cache_dir) == []


def test_order_and_duplicates_are_kept(connect: Connect, hub: ScriptedHub, cache_dir: Path) -> None:
    wanted = [*reversed(FILES), *FILES, "d0/00", "d0/00"]
    assert connect(hub.url).download_dataset("cats", wanted) == [cache_dir / "cats" / path for path in wanted]


def test_duplicates_are_fetched_once(connect: Connect, hub: ScriptedHub) -> None:
    connect(hub.url).download_dataset("cats", ["d1/01"] * 20)
    assert asked_for(hub) == ["d1/01"]


def test_small_files_come_in_few_requests(connect: Connect, hub: ScriptedHub) -> None:
    connect(hub.url).download_dataset("cats")
    assert len(hub.of("POST", "/batch/")) == 1
    assert hub.of("GET", "/file/") == []


def test_hub_without_batches_is_asked_for_single_files(
    connect: Connect, start_honest: Callable[..., tuple[ScriptedHub, HonestScript]], cache_dir: Path
) -> None:
    hub, script = start_honest(FILES)
    script.knows_batches = False
    connect(hub.url).download_dataset("cats")
    assert len(hub.of("GET", "/file/")) == len(FILES)
    assert files_below(cache_dir / "cats") == FILES


def test_only_what_is_asked_for_is_fetched(connect: Connect, hub: ScriptedHub, cache_dir: Path) -> None:
    connect(hub.url).download_dataset("cats", file_list=["d1/01"])
    assert files_below(cache_dir / "cats") == {"d1/01": FILES["d1/01"]}


def test_empty_list_is_nothing(connect: Connect, hub: ScriptedHub, cache_dir: Path) -> None:
    assert connect(hub.url).download_dataset("cats", []) == []
    assert not (cache_dir / "cats").exists()


def test_empty_dataset_is_nothing(client: DatasetHubClient, dataset: Dataset) -> None:
    assert client.download_dataset(dataset.name) == []


@pytest.mark.parametrize("make", [tuple, list, iter, dict.fromkeys], ids=["tuple", "list", "iterator", "keys"])
def test_any_sequence_of_paths_will_do(
    connect: Connect, hub: ScriptedHub, cache_dir: Path, make: Callable[[list[str]], list[str]]
) -> None:
    got = connect(hub.url).download_dataset("cats", make(["d1/01", "d0/00"]))
    assert got == [cache_dir / "cats" / "d1/01", cache_dir / "cats" / "d0/00"]


def test_unknown_paths_are_found_before_anything_is_downloaded(connect: Connect, hub: ScriptedHub) -> None:
    with pytest.raises(EntryNotFoundError, match=r"d9/99.*d9/98"):
        connect(hub.url).download_dataset("cats", ["d1/01", "d9/99", "d0/00", "d9/98"])
    assert hub.of("GET", "/file/") == []


@pytest.mark.parametrize("wanted", ["d1/01", b"d1/01"])
def test_one_string_is_no_list(connect: Connect, hub: ScriptedHub, wanted: str) -> None:
    with pytest.raises(InvalidRequestError, match="list"):
        connect(hub.url).download_dataset("cats", wanted)
    assert hub.of("GET", "/file/") == []


def test_rows_of_the_manifest_are_no_paths(connect: Connect, hub: ScriptedHub) -> None:
    client = connect(hub.url)
    with pytest.raises((InvalidRequestError, EntryNotFoundError)):
        client.download_dataset("cats", client.get_manifest("cats"))  # type: ignore[arg-type]


def test_without_a_cache_folder_it_is_a_value_error_that_names_cache_dir(connect: Connect, hub: ScriptedHub) -> None:
    with pytest.raises(CacheDisabledError, match="cache_dir"):
        connect(hub.url, cache_dir=None).download_dataset("cats")
    assert hub.requests == []


def test_cached_files_are_not_requested_again(connect: Connect, hub: ScriptedHub) -> None:
    connect(hub.url).download_dataset("cats", list(FILES)[:30])
    hub.requests.clear()
    connect(hub.url).download_dataset("cats")
    assert asked_for(hub) == sorted(list(FILES)[30:])


def test_failed_files_do_not_lose_the_others(
    connect: Connect, start_scripted: StartScripted, partly: PartlyScript, cache_dir: Path
) -> None:
    with pytest.raises(DownloadError):
        connect(start_scripted(partly).url).download_dataset("cats")
    assert files_below(cache_dir / "cats") == {path: FILES[path] for path in FILES.keys() - FAILING}


def test_error_names_every_file_that_failed_and_why(
    connect: Connect, start_scripted: StartScripted, partly: PartlyScript
) -> None:
    with pytest.raises(DownloadError) as caught:
        connect(start_scripted(partly).url).download_dataset("cats")
    lines = str(caught.value).splitlines()[1:]
    assert [line.split("'")[1] for line in lines] == sorted(FAILING)
    assert ["the disk" in lines[0], "it is gone" in lines[1], "thrown away" in lines[2]] == [True] * 3


def test_error_carries_every_failure(connect: Connect, start_scripted: StartScripted, partly: PartlyScript) -> None:
    with pytest.raises(DownloadError) as caught:
        connect(start_scripted(partly).url).download_dataset("cats")
    assert {path: type(error).__name__ for path, error in caught.value.failures.items()} == {
        "d0/03": "UnreadableError",
        "d1/22": "EntryNotFoundError",
        "d2/11": "IntegrityError",
    }


def test_error_pickles(connect: Connect, start_scripted: StartScripted, partly: PartlyScript) -> None:
    with pytest.raises(DownloadError) as caught:
        connect(start_scripted(partly).url).download_dataset("cats")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert isinstance(again.failures["d2/11"], IntegrityError)


def test_calling_again_fetches_the_rest(
    connect: Connect, start_scripted: StartScripted, partly: PartlyScript, cache_dir: Path
) -> None:
    client = connect(start_scripted(partly).url)
    with pytest.raises(DownloadError):
        client.download_dataset("cats")
    partly.failing = {}
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES


@pytest.mark.parametrize("knows_batches", [True, False], ids=["batches", "single files"])
@pytest.mark.parametrize(
    "failure",
    [Reply(format_head(200, describe(b"12345")) + b"12"), answer(503), answer(429)],
    ids=["always breaks off", "busy", "too many"],
)
def test_one_file_that_never_comes_does_not_lose_the_others(
    connect: Connect,
    start_scripted: StartScripted,
    cache_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Reply,
    knows_batches: bool,
) -> None:
    shorten_waits(monkeypatch, transfer_s=0.2, first_contact_s=0.2)
    monkeypatch.setattr(dsx._download_many, "PARALLEL_DOWNLOADS", 1)  # the failing file is the first
    asked = [0]
    script = PartlyScript({"d0/00": failure}, knows_batches=knows_batches)

    def count(request: Request) -> Reply:
        asked[0] += request.path.endswith("d0/00")
        if request.method == "POST" and knows_batches and "d0/00" in paths_of(request):
            return failure
        if asked[0] > 40:
            return answer_problem(404, "entry_not_found", "asked without end")
        return script(request)

    with pytest.raises(DownloadError):
        connect(start_scripted(count).url).download_dataset("cats")
    assert files_below(cache_dir / "cats").keys() == FILES.keys() - {"d0/00"}


@pytest.mark.parametrize("knows_batches", [True, False], ids=["batches", "single files"])
def test_wrong_key_is_not_tried_for_every_file(
    connect: Connect, start_scripted: StartScripted, knows_batches: bool
) -> None:
    refused = answer_problem(401, "unauthorized", "no")
    script = PartlyScript(dict.fromkeys(FILES, refused), knows_batches=knows_batches)
    if knows_batches:
        script.send_batch = lambda _: refused  # type: ignore[method-assign]
    hub = start_scripted(script)
    with pytest.raises(DownloadError, match="did not accept the API key"):
        connect(hub.url).download_dataset("cats")
    assert len(hub.of("GET", "/file/")) <= 2 * dsx._download_many.PARALLEL_DOWNLOADS
    assert len(hub.of("POST")) == 1


def test_hub_away_and_all_cached_is_a_warning(connect: Connect, hub: ScriptedHub, cache_dir: Path) -> None:
    connect(hub.url).download_dataset("cats")
    hub.stop()
    with pytest.warns(UserWarning, match="cached manifest"):
        assert len(connect(hub.url).download_dataset("cats")) == len(FILES)


def test_without_a_terminal_nothing_is_printed(hub: ScriptedHub, cache_dir: Path) -> None:
    code = DOWNLOAD.replace("import sys\n", "import sys, os\n    os.dup2(1, 2)\n", 1)
    assert run_python(code, hub.url, KEY, cache_dir, "cats") == ""


def test_on_a_terminal_there_is_a_progress_bar(hub: ScriptedHub, cache_dir: Path) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    code = DOWNLOAD.replace("\n    ", "\n")
    process = subprocess.Popen([sys.executable, "-c", code, hub.url, KEY, str(cache_dir), "cats"], stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while block := os.read(master, 65536):
            shown += block
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    finally:
        os.close(master)
    assert process.wait(WAIT_S) == 0
    assert b"100%" in shown


def test_many_processes_and_threads_fill_one_cache(
    dataset: Dataset, cache_dir: Path, start_python: Callable[..., subprocess.Popen[str]], connect: Connect
) -> None:
    files = {**FILES, "big": os.urandom(6_000_000)}
    dataset.write(files)
    code = """
        import sys, threading
        from dsx import DatasetHubClient
        with DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3]) as hub:
            def work():
                for path in hub.download_dataset(sys.argv[4]):
                    path.stat()
                done.append(1)
            done = []
            threads = [threading.Thread(target=work) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            print(len(done))
    """
    processes = [start_python(code, dataset.url, KEY, cache_dir, dataset.name) for _ in range(8)]
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in processes]
    assert outputs == ["4\n"] * 8
    assert files_below(cache_dir / dataset.name) == files
    assert leftovers(cache_dir) == []


def test_cache_filled_by_many_processes_is_cleared_whole(
    dataset: Dataset, cache_dir: Path, start_python: Callable[..., subprocess.Popen[str]], connect: Connect
) -> None:
    dataset.write(FILES)
    processes = [start_python(DOWNLOAD, dataset.url, KEY, cache_dir, dataset.name) for _ in range(8)]
    outputs = [process.communicate(timeout=WAIT_S)[0] for process in processes]
    assert outputs == [""] * 8
    connect(dataset.url).clear_cache()
    assert os.listdir(cache_dir) == [".dsx"]


def test_interrupt_keeps_what_is_done_and_ends(
    cache_dir: Path, start_scripted: StartScripted, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    asked = threading.Event()
    script = HonestScript(FILES)
    script.knows_batches = False
    honest = script.send_entry

    def hold_last(request: Request, data: bytes) -> Reply:
        if request.path.endswith("d2/38"):  # the last one
            asked.set()
            return Reply(format_head(200, describe(data)) + data[:10], end="hang")
        return honest(request, data)

    script.send_entry = hold_last  # type: ignore[method-assign]
    hub = start_scripted(script)
    process = start_python(
        DOWNLOAD.replace("import sys", "import sys, dsx._transport", 1), hub.url, KEY, cache_dir, "cats"
    )
    assert asked.wait(WAIT_S)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)  # not as long as the hub may be silent
    assert "KeyboardInterrupt" in output
    kept = files_below(cache_dir / "cats")
    assert len(kept) >= len(FILES) - dsx._download_many.PARALLEL_DOWNLOADS
    assert all(hashlib.sha256(FILES[path]).digest() == hashlib.sha256(data).digest() for path, data in kept.items())
