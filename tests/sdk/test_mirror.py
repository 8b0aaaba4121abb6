"""``delete=True``: what the SDK put there and is wanted no longer goes, and nothing else ever does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsx import DatasetHubClient, DownloadError, HubUnreachableError
from tests.conftest import KEY, write_files

from .conftest import files_below
from .scripted import HonestScript, Reply, Request, Script, ScriptedHub, answer_problem, write_problem

FILES = {"a": b"a" * 2000, "d/b": b"b" * 2000, "d/e/c": b"c" * 2000, "f/g": b"g"}

Connect = Callable[..., DatasetHubClient]


@pytest.fixture
def script() -> HonestScript:
    """A dataset ``cats`` that may be changed."""
    return HonestScript(FILES)


@pytest.fixture
def client(connect: Connect, start_scripted: Callable[[Script], ScriptedHub], script: HonestScript) -> DatasetHubClient:
    """A client of the hub that has it."""
    return connect(start_scripted(script).url, cache_dir=None)


@pytest.fixture
def dest(tmp_path: Path, client: DatasetHubClient) -> Path:
    """A folder that has all of it."""
    client.download_dataset("cats", dest=tmp_path / "own")
    return tmp_path / "own"


def own(folder: Path) -> dict[str, bytes]:
    """Read the files in a folder, but for those that are the SDK's."""
    return {path: data for path, data in files_below(folder).items() if not path.startswith(".dsx/")}


def without(*paths: str) -> dict[str, bytes]:
    """Return `FILES` but for some."""
    return {path: data for path, data in FILES.items() if path not in paths}


def test_what_the_dataset_no_longer_has_is_removed_with_its_folders(
    client: DatasetHubClient, script: HonestScript, dest: Path
) -> None:
    script.files = without("d/e/c", "f/g")
    client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == without("d/e/c", "f/g")
    assert sorted(os.listdir(dest)) == [".dsx", "a", "d"]
    assert os.listdir(dest / "d") == ["b"]


def test_without_delete_it_stays(client: DatasetHubClient, script: HonestScript, dest: Path) -> None:
    script.files = without("a")
    client.download_dataset("cats", dest=dest)
    assert own(dest) == FILES


def test_what_is_not_selected_is_removed(client: DatasetHubClient, dest: Path) -> None:
    client.download_dataset("cats", dest=dest, include="d/**", delete=True)
    assert own(dest) == without("a", "f/g")


def test_files_of_somebody_else_stay(client: DatasetHubClient, script: HonestScript, dest: Path) -> None:
    mine = {"d/mine": b"mine", "mine/too": b"mine"}
    write_files(dest, mine)
    script.files = without("d/b", "d/e/c")
    client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == without("d/b", "d/e/c") | mine


def test_copy_of_somebody_else_stays(client: DatasetHubClient, script: HonestScript, tmp_path: Path) -> None:
    write_files(tmp_path / "copy", {"a": FILES["a"]})
    client.download_dataset("cats", dest=tmp_path / "copy")
    script.files = without("a")
    client.download_dataset("cats", dest=tmp_path / "copy", delete=True)
    assert own(tmp_path / "copy") == FILES


