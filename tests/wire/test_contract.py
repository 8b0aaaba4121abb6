"""The user's contract, row by row, sentence by sentence: the real SDK against a real ``server/server.py``."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from PIL import Image

import dsx
from dsx import DatasetHubClient
from tests.conftest import KEY, LAUNCHER, HubProcess, write_files


def png(colour: int) -> bytes:
    """A small real picture."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


IMAGENET = {f"train/img_{n:03}.jpg": png(n) for n in range(1, 4)} | {
    "val/img_001.jpg": png(99),
    "labels.txt": b"n" * 3000,
}


@pytest.fixture
def hub(served: Path, start_hub: Callable[..., HubProcess]) -> HubProcess:
    """A hub with the contract's three datasets."""
    write_files(served / "imagenet", IMAGENET)
    write_files(served / "cifar10", {"a.bin": b"a"})
    write_files(served / "mnist", {"b.bin": b"b"})
    return start_hub()


@pytest.fixture
def client(hub: HubProcess, tmp_path: Path) -> DatasetHubClient:
    """A client with a cache."""
    return DatasetHubClient(base_url=hub.url, api_key=KEY, cache_dir=str(tmp_path / "cache"))


class TestServer:
    """The section "Server Setup"."""

    def test_datasets_is_an_array_of_names(self, hub: HubProcess) -> None:
        assert hub.get("/datasets").json() == ["cifar10", "imagenet", "mnist"]

    def test_manifest_is_an_array_of_path_size_and_hash(self, hub: HubProcess) -> None:
        rows = hub.get("/manifest/imagenet").json()
        assert rows == [
            {"path": path, "size": len(data), "hash": hashlib.md5(data[:1024]).hexdigest()}
            for path, data in sorted(IMAGENET.items())
        ]

    def test_file_is_its_bytes(self, hub: HubProcess) -> None:
        assert hub.get("/file/imagenet/train/img_001.jpg").content == IMAGENET["train/img_001.jpg"]

    @pytest.mark.parametrize("path", ["/datasets", "/manifest/imagenet", "/file/imagenet/labels.txt"])
    def test_key_is_required(self, hub: HubProcess, path: str) -> None:
        assert requests.get(hub.url + path, timeout=10).status_code == 401

    @pytest.mark.parametrize("path", ["/health", "/docs"])
    def test_key_is_not_required(self, hub: HubProcess, path: str) -> None:
        assert requests.get(hub.url + path, timeout=10).status_code == 200

    def test_port_is_8000_by_default_and_host_is_every_address(self) -> None:
        from dsx_server import Settings

        assert (Settings.port, Settings.host) == (8000, "0.0.0.0")

    def test_env_file_in_the_working_directory_configures_the_server(self, hub: HubProcess, tmp_path: Path) -> None:
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        lines = [f"DSX_DATASET_PATH={hub.served}", f"DSX_PORT={hub.port}", "DSX_API_KEY=your-secret-key"]
        (folder / ".env").write_text("\n".join(lines))
        env = {name: value for name, value in hub.env.items() if not name.startswith("DSX_")}
        env["DSX_STATE_DIR"] = str(tmp_path / "other-state")
        result = subprocess.run(
            [sys.executable, str(LAUNCHER)], cwd=folder, env=env, capture_output=True, text=True, timeout=30
        )
        # The first hub has that port: that this one says so shows that it read all three from the file.
        assert result.returncode == 2
        assert f"DSX_PORT {hub.port}" in result.stderr


