"""A hub with several processes is one hub: whichever answers says the same, and none outlives the others."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dsx_server.index import watching
from tests.conftest import KEY, LAUNCHER, HubProcess, write_files
from tests.hub.conftest import WAIT_S, ask, connect, format_request, parse_answer, receive_all, wait_until

WORKERS = 2

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are stopped and ended by signals")

StartHub = Callable[..., HubProcess]


def processes_of(hub: HubProcess) -> list[psutil.Process]:
    """Return the hub's processes but for the first."""
    return psutil.Process(hub.process.pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def runs(process: psutil.Process, what: str) -> bool:
    """Tell whether a process was started with this among its arguments."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any(what in each for each in process.cmdline())
    return False


def workers_of(hub: HubProcess) -> list[psutil.Process]:
    """Return the processes that answer requests; there may be fewer than there should for a moment."""
    return [each for each in processes_of(hub) if runs(each, "--multiprocessing-fork") and is_alive(each)]


def wait_for_workers(hub: HubProcess) -> list[psutil.Process]:
    """Return the processes that answer requests when all are there and take connections."""
    wait_until(lambda: len(workers_of(hub)) == WORKERS, "all processes are there")
    workers = workers_of(hub)
    for worker in workers:
        with answered_by(worker, workers):
            assert hub.get("/health").status_code == 200  # waits in the socket's queue until the process is ready
    return workers


@contextlib.contextmanager
def answered_by(worker: psutil.Process, workers: list[psutil.Process]) -> Iterator[None]:
    """Let nobody but ``worker`` answer: the others stand still meanwhile."""
    others = [each for each in workers if each != worker]
    for other in others:
        other.suspend()
        wait_until(lambda other=other: other.status() == psutil.STATUS_STOPPED, "it stands still")  # type: ignore[misc]  # -- ours
    try:
        yield
    finally:
        for other in others:
            other.resume()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, shared_served: Path) -> Iterator[HubProcess]:
    """One hub with several processes for the tests that end none of them; in a moment's pause it does nothing."""
    variables = {"DSX_WORKERS": str(WORKERS), "DSX_DIGESTS": "off", "DSX_WATCH": "off"}
    hub = HubProcess(shared_served, tmp_path_factory.mktemp("state"), **variables)
    yield hub
    hub.kill()


@pytest.fixture(params=range(WORKERS), ids=lambda place: f"process {place}")
def one(request: pytest.FixtureRequest, several: HubProcess) -> Iterator[HubProcess]:
    """The hub, of which one process answers."""
    workers = wait_for_workers(several)
    with answered_by(workers[request.param], workers):
        yield several


@pytest.fixture
def dataset(request: pytest.FixtureRequest, shared_served: Path) -> Path:
    """A folder of the test's own among the datasets."""
    folder = shared_served / f"d{abs(hash(request.node.nodeid))}"
    folder.mkdir()
    return folder


def paths(hub: HubProcess, dataset: str) -> list[str]:
    return [row["path"] for row in hub.get(f"/manifest/{dataset}").json()]


def test_each_process_answers_as_a_hub_does(one: HubProcess, dataset: Path) -> None:
    data = os.urandom(3000)
    write_files(dataset, {"a/b.bin": data})
    name = dataset.name
    assert one.get("/health").status_code == 200
    assert name in one.get("/datasets").json()
    assert one.get(f"/manifest/{name}").json()[0]["hash"] == hashlib.md5(data[:1024]).hexdigest()
    assert one.get(f"/file/{name}/a/b.bin").content == data
    part = one.get(f"/file/{name}/a/b.bin", headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, data[1000:2000])
    info = one.get(f"/datasets/{name}").json()
    assert (info["entries"], info["bytes"], info["scanning"]) == (1, 3000, False)
    revisions = one.get(f"/datasets/{name}/revisions").json()
    assert [each["revision"] for each in revisions] == [info["revision"]]


def test_each_process_asks_for_the_key_and_has_the_same_errors(one: HubProcess, dataset: Path) -> None:
    assert ask(one, b"/datasets", key=None).status == 401
    assert ask(one, b"/datasets", key="another").status == 401
    for path in ("/manifest/none", "/datasets/none", "/file/none/x", f"/file/{dataset.name}/none"):
        answer = one.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, answer.json()["code"])
        assert answer.json()["code"].endswith("_not_found")