@pytest.mark.parametrize("bytes_there", [b"edited", b"b" * 1999 + b"!"], ids=["longer or shorter", "same size"])
def test_file_that_somebody_has_edited_stays_and_is_named(
    client: DatasetHubClient, script: HonestScript, dest: Path, bytes_there: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (dest / "d" / "b").write_bytes(bytes_there)
    script.files = without("d/b")
    client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == FILES | {"d/b": bytes_there}
    assert "d/b" in caplog.text


def test_file_that_was_only_touched_is_removed(client: DatasetHubClient, script: HonestScript, dest: Path) -> None:
    os.utime(dest / "d" / "b")
    script.files = without("d/b")
    client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == without("d/b")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_are_not_followed(
    client: DatasetHubClient, script: HonestScript, dest: Path, tmp_path: Path, what: str
) -> None:
    moved = tmp_path / "moved"
    place = dest / "f" / "g" if what == "file" else dest / "f"
    place.rename(moved)
    place.symlink_to(moved)
    script.files = without("f/g")
    client.download_dataset("cats", dest=dest, delete=True)
    assert place.is_symlink()
    assert (moved if what == "file" else moved / "g").read_bytes() == b"g"


def test_hub_that_is_away_removes_nothing(
    connect: Connect, start_scripted: Callable[[Script], ScriptedHub], script: HonestScript, tmp_path: Path
) -> None:
    hub = start_scripted(script)
    client = connect(hub.url)
    client.get_manifest("cats")
    script.files = FILES | {"new": b"new"}
    connect(hub.url, cache_dir=None).download_dataset("cats", dest=tmp_path / "own", delete=True)
    hub.stop()
    with pytest.raises(HubUnreachableError):
        client.download_dataset("cats", dest=tmp_path / "own", delete=True)
    assert own(tmp_path / "own") == FILES | {"new": b"new"}


def test_empty_dataset_removes_nothing(client: DatasetHubClient, script: HonestScript, dest: Path) -> None:
    script.files = {}
    assert client.download_dataset("cats", dest=dest, delete=True) == []
    assert own(dest) == FILES


def test_patterns_that_match_nothing_remove_nothing(client: DatasetHubClient, dest: Path) -> None:
    assert client.download_dataset("cats", dest=dest, include="trian/**", delete=True) == []
    assert own(dest) == FILES


def test_failed_download_removes_nothing(client: DatasetHubClient, script: HonestScript, dest: Path) -> None:
    script.files = without("a") | {"new": b"new"}
    script.write_frame = lambda index, *_: write_problem(index, 3, "unreadable", "I/O error")  # type: ignore[method-assign]
    with pytest.raises(DownloadError):
        client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == FILES


def test_interrupted_download_removes_nothing(
    client: DatasetHubClient, script: HonestScript, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.files = without("a") | {"new": b"new"}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsx._publishing.Publisher.publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == FILES


def test_key_that_is_refused_removes_nothing(client: DatasetHubClient, script: HonestScript, dest: Path) -> None:
    script.files = without("a") | {"new": b"new"}

    def refuse(_: Request) -> Reply:
        return answer_problem(401, "unauthorized", "no")

    script.send_batch = refuse  # type: ignore[method-assign]
    with pytest.raises(DownloadError):
        client.download_dataset("cats", dest=dest, delete=True)
    assert own(dest) == FILES


PATHS = st.sampled_from(["a", "b", "d/c", "d/e/f", "d/e/g"])
FOREIGN = st.sampled_from(["a", "x", "d/c", "d/y", "d/e/z", "q/r"])
CONTENTS = st.sampled_from([b"", b"1", b"2", b"h" * 1024 + b"1", b"h" * 1024 + b"2", b"long" * 500])
SELECTIONS = st.sampled_from([None, "d/**", "?", ["a", "d/e/*"]])


class MirrorMachine(RuleBasedStateMachine):
    """A dataset that changes, a folder that is made like it, and somebody who puts files of his own into it."""

    def __init__(self) -> None:
        super().__init__()
        self.dest = Path(tempfile.mkdtemp(prefix="dsx-mirror-"))
        self.script = HonestScript({"a": b"1", "d/c": b"long" * 500})
        self.hub = ScriptedHub(self.script)
        self.client = DatasetHubClient(self.hub.url, KEY, cache_dir=None)
        self.foreign: dict[str, bytes] = {}
        self.ours: dict[str, bytes] = {}

    @rule(path=PATHS, data=CONTENTS)
    def change(self, path: str, data: bytes) -> None:
        self.script.files[path] = data

    @rule(path=PATHS)
    def remove(self, path: str) -> None:
        self.script.files.pop(path, None)

    @rule(path=FOREIGN, data=CONTENTS)
    def put_own_file(self, path: str, data: bytes) -> None:
        file = self.dest / path
        if path not in self.ours and not file.exists():
            write_files(self.dest, {path: data})
            self.foreign[path] = data

    @rule(path=FOREIGN)
    def remove_own_file(self, path: str) -> None:
        if path in self.foreign:
            (self.dest / path).unlink()
            del self.foreign[path]

    @rule(is_closed=st.booleans())
    def restart(self, is_closed: bool) -> None:
        if is_closed:
            self.client.close()
        self.client = DatasetHubClient(self.hub.url, KEY, cache_dir=None)

    @rule(delete=st.booleans(), include=SELECTIONS, verify=st.sampled_from(["auto", "full"]))
    def download(self, delete: bool, include: str | list[str] | None, verify: str) -> None:
        chosen = self.client.load_manifest("cats").select(include).paths
        wanted = {path: self.script.files[path] for path in chosen}
        obstacles = {path for path in wanted if self.foreign.get(path, wanted[path]) != wanted[path]}
        expected = pytest.raises(DownloadError) if obstacles else nullcontext()
        with expected as caught:
            self.client.download_dataset("cats", include=include, dest=self.dest, delete=delete, verify=verify)  # type: ignore[arg-type]
        if caught is not None:
            assert caught.value.failures.keys() == obstacles
        if delete and wanted and not obstacles:
            self.ours = {}
        self.ours |= {path: data for path, data in wanted.items() if path not in self.foreign}

    @invariant()
    def folder_is_the_selection_and_what_is_foreign(self) -> None:
        assert own(self.dest) == self.ours | self.foreign

    def teardown(self) -> None:
        self.client.close()
        self.hub.stop()
        shutil.rmtree(self.dest)


TestMirror = MirrorMachine.TestCase
TestMirror.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
