"""One client in many threads and processes: shared, pickled, forked."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx import DatasetHubClient, DsxError
from tests.conftest import KEY

from .conftest import Dataset, leftovers, run_python

SECRET = "a-very-secret-key-1f7e"
URL = "http://hub.example:8000"

Connect = Callable[..., DatasetHubClient]


def test_pickled_client_works(connect: Connect, dataset: Dataset, cache_dir: Path) -> None:
    dataset.write({"x": b"1"})
    client = connect(dataset.url)
    client.get_file(dataset.name, "x")
    with pickle.loads(pickle.dumps(client)) as again:
        assert again.get_file(dataset.name, "x") == cache_dir / dataset.name / "x"


def test_pickled_client_is_small(connect: Connect, dataset: Dataset) -> None:
    dataset.write({f"{number}": b"" for number in range(500)})
    client = connect(dataset.url)
    client.get_manifest(dataset.name)
    assert len(pickle.dumps(client)) < 1000


def test_client_of_a_subclass_pickles(connect: Connect) -> None:
    assert type(pickle.loads(pickle.dumps(MyClient(URL, SECRET)))) is MyClient


class MyClient(DatasetHubClient):
    """A client of somebody's own."""


FORK = """
    import os, signal, sys
    from dsx import DatasetHubClient
    hub = DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3])
    dataset = sys.argv[4]
    hub.get_manifest(dataset), hub.get_file(dataset, "a"), hub.get_file_bytes(dataset, "b")
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # the end of a child that hangs
        code = 1
        try:
            assert hub.get_file_bytes(dataset, "b") == b"b" * 5000
            assert hub.get_file(dataset, "a").read_bytes() == b"a" * 5000
            assert len(hub.download_dataset(dataset)) == 20
            hub.close()
            code = 0
        finally:
            os._exit(code)
    for _ in range(50):
        assert hub.get_file_bytes(dataset, "b") == b"b" * 5000
        assert hub.get_file(dataset, "a").read_bytes() == b"a" * 5000
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(hub.download_dataset(dataset)) == 20
    hub.close()
    print("both")
"""


def test_client_works_in_a_child_while_its_parent_goes_on(dataset: Dataset, cache_dir: Path) -> None:
    dataset.write({name: name[0].encode() * 5000 for name in ("a", "b", *(f"c{number}" for number in range(18)))})
    assert run_python(FORK, dataset.url, KEY, cache_dir, dataset.name) == "both\n"
    assert leftovers(cache_dir) == []


FORK_WHILE_BUSY = """
    import os, signal, sys, threading
    from dsx import DatasetHubClient
    hub = DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3])
    dataset, busy = sys.argv[4], threading.Event()
    def work():
        while not busy.is_set():
            hub.get_file(dataset, "a"), hub.get_file_bytes(dataset, "b"), hub.get_cache_size()
    hub.get_manifest(dataset)
    codes = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    for _ in range(10):
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # the end of a child that hangs
            ok = hub.get_file_bytes(dataset, "b") == b"b" * 5000 and hub.get_file(dataset, "a").is_file()
            os._exit(0 if ok else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        if any(codes):
            break
    busy.set()
    [thread.join() for thread in threads]
    hub.close()
    print("all" if codes == [0] * 10 else codes)
"""


def test_fork_while_other_threads_use_the_client_hangs_no_child(dataset: Dataset, cache_dir: Path) -> None:
    dataset.write({"a": b"a" * 5000, "b": b"b" * 5000})
    assert run_python(FORK_WHILE_BUSY, dataset.url, KEY, cache_dir, dataset.name) == "all\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_client_works_in_workers(dataset: Dataset, cache_dir: Path, method: str, tmp_path: Path) -> None:
    dataset.write({"a": b"a" * 5000})
    script = tmp_path / "work.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "from dsx import DatasetHubClient\n"
        "def work(hub):\n"
        "    name = sys.argv[4]\n"
        "    return hub.get_file(name, 'a').read_bytes() == hub.get_file_bytes(name, 'a') == b'a' * 5000\n"
        "if __name__ == '__main__':\n"
        "    hub = DatasetHubClient(*sys.argv[1:4])\n"
        "    hub.get_manifest(sys.argv[4])\n"
        f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
        "        print(pool.map(work, [hub] * 4))\n"
        "    hub.close()\n"
    )
    output = run_python(
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        if method == "fork"
        else "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))",
        script, dataset.url, KEY, cache_dir, dataset.name,
    )  # fmt: skip
    assert output == "[True, True, True, True]\n"


def test_threads_share_a_client(connect: Connect, dataset: Dataset) -> None:
    files = {f"{number}": bytes([number]) * 3000 for number in range(30)}
    dataset.write(files)
    client = connect(dataset.url)
    wrong: list[object] = []

    def work() -> None:
        try:
            wrong.extend(path for path, data in files.items() if client.get_file_bytes(dataset.name, path) != data)
            wrong.extend(
                path for path, data in files.items() if client.get_file(dataset.name, path).read_bytes() != data
            )
            client.get_manifest(dataset.name)
        except DsxError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
