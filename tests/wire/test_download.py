"""Downloading thousands of files, end to end: the real SDK against the real hub, and both killed in the middle."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dsx import DatasetHubClient, DownloadError
from tests.conftest import KEY, HubProcess, write_files
from tests.sdk.conftest import (
    WAIT_S,
    files_below,
    leftovers,
    run_in_thread,
    start_python,
    wait_until,
)
from tests.sdk.proxy import Proxy

__all__ = ["start_python"]

COUNT = 3000
LONG_BYTES = 9 * 1024 * 1024


def make_files() -> dict[str, bytes]:
    """Make small entries in 40 folders, some of middle size and a long one."""
    names = random.Random(7)
    files = {f"{n % 40:02}/{n:05} ü#%.bin": names.randbytes(names.randrange(3000)) for n in range(COUNT)}
    files |= {f"middle/{n}": names.randbytes(1_500_000) for n in range(3)}
    return files | {"empty": b"", "long": names.randbytes(LONG_BYTES), "d/quote'\"\n.txt": b"q"}


@pytest.fixture
def files(served: Path) -> dict[str, bytes]:
    """What the dataset ``cats`` holds."""
    files = make_files()
    write_files(served / "cats", files)
    return files


@pytest.fixture
def hub(files: dict[str, bytes], start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub that finds all of them when it starts."""
    return start_hub()


@pytest.fixture
def proxy(hub: HubProcess) -> Iterator[Proxy]:
    """What the client takes for the hub."""
    proxy = Proxy(hub.port)
    yield proxy
    proxy.stop()


def own(folder: Path) -> dict[str, bytes]:
    """Read the files in a folder, but for those that are the SDK's."""
    return {path: data for path, data in files_below(folder).items() if not path.startswith(".dsx/")}


CODE = """
    import sys
    from dsx import DatasetHubClient
    url, key, dest = sys.argv[1:4]
    with DatasetHubClient(url, key, cache_dir=None) as hub:
        print(len(hub.download_dataset("cats", dest=dest)))
"""


def test_folder_becomes_what_the_dataset_is(hub: HubProcess, files: dict[str, bytes], tmp_path: Path) -> None:
    with DatasetHubClient(hub.url, KEY, cache_dir=None) as client:
        paths = client.download_dataset("cats", dest=tmp_path / "own")
        assert paths == [tmp_path / "own" / path for path in sorted(files)]
    assert own(tmp_path / "own") == files
    assert leftovers(tmp_path / "own") == []
    assert len([line for line in hub.lines if "/batch/" in line]) < 20


