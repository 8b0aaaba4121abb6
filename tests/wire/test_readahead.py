"""The contract's loops over a manifest, unchanged, end to end: the real SDK against the real hub."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsx import DatasetHubClient
from tests.conftest import KEY, HubProcess, write_files
from tests.sdk.conftest import WAIT_S, run_in_thread, run_python
from tests.sdk.proxy import Proxy

COUNT = 4000


@pytest.fixture
def files(served: Path) -> dict[str, bytes]:
    """What the dataset ``cats`` holds: pictures of 0 to 3,000 bytes in 40 folders, and a text in each."""
    numbers = random.Random(3)
    files = {f"{n % 40:02}/{n:05} ü#%.JPG": numbers.randbytes(numbers.randrange(3000)) for n in range(COUNT)}
    files |= {f"{n:02}/readme.txt": b"text" * n for n in range(40)}
    write_files(served / "cats", files)
    return files


@pytest.fixture
def proxy(files: dict[str, bytes], hub: HubProcess) -> Iterator[Proxy]:
    """What stands between the client and the hub."""
    proxy = Proxy(hub.port)
    yield proxy
    proxy.stop()


@pytest.fixture
def client(proxy: Proxy, tmp_path: Path) -> Iterator[DatasetHubClient]:
    """A client with a cache."""
    with DatasetHubClient(proxy.url, KEY, cache_dir=tmp_path / "cache") as client:
        yield client


def test_filtered_loop_is_served_in_few_requests(
    client: DatasetHubClient, proxy: Proxy, files: dict[str, bytes]
) -> None:
    manifest = client.get_manifest("cats")
    image_files = [item["path"] for item in manifest if item["path"].lower().endswith((".jpg", ".jpeg", ".png"))]
    assert len(image_files) == COUNT
    for path in image_files:
        assert client.get_file_bytes("cats", path) == files[path]
    assert len(proxy.requests) < 60


def test_loop_that_fills_the_cache(
    client: DatasetHubClient, proxy: Proxy, files: dict[str, bytes], tmp_path: Path
) -> None:
    manifest = client.get_manifest("cats")
    for item in manifest[:1500]:
        path = client.get_file("cats", item["path"])
        assert path == tmp_path / "cache" / "cats" / item["path"]
        assert path.read_bytes() == files[item["path"]]
    assert len(proxy.requests) < 60
    asked = len(proxy.requests)
    for item in manifest[:1500]:
        client.get_file("cats", item["path"])
    assert len(proxy.requests) == asked


def test_hub_that_is_killed_and_started_again_in_the_middle_is_not_noticed(
    client: DatasetHubClient, proxy: Proxy, hub: HubProcess, files: dict[str, bytes]
) -> None:
    paths = [item["path"] for item in client.get_manifest("cats")]
    proxy.hold_after(2_000_000)
    with run_in_thread(lambda: [client.get_file_bytes("cats", path) for path in paths]) as get_result:
        assert proxy.held.wait(WAIT_S)
        hub.kill()
        hub.start()
        proxy.cut()
        proxy.release()
        assert get_result() == [files[path] for path in paths]


def test_files_that_change_meanwhile_are_what_the_manifest_says_or_newer(
    client: DatasetHubClient, served: Path, files: dict[str, bytes]
) -> None:
    versions = [bytes([number]) * 20_000 for number in range(4)]
    paths = [f"{number:03}" for number in range(300)]
    write_files(served / "dogs", dict.fromkeys(paths, versions[0]))
    written = dict.fromkeys(paths, 0)
    for epoch in range(3):
        manifest = client.get_manifest("dogs")
        known = dict(written)
        for number, item in enumerate(manifest):
            data = client.get_file_bytes("dogs", item["path"])
            assert versions.index(data) >= known[item["path"]]
            if number % 10 == 0:
                later = paths[(number + 37) % 300]
                new = served / "new"
                new.write_bytes(versions[epoch + 1])
                new.replace(served / "dogs" / later)
                written[later] = epoch + 1


WORKERS = """
    import multiprocessing, sys
    from dsx import DatasetHubClient

    def begin(client):  # a forked worker has the client as it was in the middle of the loop, others a pickled one
        global hub
        hub = client
        if sys.argv[3] != "fork":
            hub.get_manifest("cats")

    def work(paths):
        return sum(len(hub.get_file_bytes("cats", path)) for path in paths)

    if __name__ == "__main__":
        begin(DatasetHubClient(sys.argv[1], sys.argv[2], cache_dir=None))
        paths = [item["path"] for item in hub.get_manifest("cats")]
        got = work(paths[:500])
        with multiprocessing.get_context(sys.argv[3]).Pool(2, begin, (hub,)) as pool:
            got += sum(pool.map(work, [paths[500:2000], paths[2000:]]))
        print(got)
        hub.close()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_go_on_with_a_loop(proxy: Proxy, files: dict[str, bytes], tmp_path: Path, method: str) -> None:
    script = tmp_path / "work.py"  # a file, since spawned workers import it
    script.write_text(textwrap.dedent(WORKERS))
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    assert int(run_python(code, script, proxy.url, KEY, method)) == sum(map(len, files.values()))
    assert len(proxy.requests) < 200
