"""Two hubs on one state folder, and a state folder that cannot be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx_server import Settings, SettingsError, serve_background
from tests.conftest import LAUNCHER, HubProcess, write_files


def test_second_hub_on_one_state_folder_says_so_and_stops(hub: HubProcess) -> None:
    env = hub.env | {"DSX_PORT": "0"}
    result = subprocess.run([sys.executable, str(LAUNCHER)], env=env, capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert "another hub" in result.stderr
    assert "DSX_STATE_DIR" in result.stderr
    assert "Traceback" not in result.stderr


def test_first_hub_goes_on(served: Path, hub: HubProcess) -> None:
    write_files(served / "cats", {"a": b"a"})
    subprocess.run([sys.executable, str(LAUNCHER)], env=hub.env, capture_output=True, timeout=30, check=False)
    assert len(hub.get("/manifest/cats").json()) == 1


def test_state_folder_is_free_again_after_a_kill(start_hub: Callable[..., HubProcess]) -> None:
    first = start_hub()
    first.kill()
    assert start_hub().get("/health").status_code == 200


def test_second_hub_in_one_process_is_refused_too(served: Path, tmp_path: Path) -> None:
    settings = Settings(api_key="k", dataset_path=served, host="127.0.0.1", port=0, state_dir=tmp_path / "s")
    with serve_background(settings), pytest.raises(SettingsError, match="another hub"):
        serve_background(settings)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_damaged_index_is_set_aside_and_made_anew(
    served: Path, tmp_path: Path, start_hub: Callable[..., HubProcess], content: bytes
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "index.sqlite").write_bytes(content)
    write_files(served / "cats", {"a": b"a"})
    hub = start_hub()
    assert len(hub.get("/manifest/cats").json()) == 1
    assert (tmp_path / "state" / "index.sqlite.damaged").read_bytes() == content
    assert "damaged" in hub.log


def test_index_that_cannot_be_opened_names_the_variable(served: Path, tmp_path: Path) -> None:
    (tmp_path / "state" / "index.sqlite").mkdir(parents=True)
    with pytest.raises(SettingsError, match="DSX_STATE_DIR"):
        serve_background(
            Settings(api_key="k", dataset_path=served, host="127.0.0.1", port=0, state_dir=tmp_path / "state")
        )