def test_each_process_says_why_a_dataset_cannot_be_scanned(one: HubProcess, dataset: Path, tmp_path: Path) -> None:
    write_files(tmp_path, {"disk/a": b"a"})
    (tmp_path / "place").mkdir()
    for number, target in enumerate(["disk", "place"]):
        (tmp_path / f"link{number}").symlink_to(tmp_path / target)
    name = dataset.name + "-link"
    (tmp_path / "link0").replace(dataset.with_name(name))
    assert paths(one, name) == ["a"]
    (tmp_path / "link1").replace(dataset.with_name(name))  # another folder, empty: what a missing disk leaves
    answer = one.get(f"/manifest/{name}")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "mounted" in answer.json()["detail"]


def test_every_process_sees_what_was_written_before_it_was_asked(several: HubProcess, dataset: Path) -> None:
    workers = wait_for_workers(several)
    name = dataset.name
    expected: list[str] = []
    for turn in range(3):
        for place, worker in enumerate(workers):
            with answered_by(worker, workers):
                write_files(dataset, {f"{turn}-{place}": b"x"})
                expected.append(f"{turn}-{place}")
                assert paths(several, name) == expected
                assert several.get(f"/datasets/{name}").json()["entries"] == len(expected)
                (dataset / expected[0]).unlink()
                assert several.get(f"/file/{name}/{expected.pop(0)}").status_code == 404
                assert paths(several, name) == expected


def test_whichever_process_answers_reads_your_writes(several: HubProcess, dataset: Path) -> None:
    written = []
    for number in range(40):
        write_files(dataset, {f"{number:03}": b"x"})
        written.append(f"{number:03}")
        assert paths(several, dataset.name) == written


def test_dataset_that_comes_and_goes_does_so_in_every_process(several: HubProcess, shared_served: Path) -> None:
    workers = wait_for_workers(several)
    for place, worker in enumerate(workers):
        with answered_by(worker, workers):
            write_files(shared_served, {f"new{place}/a": b"a"})
            assert f"new{place}" in several.get("/datasets").json()
            assert paths(several, f"new{place}") == ["a"]
    for place, worker in enumerate(reversed(workers)):
        with answered_by(worker, workers):
            (shared_served / f"new{place}" / "a").unlink()
            (shared_served / f"new{place}").rmdir()
            assert f"new{place}" not in several.get("/datasets").json()
            assert several.get(f"/manifest/new{place}").status_code == 404


def test_revision_of_one_process_is_known_to_the_others(several: HubProcess, dataset: Path) -> None:
    workers = wait_for_workers(several)
    write_files(dataset, {"a": b"a"})
    with answered_by(workers[0], workers):
        revision = several.get(f"/datasets/{dataset.name}").json()["revision"]
        write_files(dataset, {"b": b"b"})
        newer = several.get(f"/datasets/{dataset.name}").json()["revision"]
    with answered_by(workers[1], workers):
        rows = several.get(f"/manifest/{dataset.name}?revision={revision}").json()
        assert [row["path"] for row in rows] == ["a"]
        difference = several.get(f"/datasets/{dataset.name}/diff?from={revision}&to={newer}").json()
        assert difference["added"] == ["b"]


def test_process_that_was_killed_is_replaced_and_requests_go_on(served: Path, start_hub: StartHub) -> None:
    write_files(served, {"cats/a": b"a"})
    hub = start_hub(DSX_WORKERS=str(WORKERS))
    workers = wait_for_workers(hub)
    for worker in workers:
        worker.kill()
        psutil.wait_procs([worker], WAIT_S)
        assert [hub.get("/file/cats/a").content for _ in range(20)] == [b"a"] * 20
        wait_until(lambda: len(workers_of(hub)) == WORKERS, "another has taken its place")
    renewed = wait_for_workers(hub)
    assert not set(renewed) & set(workers)
    for number, worker in enumerate(renewed):
        with answered_by(worker, renewed):
            write_files(served, {f"cats/b{number}": b"b"})
            assert f"b{number}" in paths(hub, "cats")
    assert hub.log.count("another takes its place") == len(workers)
    assert hub.stop() == 0


