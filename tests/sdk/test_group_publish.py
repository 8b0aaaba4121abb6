"""Many small files published as a group: in which order, what is left when it is broken off, what is not plain."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import dsx._cache
import dsx._publishing
from dsx import CacheError, DatasetHubClient, DownloadError
from dsx._layout import FolderLayout
from dsx._ledger import Record
from dsx._publishing import write_new_file
from tests.conftest import KEY, write_files

from .conftest import WAIT_S, Unprivileged, files_below, leftovers, wait_until
from .scripted import (
    HonestScript,
    Reply,
    Request,
    Script,
    ScriptedHub,
    answer_problem,
    digests_of,
    paths_of,
    write_frame,
)

FILES = {f"d{number % 7}/{number:03}": b"%d" % number * 300 for number in range(300)}

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def script() -> HonestScript:
    """A dataset ``cats`` that may be changed."""
    return HonestScript(FILES)


@pytest.fixture
def hub(start_scripted: Callable[[Script], ScriptedHub], script: HonestScript) -> ScriptedHub:
    """The hub that has it."""
    return start_scripted(script)


@pytest.fixture
def client(connect: Connect, hub: ScriptedHub) -> DatasetHubClient:
    """A client of it."""
    return connect(hub.url)


def rows(cache_dir: Path, what: str) -> list[tuple[object, ...]]:
    """Ask the ledger."""
    with sqlite3.connect(cache_dir / ".dsx" / "ledger.sqlite") as ledger:
        return ledger.execute(f"SELECT {what} FROM files WHERE dataset = 'cats'").fetchall()


def break_at(monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException) -> None:
    """Have the renames to names of entries fail from one on."""
    real, done = os.replace, [0]

    def replace(source: str | Path, target: str | Path) -> None:
        done[0] += "/.dsx/" in str(source) and "/cats/" in str(target)
        if done[0] > count and "/.dsx/" in str(source) and "/cats/" in str(target):
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_record_is_what_the_file_is(client: DatasetHubClient, cache_dir: Path) -> None:
    client.download_dataset("cats")
    client.close()
    found = {path: tuple(rest) for path, *rest in rows(cache_dir, "path, size, mtime_ns, is_ours, is_synced")}
    for path, data in FILES.items():
        assert found[path] == (len(data), (cache_dir / "cats" / path).stat().st_mtime_ns, 1, 1)


@pytest.mark.parametrize("count", [0, 1, 150, 299])
def test_broken_off_between_records_and_names_nothing_is_foreign_and_nothing_left(
    client: DatasetHubClient,
    connect: Connect,
    hub: ScriptedHub,
    cache_dir: Path,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        break_at(patch, count, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            client.download_dataset("cats")
    assert len(files_below(cache_dir / "cats")) == count
    assert len(rows(cache_dir, "path")) == len(FILES)
    assert leftovers(cache_dir) == []
    connect(hub.url).download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES


def test_files_of_the_same_process_are_trusted_before_they_are_on_the_disk(
    client: DatasetHubClient, hub: ScriptedHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(dsx._cache, "sync_files", lambda _: go_on.wait(60))
    client.download_dataset("cats")
    assert {each for (each,) in rows(cache_dir, "is_synced")} == {0}
    monkeypatch.setattr("dsx._inventory.hash_files", None)  # nothing is read again
    asked = len(hub.requests)
    client.download_dataset("cats")
    assert [request.method for request in hub.requests[asked:]] == ["GET"]  # for the manifest
    go_on.set()
    client.close()
    assert {each for (each,) in rows(cache_dir, "is_synced")} == {1}


def test_sync_that_fails_leaves_files_to_be_verified(
    client: DatasetHubClient, connect: Connect, hub: ScriptedHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def fail(_: object) -> None:
            raise OSError(errno.EIO, "I/O error")

        patch.setattr(dsx._cache, "sync_files", fail)
        client.download_dataset("cats")
        with suppress(CacheError):  # whoever comes first, this or the one behind
            client.close()
    lost = cache_dir / "cats" / "d0" / "000"
    status = lost.stat()
    lost.write_bytes(bytes(status.st_size))  # what a power cut may leave
    os.utime(lost, ns=(status.st_atime_ns, status.st_mtime_ns))
    connect(hub.url).download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES


def test_changed_files_are_replaced(client: DatasetHubClient, script: HonestScript, cache_dir: Path) -> None:
    client.download_dataset("cats")
    script.files = {path: data[::-1] for path, data in FILES.items()}
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == script.files


def test_entries_become_folders_and_folders_entries(
    client: DatasetHubClient, script: HonestScript, cache_dir: Path
) -> None:
    script.files = {"a": b"a", "b/c": b"c", "b/d/e": b"e"}
    client.download_dataset("cats")
    script.files = {"a/x": b"x", "a/y/z": b"z", "b": b"b"}
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == script.files


def test_folder_that_is_removed_meanwhile_is_made_again(
    client: DatasetHubClient, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dsx._cache.Cache.enter

    def enter(cache: dsx._cache.Cache, dataset: str, records: dict[str, Record]) -> dict[str, CacheError]:
        for folder in (cache_dir / "cats").iterdir():
            folder.rmdir()
        return real(cache, dataset, records)

    monkeypatch.setattr(dsx._cache.Cache, "enter", enter)
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES


def test_other_file_system_beside_is_copied_to(
    client: DatasetHubClient, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_at(monkeypatch, 0, OSError(errno.EXDEV, "Invalid cross-device link"))
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES
    assert leftovers(cache_dir) == []


def test_names_that_the_file_system_takes_for_one_are_refused_naming_both(
    client: DatasetHubClient, script: HonestScript, cache_dir: Path
) -> None:
    script.files = {"README.md": b"2", "readme.MD": b"3", "x": b"x"}
    first = client.download_dataset("cats", ["README.md"])[0]
    os.link(first, first.with_name("readme.MD"))  # what a folding file system would show
    with pytest.raises(DownloadError, match=r"(?s)readme\.MD.*README\.md"):
        client.download_dataset("cats")
    assert (first.read_bytes(), (cache_dir / "cats" / "x").read_bytes()) == (b"2", b"x")


def test_names_that_only_differ_in_case_are_two_files_where_they_can_be(
    client: DatasetHubClient, script: HonestScript, cache_dir: Path
) -> None:
    script.files = {"README.md": b"2", "readme.MD": b"3", "x": b"x"}
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == script.files


def fill_disk(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the disk refuse every new file from the fifth on; what is begun is there, as on a full disk."""
    left = [5]

    def write(name: str, data: bytes) -> int:
        left[0] -= 1
        if left[0] < 0:
            Path(name).write_bytes(data[:1])
            raise OSError(number, os.strerror(number))
        return write_new_file(name, data)

    monkeypatch.setattr(dsx._publishing, "write_new_file", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EIO])