class TestClient:
    """The sections "SDK Usage" and "API Reference"."""

    def test_constructor_has_the_documented_parameters(self) -> None:
        parameters = inspect.signature(DatasetHubClient).parameters
        by_position = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert by_position == ["base_url", "api_key", "cache_dir"]
        assert parameters["cache_dir"].default == "./cache"

    @pytest.mark.parametrize(
        ("method", "parameters"),
        [
            ("list_datasets", []),
            ("get_manifest", ["dataset"]),
            ("get_file", ["dataset", "subpath"]),
            ("get_file_bytes", ["dataset", "subpath"]),
            ("download_dataset", ["dataset", "file_list"]),
            ("clear_cache", ["dataset"]),
            ("get_cache_size", ["dataset"]),
        ],
    )
    def test_methods_have_the_documented_parameters(self, method: str, parameters: list[str]) -> None:
        found = inspect.signature(getattr(DatasetHubClient, method)).parameters
        named = [name for name, each in found.items() if each.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert named[1:] == parameters
        assert found["file_list" if method == "download_dataset" else "self"].default in (None, inspect.Parameter.empty)

    def test_list_datasets_returns_names(self, client: DatasetHubClient) -> None:
        assert sorted(client.list_datasets()) == ["cifar10", "imagenet", "mnist"]

    def test_manifest_is_a_list_of_dicts(self, client: DatasetHubClient) -> None:
        manifest = client.get_manifest("imagenet")
        assert len(manifest) == 5
        assert type(manifest) is list
        data = IMAGENET["train/img_001.jpg"]
        assert {
            "path": "train/img_001.jpg",
            "size": len(data),
            "hash": hashlib.md5(data[:1024]).hexdigest(),
        } in manifest

    def test_file_is_downloaded_to_the_documented_place(self, client: DatasetHubClient, tmp_path: Path) -> None:
        path = client.get_file("imagenet", "train/img_001.jpg")
        assert isinstance(path, Path)
        assert path == tmp_path / "cache" / "imagenet" / "train" / "img_001.jpg"
        assert path.read_bytes() == IMAGENET["train/img_001.jpg"]

    def test_cached_file_is_returned_without_downloading(self, client: DatasetHubClient, hub: HubProcess) -> None:
        client.get_manifest("imagenet")
        first = client.get_file("imagenet", "labels.txt")
        hub.kill()
        assert client.get_file("imagenet", "labels.txt") == first

    def test_bytes_are_read_without_a_disk_write(self, hub: HubProcess, tmp_path: Path) -> None:
        client = DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "none-yet")
        data = client.get_file_bytes("imagenet", "train/img_002.jpg")
        assert type(data) is bytes
        assert data == IMAGENET["train/img_002.jpg"]
        assert not (tmp_path / "none-yet").exists()

    def test_listed_files_are_downloaded_in_order(self, client: DatasetHubClient) -> None:
        wanted = ["train/img_003.jpg", "train/img_001.jpg", "train/img_002.jpg"]
        paths = client.download_dataset("imagenet", file_list=wanted)
        assert [path.read_bytes() for path in paths] == [IMAGENET[name] for name in wanted]

    def test_whole_dataset_is_downloaded(self, client: DatasetHubClient) -> None:
        paths = client.download_dataset("imagenet")
        assert sorted(path.read_bytes() for path in paths) == sorted(IMAGENET.values())

    def test_get_file_without_cache_is_a_value_error(self, hub: HubProcess) -> None:
        with pytest.raises(ValueError, match="cache_dir"):
            DatasetHubClient(hub.url, KEY, cache_dir=None).get_file("imagenet", "labels.txt")

    def test_cache_size_and_clearing_are_in_bytes(self, client: DatasetHubClient) -> None:
        client.download_dataset("imagenet")
        client.download_dataset("mnist")
        whole, imagenet = client.get_cache_size(), client.get_cache_size("imagenet")
        assert whole > imagenet >= sum(len(data) for data in IMAGENET.values())
        assert client.clear_cache("imagenet") == imagenet
        assert client.get_cache_size() == client.clear_cache() == whole - imagenet
        assert client.get_cache_size() == 0

    def test_cache_is_laid_out_as_drawn(self, client: DatasetHubClient, tmp_path: Path) -> None:
        client.download_dataset("imagenet")
        client.get_manifest("cifar10")
        cache = tmp_path / "cache"
        drawn = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if ".dsx" not in path.parts}
        assert drawn == {
            "imagenet_manifest.json",
            "cifar10_manifest.json",
            "imagenet",
            "imagenet/train",
            "imagenet/val",
            *(f"imagenet/{name}" for name in IMAGENET),
        }

    def test_cached_manifest_is_the_plain_array(self, client: DatasetHubClient, tmp_path: Path) -> None:
        manifest = client.get_manifest("imagenet")
        assert json.loads((tmp_path / "cache" / "imagenet_manifest.json").read_text()) == manifest

    def test_default_cache_is_below_the_working_directory(
        self, hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = DatasetHubClient(hub.url, KEY).get_file("mnist", "b.bin")
        assert path == Path("cache/mnist/b.bin")
        assert (tmp_path / "cache/mnist/b.bin").read_bytes() == b"b"


class TestExamples:
    """The section "Examples"; the calls as they are written there."""

    def test_filtering_by_extension(self, hub: HubProcess, tmp_path: Path) -> None:
        client = DatasetHubClient(hub.url, KEY, cache_dir=tmp_path / "cache")
        manifest = client.get_manifest("imagenet")
        image_files = [item["path"] for item in manifest if item["path"].lower().endswith((".jpg", ".jpeg", ".png"))]
        assert len(image_files) == 4
        client.download_dataset("imagenet", file_list=image_files)
        assert not (tmp_path / "cache" / "imagenet" / "labels.txt").exists()

    def test_loading_in_memory(self, hub: HubProcess) -> None:
        client = DatasetHubClient(hub.url, KEY, cache_dir=None)
        sizes = []
        for item in [row for row in client.get_manifest("imagenet") if row["path"].endswith(".jpg")][:10]:
            file_bytes = client.get_file_bytes("imagenet", item["path"])
            sizes.append(Image.open(io.BytesIO(file_bytes)).size)
        assert sizes == [(8, 6)] * 4

    def test_managing_the_cache(self, client: DatasetHubClient) -> None:
        client.download_dataset("imagenet")
        size_mb = client.get_cache_size() / (1024**2)
        bytes_freed = client.clear_cache("imagenet")
        assert bytes_freed / (1024**2) == size_mb
        assert client.clear_cache() == 0


class TestTroubleshooting:
    """The section "Troubleshooting": each case is an error that says what to check."""

    def test_connection_error_names_address_and_base_url(self, hub: HubProcess) -> None:
        client = DatasetHubClient(hub.url, KEY, cache_dir=None)
        hub.kill()
        with pytest.raises(ConnectionError, match=rf"{hub.url}.*running.*base_url"):
            client.list_datasets()

    def test_unauthorized_names_both_keys(self, hub: HubProcess) -> None:
        with pytest.raises(PermissionError, match=r"api_key.*DSX_API_KEY"):
            DatasetHubClient(hub.url, "wrong-key", cache_dir=None).list_datasets()

    def test_unknown_dataset_names_those_that_exist(self, client: DatasetHubClient) -> None:
        with pytest.raises(FileNotFoundError, match=r"'imagenot'.*cifar10, imagenet, mnist") as caught:
            client.get_manifest("imagenot")
        assert isinstance(caught.value, dsx.DatasetNotFoundError)

    def test_unknown_file_is_named(self, client: DatasetHubClient) -> None:
        with pytest.raises(FileNotFoundError, match=r"'imagenet'.*'train/img_999.jpg'") as caught:
            client.get_file("imagenet", "train/img_999.jpg")
        assert isinstance(caught.value, dsx.EntryNotFoundError)


class TestInstallation:
    """The section "Installation", as far as it can be seen without installing; tests/house installs for real."""

    def test_server_starts_from_any_directory(self, served: Path, tmp_path: Path, hub: HubProcess) -> None:
        assert Path.cwd() != hub.served.parent
        assert requests.get(hub.url + "/health", timeout=10).json()["status"] == "ok"

    def test_env_file_in_the_project_root_configures_the_server(self, hub: HubProcess, tmp_path: Path) -> None:
        root = tmp_path / "project"
        shutil.copytree(LAUNCHER.parent, root / "server")
        (root / ".env").write_text(f"DSX_API_KEY=k\nDSX_DATASET_PATH={hub.served}\nDSX_PORT={hub.port}\n")
        env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        env["DSX_STATE_DIR"] = str(tmp_path / "other-state")
        result = subprocess.run(
            [sys.executable, str(root / "server" / "server.py")],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert f"DSX_PORT {hub.port}" in result.stderr

    def test_licence_is_mit(self) -> None:
        assert "MIT License" in (LAUNCHER.parent.parent / "LICENSE").read_text()
