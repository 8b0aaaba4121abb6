"""The ledger over real files: what it remembers, and what it does when it cannot."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx._ledger import UNVERIFIED, Ledger, Record, is_network_disk
from dsx._ledger_file import _prepare

from .conftest import WAIT_S

RECORD = Record(5, 10**18, "0" * 32, "1" * 64, 10**18 + 1, '"etag"', is_ours=True, is_synced=False)
ADOPTED = RECORD._replace(is_ours=False, hub_mtime_ns=None, etag="")

OpenLedger = Callable[..., Ledger]


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[OpenLedger]:
    """Open ledgers on one folder; they are closed with the test."""
    ledgers: list[Ledger] = []

    def open_it(seeds: Iterable[tuple[str, str]] = ()) -> Ledger:
        ledgers.append(Ledger(tmp_path, lambda: seeds))
        return ledgers[-1]

    yield open_it
    for ledger in ledgers:
        ledger.close()


@pytest.mark.parametrize("record", [RECORD, ADOPTED, UNVERIFIED, RECORD._replace(mtime_ns=-(2**63), size=2**63 - 1)])
def test_record_comes_back_as_it_was(open_ledger: OpenLedger, record: Record) -> None:
    open_ledger().put("cats", "a/b", record)
    assert open_ledger().get("cats", "a/b") == record


def test_record_of_a_file_that_was_put_there_anew_is_not_forgotten(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.put("cats", "a", RECORD._replace(mtime_ns=RECORD.mtime_ns + 1))
    ledger.put("cats", "b", RECORD)
    ledger.forget_unless_renewed("cats", {"a": RECORD, "b": RECORD})
    assert ledger.list_ours("cats") == ["a"]


def test_ledger_that_finds_no_room_enters_nothing_until_there_is_some(
    open_ledger: OpenLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger()
    ledger.put("cats", "old", RECORD)
    ledger.rest()
    with monkeypatch.context() as patch:
        patch.setattr("dsx._ledger_file._prepare", prepare_without_room)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                ledger.enter("cats", {f"new{number}": RECORD for number in range(5000)}, is_shared=True)
    assert ledger.enter("cats", {"new": RECORD}, is_shared=True) == {}
    assert not ledger.is_in_memory
    assert open_ledger().list_ours("cats") == ["new", "old"]


def prepare_without_room(db: sqlite3.Connection) -> sqlite3.Connection:
    """Prepare a ledger that may not grow, if it is a file."""
    prepared = _prepare(db)
    if db.execute("PRAGMA database_list").fetchone()[2]:
        db.execute("PRAGMA max_page_count = 1")  # as many as there are
    return prepared


def test_later_record_replaces_the_earlier(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.put("cats", "a", RECORD)
    ledger.put("cats", "a", ADOPTED)
    assert ledger.get("cats", "a") == ADOPTED


def test_records_of_datasets_are_apart(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.put("cats", "a", RECORD)
    assert ledger.get("dogs", "a") is None


def test_only_published_files_are_listed_as_ours(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.put("cats", "b", RECORD)
    ledger.put("cats", "a", RECORD)
    ledger.put("cats", "adopted", ADOPTED)
    assert ledger.list_ours("cats") == ["a", "b"]


def test_forgotten_files_are_gone(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.put("cats", "a", RECORD)
    ledger.put("cats", "b", RECORD)
    ledger.forget("cats", ["a", "never there"])
    assert (ledger.get("cats", "a"), ledger.list_ours("cats")) == (None, ["b"])


def test_synced_is_marked_for_the_state_that_was_synced(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    ledger.put("cats", "a", RECORD)
    ledger.put("cats", "b", RECORD)
    ledger.mark_synced([("cats", "a", RECORD.mtime_ns), ("cats", "b", RECORD.mtime_ns - 1)])
    states = [ledger.get("cats", path) for path in ("a", "b")]
    assert [state is not None and state.is_synced for state in states] == [True, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README.md", "readme.MD"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e", "STRASSE"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"),
        ("\N{LATIN CAPITAL LETTER E WITH ACUTE}/x", "e\N{COMBINING ACUTE ACCENT}/X"),
    ],
)
def test_names_that_some_file_systems_take_for_one_are_found(open_ledger: OpenLedger, one: str, other: str) -> None:
    ledger = open_ledger()
    ledger.put("cats", one, RECORD)
    assert ledger.list_folded("cats", [other, "z"]) == [(other, one)]
    assert ledger.list_folded("cats", [one]) == []


def test_seeds_are_asked_for_only_when_there_is_no_ledger(open_ledger: OpenLedger) -> None:
    open_ledger([("cats", "a")]).put("cats", "b", RECORD)
    assert open_ledger([("cats", "c")]).list_ours("cats") == ["a", "b"]


def test_seeded_file_is_ours_and_not_verified(open_ledger: OpenLedger) -> None:
    record = open_ledger([("cats", "a")]).get("cats", "a")
    assert record is not None
    assert (record.is_ours, record.is_synced, record.digest) == (True, False, "")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": lambda file: file.write_bytes(b"no database at all" * 500),
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "zeros inside": lambda file: file.write_bytes(file.read_bytes()[:200] + bytes(file.stat().st_size - 200)),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_ledger_is_replaced_and_seeded(
    open_ledger: OpenLedger, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    ledger = open_ledger()
    for number in range(500):
        ledger.put("cats", f"{number}", RECORD)
    ledger.close()
    damage(tmp_path / "ledger.sqlite")
    again = open_ledger([("cats", "seed")])
    assert again.list_ours("cats") == ["seed"]
    again.put("cats", "new", RECORD)
    again.close()
    assert open_ledger().get("cats", "new") == RECORD


def test_ledger_that_is_damaged_while_it_is_open_goes_on(open_ledger: OpenLedger, tmp_path: Path) -> None:
    ledger = open_ledger([("cats", "seed")])
    for number in range(500):
        ledger.put("cats", f"{number}", RECORD)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"\xff" * 100_000)
    ledger.put("cats", "new", RECORD)
    assert ledger.get("cats", "new") == RECORD


def test_damage_is_said(open_ledger: OpenLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database at all" * 500)
    with caplog.at_level(logging.WARNING):
        open_ledger()
    assert "damaged" in caplog.text


def test_ledger_that_cannot_be_kept_works_in_memory(
    open_ledger: OpenLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledger.sqlite").mkdir()
    with caplog.at_level(logging.WARNING):
        ledger = open_ledger([("cats", "seed")])
    ledger.put("cats", "a", RECORD)
    assert ledger.list_ours("cats") == ["a", "seed"]
    assert "cannot be used" in caplog.text


def test_threads_share_a_ledger(open_ledger: OpenLedger) -> None:
    ledger = open_ledger()

    def work(name: str) -> None:
        for number in range(50):
            ledger.put(name, f"{number}", RECORD)
            ledger.get(name, f"{number}")

    threads = [threading.Thread(target=work, args=(f"d{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(ledger.list_ours(name)) for name in ledger.list_datasets()) == [50] * 6


def test_processes_that_begin_at_once_all_write_into_one_ledger(
    open_ledger: OpenLedger, tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    code = """
        import sys, pathlib
        from dsx._ledger import Ledger, Record
        record = Record(5, 1, "0" * 32, "1" * 64, 2, "", is_ours=True, is_synced=False)
        print("ready", flush=True)
        while not pathlib.Path(sys.argv[1], "go").exists():
            pass
        ledger = Ledger(pathlib.Path(sys.argv[1]), lambda: [])
        for number in range(20):
            ledger.put(sys.argv[2], str(number), record)
        ledger.close()
    """
    processes = [start_python(code, tmp_path, f"d{number}") for number in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    assert [process.communicate(timeout=WAIT_S)[0] for process in processes] == [""] * 8
    ledger = open_ledger()
    assert {name: len(ledger.list_ours(name)) for name in ledger.list_datasets()} == {f"d{n}": 20 for n in range(8)}


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\\"), min_size=1, max_size=20)


@given(st.dictionaries(st.tuples(TEXTS, TEXTS), st.booleans(), max_size=12))
def test_any_names_are_kept_apart(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, str], bool]) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger"), lambda: ())
    for (dataset, path), is_ours in files.items():
        ledger.put(dataset, path, RECORD._replace(is_ours=is_ours))
    found = {(name, path) for name in ledger.list_datasets() for path in ledger.list_ours(name)}
    ledger.close()
    assert found == {key for key, is_ours in files.items() if is_ours}


@pytest.mark.parametrize(
    ("folder", "is_network"),
    [
        ("/home/me", False),
        ("/nas/cache", True),
        ("/nas/local/cache", False),
        ("/nasty", False),
        ("/my disk/x", True),
        ("/m\N{LATIN SMALL LETTER U WITH DIAERESIS}ll/x", True),
    ],
)
def test_network_disks_are_known_by_their_mount(monkeypatch: pytest.MonkeyPatch, folder: str, is_network: bool) -> None:
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\n"
        "host:/x /nas nfs4 rw 0 0\n"
        "/dev/sdb1 /nas/local ext4 rw 0 0\n"
        "//host/x /my\\040disk cifs rw 0 0\n"
        "host:/y /m\N{LATIN SMALL LETTER U WITH DIAERESIS}ll nfs rw 0 0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda _path, **_options: mounts)
    assert is_network_disk(Path(folder)) is is_network