def test_killed_client_is_gone_on_with_and_leaves_no_orphan(
    proxy: Proxy,
    files: dict[str, bytes],
    tmp_path: Path,
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    dest = tmp_path / "own"
    for count in (2_000_000, 4_000_000, 3_000_000):  # of 18 MB
        proxy.hold_after(count)
        process = start_python(CODE, proxy.url, KEY, dest)
        assert proxy.held.wait(WAIT_S)
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        proxy.cut()
        there = own(dest)
        assert all(files[path] == data for path, data in there.items())
        proxy.release()
    before = len(proxy.requests)
    process = start_python(CODE, proxy.url, KEY, dest)
    assert process.communicate(timeout=WAIT_S)[0] == f"{len(files)}\n"
    assert own(dest) == files
    assert leftovers(dest) == []
    again = start_python(CODE, proxy.url, KEY, dest)
    asked = len(proxy.requests)
    assert again.communicate(timeout=WAIT_S)[0] == f"{len(files)}\n"
    assert len(proxy.requests) == asked + 1
    assert before < asked


@pytest.mark.parametrize("number", range(3))
def test_client_killed_at_any_moment_leaves_whole_files_only(
    hub: HubProcess,
    files: dict[str, bytes],
    tmp_path: Path,
    start_python: Callable[..., subprocess.Popen[str]],
    number: int,
) -> None:
    dest = tmp_path / "own"
    process = start_python(CODE, hub.url, KEY, dest)
    wait_until(lambda: sum(1 for _ in dest.rglob("*.bin")) > 200 + 700 * number or process.poll() is not None, "files")
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
    assert all(files[path] == data for path, data in own(dest).items())
    process = start_python(CODE, hub.url, KEY, dest)
    assert process.communicate(timeout=WAIT_S)[0] == f"{len(files)}\n"
    assert own(dest) == files
    assert leftovers(dest) == []


def test_hub_that_is_killed_and_started_again_in_the_middle_is_not_noticed(
    hub: HubProcess, proxy: Proxy, files: dict[str, bytes], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        client = stack.enter_context(DatasetHubClient(proxy.url, KEY, cache_dir=None))
        client.load_manifest("cats")
        proxy.hold_after(5_000_000)
        with run_in_thread(lambda: client.download_dataset("cats", dest=tmp_path / "own")) as get_result:
            assert proxy.held.wait(WAIT_S)
            hub.kill()
            hub.start()
            proxy.cut()
            proxy.release()
            assert len(get_result()) == len(files)
    assert own(tmp_path / "own") == files


def test_entries_that_change_while_they_are_downloaded_come_as_they_are_now(
    hub: HubProcess, files: dict[str, bytes], served: Path, tmp_path: Path
) -> None:
    with DatasetHubClient(hub.url, KEY, cache_dir=None) as client:
        client.load_manifest("cats")
        manifest = client._manifests.refresh("cats")
        client._manifests.refresh = lambda _, **__: manifest  # type: ignore[method-assign, assignment, misc]
        changed = {path: b"new" + data for path, data in list(files.items())[5:2000:100]}
        gone = list(files)[9]
        write_files(served / "cats", changed)
        (served / "cats" / gone).unlink()
        with pytest.raises(DownloadError) as caught:
            client.download_dataset("cats", dest=tmp_path / "own", delete=True)
    assert caught.value.failures.keys() == {gone}
    wanted = files | changed
    del wanted[gone]
    assert own(tmp_path / "own") == wanted


def test_permission_denied_on_one_of_thousands(
    powerless_hub: HubProcess, files: dict[str, bytes], served: Path, tmp_path: Path
) -> None:
    denied = list(files)[77]
    with DatasetHubClient(powerless_hub.url, KEY, cache_dir=None) as client:
        revision = client.get_revision("cats")  # the newest leaves it out, once the hub has seen that
        (served / "cats" / denied).chmod(0)
        with pytest.raises(DownloadError) as caught:
            client.download_dataset("cats", dest=tmp_path / "own", revision=revision)
    assert caught.value.failures.keys() == {denied}
    assert own(tmp_path / "own") == {path: data for path, data in files.items() if path != denied}


@pytest.mark.parametrize("to_dest", [True, False], ids=["dest", "cache"])
def test_many_processes_and_threads_fill_one_folder_without_locks(
    start_hub: Callable[..., HubProcess],
    served: Path,
    tmp_path: Path,
    start_python: Callable[..., subprocess.Popen[str]],
    to_dest: bool,
) -> None:
    files = {f"{n % 9}/{n}": os.urandom(n * 3) for n in range(600)} | {"long": os.urandom(LONG_BYTES)}
    write_files(served / "cats", files)
    hub = start_hub()
    code = """
        import fcntl, sys, threading
        fcntl.flock = fcntl.lockf = lambda *_: None
        from dsx import DatasetHubClient
        url, key, cache_dir, dest = sys.argv[1:5]
        with DatasetHubClient(url, key, cache_dir) as hub:
            def work():
                for path in hub.download_dataset("cats", dest=dest or None):
                    path.stat()
                done.append(1)
            done = []
            threads = [threading.Thread(target=work) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            print(len(done))
    """
    dest = tmp_path / "own" if to_dest else ""
    processes = [start_python(code, hub.url, KEY, tmp_path / "cache", dest) for _ in range(8)]
    outputs = [process.communicate(timeout=2 * WAIT_S)[0] for process in processes]
    assert outputs == ["4\n"] * 8
    folder = tmp_path / "own" if to_dest else tmp_path / "cache"
    assert (own(folder) if to_dest else files_below(folder / "cats")) == files
    assert leftovers(folder) == []