def test_disk_that_refuses_is_named_and_the_next_try_works(
    client: DatasetHubClient, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        fill_disk(patch, number)
        with pytest.raises(DownloadError, match=os.strerror(number)) as caught:
            client.download_dataset("cats")
    assert len(files_below(cache_dir / "cats")) == 5
    assert all(isinstance(error, CacheError) for error in caught.value.failures.values())
    assert leftovers(cache_dir) == []
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES


def test_nothing_more_is_fetched_onto_a_full_disk(
    client: DatasetHubClient, hub: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsx._download_many.GROUP_FILES", 10)
    fill_disk(monkeypatch, errno.ENOSPC)
    with pytest.raises(DownloadError, match="were not tried") as caught:
        client.download_dataset("cats")
    assert len(caught.value.failures) == 5
    assert len(hub.of("POST")) == 1


def test_folder_that_may_not_be_written_fails_its_files_only(
    hub: ScriptedHub, cache_dir: Path, unprivileged: Unprivileged
) -> None:
    code = """
        import os, sys
        from dsx import DatasetHubClient, DownloadError
        os.makedirs(sys.argv[3] + "/cats/d3")
        os.chmod(sys.argv[3] + "/cats/d3", 0o555)
        hub = DatasetHubClient(*sys.argv[1:4])
        try:
            hub.download_dataset("cats")
        except DownloadError as error:
            print({path[:2] for path in error.failures}, len(error.failures), "ermission" in str(error))
    """
    output = unprivileged.run(code, hub.url, KEY, cache_dir)
    assert output.strip() == f"{{'d3'}} {sum(path.startswith('d3') for path in FILES)} True"
    assert files_below(cache_dir / "cats") == {path: data for path, data in FILES.items() if not path.startswith("d3")}


def test_of_two_datasets_that_publish_one_name_at_once_one_gets_it(tmp_path: Path) -> None:
    caches = [dsx._cache.Cache(tmp_path, FolderLayout()) for _ in range(2)]
    record = Record(1, 2, "0" * 32, "1" * 64, 3, "", is_ours=True, is_synced=False)
    refused = []
    barrier = threading.Barrier(2)

    def enter(number: int) -> None:
        barrier.wait()
        refused.append(caches[number].enter(f"cats{number}", {"x": record, f"own{number}": record}))

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(map(len, refused)) == [0, 1]
    assert [list(each) for each in refused if each] == [["x"]]
    for cache in caches:
        cache.close()


def test_key_that_is_revoked_in_the_middle_ends_it_and_keeps_what_came(
    client: DatasetHubClient, script: HonestScript, hub: ScriptedHub, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsx._pace.MOST_ENTRIES", 50)
    send = script.send_batch
    script.send_batch = (  # type: ignore[method-assign]
        lambda request: send(request) if "d0/000" in paths_of(request) else answer_problem(401, "unauthorized", "no")
    )
    with pytest.raises(DownloadError, match=r"did not accept the API key") as caught:
        client.download_dataset("cats")
    assert len(caught.value.failures) == 1
    assert len(files_below(cache_dir / "cats")) == 50
    assert hub.of("GET", "/file/") == []


INTERRUPTED = """
    import sys
    import dsx._download_many
    from dsx import DatasetHubClient
    dsx._download_many.GROUP_FILES = 10
    DatasetHubClient(*sys.argv[1:4]).download_dataset("cats")
"""


def test_interrupt_in_a_batch_ends_it_soon_and_keeps_what_came(
    script: HonestScript,
    hub: ScriptedHub,
    cache_dir: Path,
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    asked = threading.Event()
    send = script.send_batch

    def hold(request: Request) -> Reply:
        whole = send(request).data
        assert isinstance(whole, bytes)
        asked.set()
        return Reply(whole[: len(whole) // 2], end="hang")

    script.send_batch = hold  # type: ignore[method-assign]
    process = start_python(INTERRUPTED, hub.url, KEY, cache_dir)
    assert asked.wait(WAIT_S)
    wait_until(lambda: len(files_below(cache_dir / "cats")) >= 100 or process.poll() is not None, "a third is there")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)  # not as long as the hub may be silent
    assert "KeyboardInterrupt" in output
    kept = files_below(cache_dir / "cats")
    assert len(kept) >= 100
    assert all(FILES[path] == data for path, data in kept.items())
    assert leftovers(cache_dir) == []


@pytest.mark.parametrize("status", [429, 503])
def test_busy_hub_is_waited_for_as_it_says(
    client: DatasetHubClient, script: HonestScript, hub: ScriptedHub, cache_dir: Path, status: int
) -> None:
    send, refused = script.send_batch, []

    def be_busy(request: object) -> object:
        if len(refused) < 2:
            refused.append(request)
            return answer_problem(status, "busy" if status == 429 else "unavailable", "busy", Retry_After="0")
        return send(request)  # type: ignore[arg-type]

    script.send_batch = be_busy  # type: ignore[assignment, method-assign]
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES
    assert hub.of("GET", "/file/") == []


def test_batches_that_always_break_leave_the_rest_to_single_files(
    client: DatasetHubClient, script: HonestScript, hub: ScriptedHub, cache_dir: Path
) -> None:
    script.send_batch = lambda _: answer_problem(500, "internal", "no")  # type: ignore[method-assign]
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES
    assert len(hub.of("GET", "/file/")) == len(FILES)


def test_wrong_bytes_in_a_batch_are_fetched_again_by_themselves(
    client: DatasetHubClient, script: HonestScript, hub: ScriptedHub, cache_dir: Path
) -> None:
    honest = script.write_frame

    def write(index: int, path: str, start: int, stop: int) -> bytes:
        right = script.files[path]
        script.files[path] = right[1:] + b"!" if path == "d1/008" else right
        try:
            return honest(index, path, start, stop)
        finally:
            script.files[path] = right

    script.write_frame = write  # type: ignore[method-assign]
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES
    assert [request.path for request in hub.of("GET", "/file/")] == ["/file/cats/d1/008"]


def test_bytes_after_the_head_are_held_against_the_digest(
    client: DatasetHubClient, script: HonestScript, hub: ScriptedHub, cache_dir: Path
) -> None:
    long = bytes(3000)
    script.files = {"a": b"a", "long": long}
    script.changes = {"digests": digests_of(script.files)}
    honest = script.write_frame

    def write(index: int, path: str, start: int, stop: int) -> bytes:
        return write_frame(index, 0, long[:-1] + b"!") if path == "long" else honest(index, path, start, stop)

    script.write_frame = write  # type: ignore[method-assign]
    client.download_dataset("cats")
    assert files_below(cache_dir / "cats") == script.files
    assert [request.path for request in hub.of("GET", "/file/")] == ["/file/cats/long"]


def test_foreign_file_that_comes_meanwhile_stays(
    client: DatasetHubClient, script: HonestScript, cache_dir: Path
) -> None:
    send, foreign = script.send_batch, {"d0/000": b"mine", "d1/001": b"mine"}

    def put_files(request: Request) -> Reply:
        write_files(cache_dir / "cats", foreign)
        return send(request)

    script.send_batch = put_files  # type: ignore[method-assign]
    with pytest.raises(DownloadError, match="in the way") as caught:
        client.download_dataset("cats")
    assert caught.value.failures.keys() == foreign.keys()
    assert files_below(cache_dir / "cats") == FILES | foreign


def test_manifest_without_a_revision_is_read_file_by_file(
    client: DatasetHubClient, hub: ScriptedHub, cache_dir: Path, connect: Connect
) -> None:
    client.get_manifest("cats")
    client.close()
    (cache_dir / ".dsx" / "manifests" / "cats.json").unlink()
    port, hub_requests = hub.port, hub.requests
    hub_requests.clear()
    again = connect(f"http://127.0.0.1:{port}")
    manifest = again._manifests._load("cats")
    assert manifest is not None
    again._manifests.refresh = lambda _, **__: manifest[1]  # type: ignore[method-assign, assignment, misc]
    again.download_dataset("cats")
    assert files_below(cache_dir / "cats") == FILES
    assert hub.of("POST") == []


def test_foreign_files_are_never_replaced_by_a_group(client: DatasetHubClient, cache_dir: Path) -> None:
    foreign = dict.fromkeys(list(FILES)[::30], b"mine")
    write_files(cache_dir / "cats", foreign)
    with pytest.raises(DownloadError, match="in the way") as caught:
        client.download_dataset("cats")
    assert caught.value.failures.keys() == foreign.keys()
    assert files_below(cache_dir / "cats") == FILES | foreign