def test_all_processes_killed_at_once_are_replaced(served: Path, start_hub: StartHub) -> None:
    write_files(served, {"cats/a": b"a"})
    hub = start_hub(DSX_WORKERS=str(WORKERS))
    workers = wait_for_workers(hub)
    for worker in workers:
        worker.kill()
    psutil.wait_procs(workers, WAIT_S)
    assert hub.get("/file/cats/a").content == b"a"
    assert paths(hub, "cats") == ["a"]


def watch_is_there(hub: HubProcess) -> bool:
    return any(runs(each, watching.PROGRAM.name) for each in processes_of(hub))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signal_ends_all_processes_with_status_0_and_leaves_nothing_behind(
    served: Path, start_hub: StartHub, tmp_path: Path, number: signal.Signals
) -> None:
    write_files(served, {"cats/a": b"a"})
    (tmp_path / "t").mkdir()
    hub = start_hub(DSX_WORKERS=str(WORKERS), TMPDIR=str(tmp_path / "t"))
    workers = wait_for_workers(hub)
    assert paths(hub, "cats") == ["a"]
    wait_until(lambda: watch_is_there(hub), "the folders are watched")
    others = processes_of(hub)
    if number == signal.SIGINT:  # Ctrl-C reaches all that run in the terminal
        for worker in workers:
            worker.send_signal(number)
    hub.process.send_signal(number)
    assert hub.process.wait(WAIT_S) == 0
    assert psutil.wait_procs(others, WAIT_S)[1] == []
    hub.kill()  # waits for the last of the log
    assert "Traceback" not in hub.log
    assert "leaked" not in hub.log
    assert "takes its place" not in hub.log
    assert os.listdir(tmp_path / "t") == []


def test_answer_under_way_is_finished_after_sigterm(served: Path, start_hub: StartHub) -> None:
    big = bytes(range(256)) * 131_072  # more than the buffers between hub and client hold
    write_files(served, {"cats/big": big})
    hub = start_hub(DSX_WORKERS=str(WORKERS))
    with connect(hub) as connection:
        connection.sendall(format_request(b"/file/cats/big"))
        received = connection.recv(1000)
        hub.process.send_signal(signal.SIGTERM)
        answer = parse_answer(received + receive_all(connection))
    assert answer.body == big
    assert hub.process.wait(WAIT_S) == 0


def test_no_process_outlives_the_first_when_that_is_killed(served: Path, start_hub: StartHub) -> None:
    write_files(served, {"cats/a": b"a"})
    hub = start_hub(DSX_WORKERS=str(WORKERS))
    wait_for_workers(hub)
    wait_until(lambda: watch_is_there(hub), "the folders are watched")
    others = processes_of(hub)
    assert len(others) > WORKERS
    hub.process.kill()
    assert psutil.wait_procs(others, WAIT_S)[1] == []
    hub.process.wait(WAIT_S)
    with pytest.raises(ConnectionRefusedError):
        connect(hub)
    assert start_hub(DSX_WORKERS=str(WORKERS)).get("/file/cats/a").content == b"a"


