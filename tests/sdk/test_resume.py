"""Downloads that are broken off: by the end of the client, of the hub, of the connection."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import dsx._fetch
from dsx import DatasetHubClient, HubUnreachableError
from tests.conftest import KEY, HubProcess

from .conftest import WAIT_S, Dataset, files_below, leftovers, run_in_thread, shorten_waits, wait_until
from .proxy import Proxy
from .scripted import HonestScript, Reply, Request, ScriptedHub, answer_problem, describe, format_head, range_of

MIB = 1024 * 1024
BIG = os.urandom(MIB) * 24
BIG_SHA256 = hashlib.sha256(BIG).hexdigest()

DOWNLOAD = """
    import sys
    import dsx._ranges
    from dsx import DatasetHubClient
    dsx._ranges.PARALLEL = 1  # so that what has come is the beginning
    with DatasetHubClient(sys.argv[1], sys.argv[2], sys.argv[3]) as hub:
        hub.get_manifest(sys.argv[4])
        print(hub.get_file(sys.argv[4], "big"))
"""

Connect = Callable[..., DatasetHubClient]
StartPython = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def proxy(dataset: Dataset, start_proxy: Callable[[int], Proxy]) -> Proxy:
    """A proxy in front of the common hub, whose dataset has one big file."""
    dataset.write({"big": BIG})
    return start_proxy(dataset.port)


@pytest.fixture
def interrupted(proxy: Proxy, dataset: Dataset, cache_dir: Path, start_python: StartPython) -> Path:
    """The cache that a client left behind which was killed after 14 of 24 MiB."""
    proxy.hold_after(14 * MIB)
    process = start_python(DOWNLOAD, proxy.url, KEY, cache_dir, dataset.name)
    assert proxy.held.wait(WAIT_S)
    wait_for_checkpoint(cache_dir)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=WAIT_S)
    proxy.release()
    proxy.requests.clear()
    return cache_dir


def wait_for_checkpoint(cache_dir: Path) -> None:
    """Wait until a client that gets no more bytes has written down what it has."""
    wait_until(lambda: any((cache_dir / ".dsx" / "tmp").glob("*.json")), "there is a checkpoint")


def resting_file(cache_dir: Path) -> Path:
    """Return the one file that holds the bytes of a download under way."""
    (found,) = [file for file in (cache_dir / ".dsx" / "tmp").iterdir() if file.suffix in (".work", ".part")]
    return found


def checkpoint_file(cache_dir: Path) -> Path:
    """Return the one file that says what they are."""
    (found,) = (cache_dir / ".dsx" / "tmp").glob("*.json")
    return found


def test_killed_client_goes_on_where_it_was(
    interrupted: Path, proxy: Proxy, dataset: Dataset, start_python: StartPython
) -> None:
    output, _ = start_python(DOWNLOAD, proxy.url, KEY, interrupted, dataset.name).communicate(timeout=WAIT_S)
    assert hashlib.sha256(Path(output.strip()).read_bytes()).hexdigest() == BIG_SHA256
    first, *others = proxy.file_requests
    start, _ = range_of(first, len(BIG))
    assert start >= 4 * MIB
    assert first.headers["if-range"].startswith('"')
    assert min((range_of(each, len(BIG))[0] for each in others), default=start) >= start


def test_killed_client_leaves_no_orphan_once_the_file_is_there(
    interrupted: Path, proxy: Proxy, dataset: Dataset, connect: Connect
) -> None:
    connect(proxy.url).get_file(dataset.name, "big")
    assert leftovers(interrupted) == []


def test_killed_client_leaves_nothing_in_the_folder_of_the_dataset(interrupted: Path, dataset: Dataset) -> None:
    assert [name for name in files_below(interrupted) if name.startswith(f"{dataset.name}/")] == []


def test_what_is_at_rest_counts_as_cache_and_can_be_cleared(
    interrupted: Path, connect: Connect, dataset: Dataset
) -> None:
    client = connect(dataset.url)
    size = client.get_cache_size()
    assert size > 4 * MIB
    assert client.clear_cache() == size
    assert leftovers(interrupted) == []


def test_entry_changed_meanwhile_is_started_anew(
    interrupted: Path, proxy: Proxy, dataset: Dataset, connect: Connect
) -> None:
    dataset.write({"big": BIG[::-1]})
    assert connect(proxy.url).get_file(dataset.name, "big").read_bytes() == BIG[::-1]
    assert leftovers(interrupted) == []


def test_entry_that_is_gone_meanwhile_is_an_error(
    interrupted: Path, proxy: Proxy, dataset: Dataset, connect: Connect
) -> None:
    (dataset.folder / "big").unlink()
    with pytest.raises(FileNotFoundError, match="big"):
        connect(proxy.url).get_file(dataset.name, "big")
    assert not (interrupted / dataset.name).exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda tmp: os.truncate(resting_file(tmp), 3 * MIB),
        lambda tmp: resting_file(tmp).write_bytes(b"\x7f" * 14 * MIB),
        lambda tmp: checkpoint_file(tmp).write_bytes(checkpoint_file(tmp).read_bytes()[:20]),
        lambda tmp: checkpoint_file(tmp).write_bytes(b"\xff" * 20),
        lambda tmp: checkpoint_file(tmp).write_text("[" * 100_000),
        lambda tmp: checkpoint_file(tmp).write_text("{}"),
        lambda tmp: alter_checkpoint(tmp, offset="4"),
        lambda tmp: alter_checkpoint(tmp, offset=10**30, size=10**30),
        lambda tmp: alter_checkpoint(tmp, offset=-1),
        lambda tmp: alter_checkpoint(tmp, etag=5),
        lambda tmp: alter_checkpoint(tmp, etag='"other"'),
        lambda tmp: alter_checkpoint(tmp, etag='"a\r\nX-Evil: 1"'),
        lambda tmp: alter_checkpoint(tmp, sha256="0" * 64),
        lambda tmp: alter_checkpoint(tmp, sha256=64 * [0]),
        lambda tmp: alter_checkpoint(tmp, size=20 * MIB),
        lambda tmp: checkpoint_file(tmp).unlink(),
        lambda tmp: resting_file(tmp).unlink(),
    ],
    ids=[
        "shorter file",
        "other bytes",
        "half a checkpoint",
        "binary checkpoint",
        "deep checkpoint",
        "empty checkpoint",
        "offset as text",
        "offset beyond all",
        "negative offset",
        "validator as number",
        "another validator",
        "validator with a line break",
        "another hash",
        "hash of another type",
        "another size",
        "no checkpoint",
        "no file",
    ],
)
def test_damaged_leftovers_are_found(
    interrupted: Path, proxy: Proxy, dataset: Dataset, connect: Connect, harm: Callable[[Path], object]
) -> None:
    harm(interrupted)
    local = connect(proxy.url).get_file(dataset.name, "big")
    assert hashlib.sha256(local.read_bytes()).hexdigest() == BIG_SHA256


def alter_checkpoint(cache_dir: Path, **changes: object) -> None:
    """Rewrite a checkpoint with other values."""
    file = checkpoint_file(cache_dir)
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_damaged_leftovers_leave_no_orphan(interrupted: Path, proxy: Proxy, dataset: Dataset, connect: Connect) -> None:
    os.truncate(resting_file(interrupted), 3 * MIB)
    dataset.write({"big": BIG[::-1]})
    connect(proxy.url).get_file(dataset.name, "big")
    assert leftovers(interrupted) == []


def test_at_no_moment_is_there_a_file_that_is_not_whole(
    proxy: Proxy, dataset: Dataset, cache_dir: Path, start_python: StartPython
) -> None:
    for count in (MIB, 10 * MIB, 12 * MIB):
        proxy.hold_after(count)
        process = start_python(DOWNLOAD, proxy.url, KEY, cache_dir, dataset.name)
        assert proxy.held.wait(WAIT_S)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=WAIT_S)
        proxy.release()
        assert not (cache_dir / dataset.name / "big").exists()
    output, _ = start_python(DOWNLOAD, proxy.url, KEY, cache_dir, dataset.name).communicate(timeout=WAIT_S)
    assert hashlib.sha256(Path(output.strip()).read_bytes()).hexdigest() == BIG_SHA256


@pytest.mark.parametrize("call", ["get_file", "get_file_bytes"])
@pytest.mark.parametrize("is_known", [True, False], ids=["hub known", "first call"])
def test_restart_of_the_hub_is_not_noticed(
    served: Path,
    hub: HubProcess,
    start_proxy: Callable[[int], Proxy],
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    is_known: bool,
) -> None:
    monkeypatch.setattr(dsx._fetch, "FIRST_CONTACT_S", 0.2)  # far less than a restart takes
    (served / "cats").mkdir()
    (served / "cats" / "big").write_bytes(BIG)
    proxy = start_proxy(hub.port)
    client = connect(proxy.url)
    if is_known:
        client.list_datasets()
    proxy.hold_after(14 * MIB)
    with run_in_thread(lambda: getattr(client, call)("cats", "big")) as result:
        assert proxy.held.wait(WAIT_S)
        hub.kill()
        proxy.release()
        hub.start()
    got = result()
    assert hashlib.sha256(got if isinstance(got, bytes) else got.read_bytes()).hexdigest() == BIG_SHA256


def test_cut_connections_are_not_noticed(proxy: Proxy, dataset: Dataset, connect: Connect) -> None:
    client = connect(proxy.url)
    client.list_datasets()
    proxy.hold_after(5 * MIB)
    with run_in_thread(lambda: client.get_file(dataset.name, "big")) as result:
        assert proxy.held.wait(WAIT_S)
        proxy.release()
        proxy.cut()
    assert hashlib.sha256(result().read_bytes()).hexdigest() == BIG_SHA256
    assert "range" in proxy.file_requests[-1].headers


def test_failed_download_is_gone_on_with_by_the_next_call(
    connect: Connect, start_scripted: Callable[..., ScriptedHub]
) -> None:
    data = os.urandom(3 * MIB)
    script = HonestScript({"x": data})
    honest = script.send_entry

    def send_half(request: Request, data: bytes) -> Reply:
        script.send_entry = refuse  # type: ignore[method-assign]
        return Reply(format_head(200, describe(data)) + data[: 2 * MIB])

    def refuse(_request: Request, _data: bytes) -> Reply:
        script.send_entry = honest  # type: ignore[method-assign]
        return answer_problem(404, "entry_not_found", "gone for a moment")

    script.send_entry = send_half  # type: ignore[method-assign]
    hub = start_scripted(script)
    client = connect(hub.url)
    with pytest.raises(FileNotFoundError):
        client.get_file("cats", "x")
    assert client.get_file("cats", "x").read_bytes() == data
    assert hub.of("GET", "/file/")[-1].headers["range"] == f"bytes={2 * MIB}-"


def test_complete_download_whose_entry_changed_before_it_was_verified_is_started_anew(
    connect: Connect, start_scripted: Callable[..., ScriptedHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_waits(monkeypatch, transfer_s=0.2, first_contact_s=0.2)
    data = os.urandom(2 * MIB)
    script = HonestScript({"x": data})
    honest = script.send_entry

    def send_without_digest(request: Request, data: bytes) -> Reply:
        if request.method == "HEAD":
            return Reply(b"")
        headers = {name: value for name, value in describe(data).items() if name != "Repr-Digest"}
        return Reply(format_head(200, headers) + data)

    script.send_entry = send_without_digest  # type: ignore[method-assign]
    client = connect(start_scripted(script).url)
    with pytest.raises(HubUnreachableError):
        client.get_file("cats", "x")
    script.send_entry = honest  # type: ignore[method-assign]
    script.files["x"] = data[::-1]
    assert client.get_file("cats", "x").read_bytes() == data[::-1]


def test_interrupt_of_the_terminal_keeps_what_has_come(
    proxy: Proxy, dataset: Dataset, cache_dir: Path, start_python: StartPython, connect: Connect
) -> None:
    proxy.hold_after(14 * MIB)
    process = start_python(DOWNLOAD, proxy.url, KEY, cache_dir, dataset.name)
    assert proxy.held.wait(WAIT_S)
    wait_for_checkpoint(cache_dir)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)
    proxy.release()
    proxy.requests.clear()
    connect(proxy.url).get_file(dataset.name, "big")
    assert "range" in proxy.file_requests[0].headers


def test_cache_folder_that_was_moved_goes_on_too(
    interrupted: Path, proxy: Proxy, dataset: Dataset, connect: Connect, tmp_path: Path
) -> None:
    shutil.move(interrupted, tmp_path / "moved")
    local = connect(proxy.url, cache_dir=tmp_path / "moved").get_file(dataset.name, "big")
    assert hashlib.sha256(local.read_bytes()).hexdigest() == BIG_SHA256
    assert "range" in proxy.file_requests[0].headers
