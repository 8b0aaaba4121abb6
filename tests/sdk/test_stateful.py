"""The cache under any order of downloads, changes, damage and restarts: never a wrong or partial file."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dsx import DatasetHubClient
from tests.conftest import KEY

from .conftest import files_below
from .scripted import HonestScript, ScriptedHub

PATHS = st.sampled_from(["a", "b", "d/c", "d/e/f"])
CONTENTS = st.sampled_from([b"", b"1", b"2", b"h" * 1024 + b"1", b"h" * 1024 + b"2", bytes(2000), b"long" * 5000])


class CacheMachine(RuleBasedStateMachine):
    """A hub, a cache, and a client that may be restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="dsx-stateful-"))
        self.cache_dir = self.root / "cache"
        self.script = HonestScript({"a": b"1", "d/c": b"long" * 5000})
        self.hub = ScriptedHub(self.script)
        self.client = self.connect()
        self.ever: dict[str, set[bytes]] = {path: {data} for path, data in self.script.files.items()}
        self.tampered: set[str] = set()

    def connect(self) -> DatasetHubClient:
        return DatasetHubClient(self.hub.url, KEY, self.cache_dir)

    @rule(path=PATHS, data=CONTENTS)
    def change_on_hub(self, path: str, data: bytes) -> None:
        self.script.files[path] = data
        self.ever.setdefault(path, set()).add(data)

    @rule(path=PATHS)
    def remove_on_hub(self, path: str) -> None:
        self.script.files.pop(path, None)

    @rule()
    def get_manifest(self) -> None:
        assert [row["path"] for row in self.client.get_manifest("cats")] == sorted(self.script.files)

    @rule(path=PATHS, asks_first=st.booleans())
    def get_file(self, path: str, asks_first: bool) -> None:
        if asks_first:
            self.client.get_manifest("cats")
        if path not in self.script.files:
            return
        local = self.client.get_file("cats", path)
        self.tampered.discard(path)
        allowed = {self.script.files[path]} if asks_first else self.ever[path]
        assert local.read_bytes() in allowed

    @rule(path=PATHS)
    def get_file_bytes(self, path: str) -> None:
        if path in self.script.files:
            assert self.client.get_file_bytes("cats", path) == self.script.files[path]

    @rule()
    def download_dataset(self) -> None:
        paths = self.client.download_dataset("cats")
        self.tampered -= self.script.files.keys()
        assert [path.read_bytes() for path in paths] == [data for _, data in sorted(self.script.files.items())]

    @rule(path=PATHS, data=st.sampled_from([b"", b"?", b"?" * 2000]))
    def tamper(self, path: str, data: bytes) -> None:
        local = self.cache_dir / "cats" / path
        if local.is_file():
            local.write_bytes(data)
            self.tampered.add(path)

    @rule(path=PATHS)
    def truncate(self, path: str) -> None:
        local = self.cache_dir / "cats" / path
        if local.is_file():
            os.truncate(local, local.stat().st_size // 2)
            self.tampered.add(path)

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        (self.cache_dir / "cats" / path).unlink(missing_ok=True)

    @rule()
    def clear(self) -> None:
        before = self.client.get_cache_size()
        assert self.client.clear_cache() == before
        assert self.client.get_cache_size() == 0
        assert not (self.cache_dir / "cats").exists()
        self.tampered.clear()

    @rule(is_closed=st.booleans())
    def restart(self, is_closed: bool) -> None:
        if is_closed:
            self.client.close()
        else:
            self.abandoned = self.client
        self.client = self.connect()

    @precondition(lambda self: (self.cache_dir / "cats_manifest.json").exists())
    @rule(which=st.sampled_from(["cats_manifest.json", ".dsx/manifests/cats.json"]))
    def damage_manifest(self, which: str) -> None:
        if (self.cache_dir / which).exists():
            os.truncate(self.cache_dir / which, 10)
            self.client.close()
            self.client = self.connect()

    @invariant()
    def no_file_is_partial(self) -> None:
        for path, data in files_below(self.cache_dir / "cats").items():
            assert path in self.tampered or data in self.ever[path]

    def teardown(self) -> None:
        self.client.close()
        self.hub.stop()
        shutil.rmtree(self.root)


TestCache = CacheMachine.TestCase
TestCache.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