def refuse(served: Path, state: Path, **variables: str) -> str:
    """Run a hub that must not start, and return what it says."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
    env |= {"DSX_API_KEY": KEY, "DSX_DATASET_PATH": str(served), "DSX_STATE_DIR": str(state), "DSX_PORT": "0"}
    command = [sys.executable, str(LAUNCHER)]
    done = subprocess.run(
        command, env=env | variables, cwd=served.parent, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


@pytest.mark.parametrize(("first", "second"), [("2", "2"), ("1", "2"), ("2", "1")])
def test_second_hub_on_the_same_state_folder_is_refused(
    served: Path, start_hub: StartHub, tmp_path: Path, first: str, second: str
) -> None:
    hub = start_hub(DSX_WORKERS=first)
    said = refuse(served, tmp_path / "state", DSX_WORKERS=second)
    assert said.startswith("The hub cannot start: another hub already uses the state folder ")
    assert "DSX_STATE_DIR" in said
    assert said.count("\n") == 1
    assert hub.get("/health").status_code == 200


@pytest.mark.parametrize("workers", ["0", "x", "1000", "65", "-1", "1.5", "2 ", "\u0662"])
def test_number_of_workers_that_cannot_be_is_refused_in_one_sentence(
    served: Path, tmp_path: Path, workers: str
) -> None:
    said = refuse(served, tmp_path / "state", DSX_WORKERS=workers)
    assert said.startswith("The hub cannot start: DSX_WORKERS is ")
    assert said.count("\n") == 1


def test_digests_that_a_process_learns_show_in_the_description(
    served: Path, start_hub: StartHub, tmp_path: Path
) -> None:
    write_files(served, {"cats/a": b"", "cats/b": b"learned"})
    os.truncate(
        served / "cats" / "a", 1 << 38
    )  # sparse: whoever computes digests in the background is at it for minutes
    hub = start_hub(DSX_WORKERS=str(WORKERS))

    assert paths(hub, "cats") == ["a", "b"]
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "index.sqlite")) as index:
        settled = "SELECT count(*) FROM entries WHERE racy = 0"  # what has just been written is not trusted yet
        wait_until(lambda: index.execute(settled).fetchone() == (2,), "the entries are trusted")
    assert hub.get("/datasets/cats").json()["digest_share"] == 0.0
    assert hub.get("/file/cats/b").content == b"learned"
    wait_until(lambda: hub.get("/datasets/cats").json()["digest_share"] == 0.5, "one of two digests is known")


def test_key_is_in_no_command_line_and_in_no_environment(served: Path, start_hub: StartHub) -> None:
    key = "a-key-like-no-other-5d1f"
    (served.parent / ".env").write_text(f"DSX_API_KEY={key}\n")
    write_files(served, {"cats/a": b"a"})
    hub = start_hub(DSX_WORKERS=str(WORKERS), DSX_API_KEY="")
    hub.key = key
    assert paths(hub, "cats") == ["a"]
    wait_until(lambda: watch_is_there(hub), "the folders are watched")
    found = [psutil.Process(hub.process.pid), *processes_of(hub)]
    assert len(found) > WORKERS + 1
    for process in found:
        assert key not in " ".join(process.cmdline())
        assert key not in str(process.environ())
    assert key not in hub.log


def test_first_scan_and_how_far_it_is_show_in_every_process(served: Path, start_hub: StartHub, tmp_path: Path) -> None:
    write_files(served, {"cats/a": b"a"})
    hub = start_hub(DSX_WORKERS=str(WORKERS), DSX_WATCH="off", DSX_DIGESTS="off")
    workers = wait_for_workers(hub)
    assert paths(hub, "cats") == ["a"]
    count = 20_000
    index = sqlite3.connect(tmp_path / "state" / "index.sqlite", isolation_level=None, timeout=WAIT_S)
    with contextlib.closing(index):
        index.execute("BEGIN IMMEDIATE")  # nobody else can write: no scan can begin
        (tmp_path / "big").mkdir()
        for number in range(count):
            (tmp_path / "big" / f"{number}").touch()
        (tmp_path / "big").rename(served / "big")
        for worker in workers:
            with answered_by(worker, workers):
                info = hub.get("/datasets/big").json()
                assert (info["scanning"], info["revision"], info["entries"]) == (True, None, 0)
        index.execute("COMMIT")
        wait_until(
            lambda: index.execute("SELECT 1 FROM datasets WHERE name = 'big'").fetchone() is not None, "it began"
        )
        index.execute("BEGIN IMMEDIATE")  # it can go on until it has enough to be written
        for worker in workers:
            with answered_by(worker, workers):
                wait_until(lambda: hub.get("/datasets/big").json()["entries"] == count, "the entries have been listed")
                info = hub.get("/datasets/big").json()
                assert (info["scanning"], info["revision"]) == (True, None)
        index.execute("COMMIT")
    for worker in workers:
        with answered_by(worker, workers):
            wait_until(lambda: hub.get("/datasets/big").json()["scanning"] is False, "the scan has ended")
            info = hub.get("/datasets/big").json()
            assert (info["entries"], info["revision"] is None) == (count, False)
