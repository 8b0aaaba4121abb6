"""A hub that is still looking at a dataset for the first time is waited for, and that is said."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable

import pytest

import dsx._manifests
import dsx._scan
from dsx import DatasetHubClient, HubUnavailableError

from .conftest import run_in_thread
from .scripted import HonestScript, Reply, Request, ScriptedHub, answer, answer_json, answer_problem

FILES = {"a.png": b"a", "b.png": b"b"}


@pytest.fixture
def script() -> HonestScript:
    """A dataset."""
    return HonestScript(FILES)


@pytest.fixture
def hub(start_scripted: Callable[..., ScriptedHub], script: HonestScript) -> ScriptedHub:
    """The hub that has it."""
    return start_scripted(script)


@pytest.fixture
def client(connect: Callable[..., DatasetHubClient], hub: ScriptedHub) -> DatasetHubClient:
    """A client of it."""
    return connect(hub.url)


def scanning(script: HonestScript, said: list[str], retry_after: str = "0") -> Callable[[Request], Reply]:
    """Say each of ``said`` once for a manifest, as a hub does during a first scan, then serve it."""
    words = iter(said)

    def send(request: Request) -> Reply:
        word = next(words, None) if request.path.startswith("/manifest") else None
        return script(request) if word is None else answer_problem(503, "unavailable", word, Retry_After=retry_after)

    return send


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._manifests, "FIRST_CONTACT_S", 0.0)


@pytest.mark.usefixtures("_impatient")
def test_first_scan_is_waited_for_and_said(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, caplog: pytest.LogCaptureFixture
) -> None:
    hub.script = scanning(script, ["7 entries so far", "7 entries so far", "9 entries so far"])
    with caplog.at_level(logging.INFO, "dsx"):
        assert len(client.get_manifest("cats")) == len(FILES)
    assert len(hub.requests) == 4
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "7 entries so far",
        "9 entries so far",
    ]


@pytest.mark.usefixtures("_impatient")
def test_first_scan_is_said_on_a_terminal_on_one_line(
    client: DatasetHubClient,
    hub: ScriptedHub,
    script: HonestScript,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    hub.script = scanning(script, ["70 entries", "9 entries"])
    client.load_manifest("cats")
    before, first, second = capsys.readouterr().err.split("\r")
    assert before == ""
    assert first.endswith("dataset 'cats': 70 entries")
    assert second.endswith("dataset 'cats': 9 entries \n")


@pytest.mark.usefixtures("_impatient")
def test_first_scan_is_not_said_where_nobody_sees_it(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.script = scanning(script, ["7 entries"])
    client.load_manifest("cats")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    "reply",
    [
        answer(503, Retry_After="0"),
        answer_problem(503, "unavailable", "busy"),
        answer_problem(503, "unavailable", "busy", Retry_After="9999"),
    ],
    ids=["of a proxy", "without a time", "with a long time"],
)
def test_other_unavailability_is_not_waited_for(client: DatasetHubClient, hub: ScriptedHub, reply: Reply) -> None:
    hub.script = lambda _: reply
    with pytest.raises(HubUnavailableError):
        client.load_manifest("cats")


@pytest.mark.usefixtures("_impatient")
def test_scan_that_makes_no_progress_is_given_up(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._scan, "STALLED_S", 0.0)
    hub.script = scanning(script, ["7 entries"] * 9)
    with pytest.raises(HubUnavailableError, match="7 entries"):
        client.load_manifest("cats")


@pytest.mark.usefixtures("_impatient")
def test_known_manifest_is_used_while_the_hub_scans_anew(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript
) -> None:
    client.load_manifest("cats")
    hub.script = scanning(script, ["7 entries"] * 9)
    with pytest.warns(UserWarning, match="7 entries"):
        assert len(client.load_manifest("cats")) == len(FILES)


def test_newest_revision_waits_for_the_first_scan(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsx._revisions.SCAN_PAUSE_S", 0.0)
    scan = {"name": "cats", "entries": 7, "bytes": 0, "revision": None, "scanned_at": None, "scanning": True}
    left = itertools.chain([scan | {"left_out": {}}] * 2, itertools.repeat(None))
    hub.script = lambda request: script(request) if (about := next(left)) is None else answer_json(about)
    assert client.get_revision("cats") == script.keep()
    assert len(hub.requests) == 3


def test_waiting_for_a_scan_ends_when_the_hub_goes_away(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._manifests, "FIRST_CONTACT_S", 0.2)
    asked = threading.Event()
    forever = scanning(script, [f"{number} entries" for number in range(10_000)])

    def send(request: Request) -> Reply:
        asked.set()
        return forever(request)

    hub.script = send
    with run_in_thread(lambda: client.load_manifest("cats")) as wait:
        assert asked.wait(20)
        hub.stop()
        with pytest.raises(ConnectionError):
            wait()
