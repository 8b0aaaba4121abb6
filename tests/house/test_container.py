"""The container, as text: no container can be built where the tests run."""

from __future__ import annotations

import re

import yaml

from dsx_server import Settings
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
HUB = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["hub"]


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sources = [name for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]]
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sources
    assert set(sources) == sent
    assert [name for name in sources if not (ROOT / name).exists()] == []


def test_it_runs_as_nobody_in_particular() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["dsx"]
    assert DOCKERFILE.index("USER dsx") < DOCKERFILE.index("ENTRYPOINT")
    assert HUB["cap_drop"] == ["ALL"]
    assert HUB["read_only"] is True
    assert "no-new-privileges:true" in HUB["security_opt"]


def test_data_is_read_only_and_state_is_kept() -> None:
    data, state = HUB["volumes"]
    assert data.endswith(":/data:ro")
    assert state == "state:/state"
    assert "DSX_DATASET_PATH=/data" in DOCKERFILE
    assert "DSX_STATE_DIR=/state" in DOCKERFILE


def test_health_is_asked_for_where_the_hub_listens() -> None:
    assert f"http://127.0.0.1:{Settings.port}/health" in DOCKERFILE
    assert f"EXPOSE {Settings.port}" in DOCKERFILE
    assert HUB["ports"] == [f"{Settings.port}:{Settings.port}"]


def test_no_key_is_in_it() -> None:
    assert "DSX_API_KEY" not in DOCKERFILE
    assert HUB["environment"] == {"DSX_API_KEY": "${DSX_API_KEY:-}"}
