"""``dsx diff``, in a process of its own against a real hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import HubProcess

from .pulling import Dataset, Shell


class History(NamedTuple):
    """A dataset with two revisions, and a user of its hub."""

    shell: Shell
    name: str
    old: str
    new: str


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Of four entries one stays, one changes, one goes, and two come."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "served").mkdir()
    hub = HubProcess(folder / "served", folder / "state")
    cats = Dataset(hub, {"stays": b"1", "d/changes": b"1", "goes": b"1"})
    old = cats.wait_for_revision()
    (cats.folder / "goes").unlink()
    cats.write({"d/changes": b"22", "a b": b"1", "c\n+ é": b"1"})
    new = cats.wait_for_revision(other_than=old)
    yield History(Shell(folder, hub), cats.name, old, new)
    hub.kill()


@pytest.mark.parametrize("names_newest", [True, False])
def test_a_line_a_path(history: History, names_newest: bool) -> None:
    revisions = (history.old, history.new) if names_newest else (history.old,)
    result = history.shell.run("diff", history.name, *revisions)
    assert (result.returncode, result.stdout) == (0, "+ a b\n+ c\\n+ é\n~ d/changes\n- goes\n")
    assert result.stderr.startswith("2 added, 1 removed, 1 changed from revision ")


def test_json_has_the_paths_as_they_are(history: History) -> None:
    found = json.loads(history.shell.run("diff", history.name, history.new, history.old, "--json").stdout)
    assert found == {
        "dataset": history.name,
        "from": history.new,
        "to": history.old,
        "added": ["goes"],
        "changed": ["d/changes"],
        "removed": ["a b", "c\n+ é"],
    }


def test_no_difference_is_no_line(history: History) -> None:
    result = history.shell.run("diff", history.name, history.new)
    assert (result.returncode, result.stdout) == (0, "")


def test_list_names_the_revisions_newest_first(history: History) -> None:
    lines = history.shell.run("diff", history.name, "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [history.new, history.old]
    assert lines[0].endswith("  4 entries, 5 bytes")
    rows = history.shell.ask("diff", history.name, "--list")
    assert [(row["revision"], row["entries"], row["bytes"]) for row in rows] == [  # type: ignore[index]
        (history.new, 4, 5),
        (history.old, 3, 3),
    ]


@pytest.mark.parametrize("words", [(), ("0" * 32, "--list")])
def test_what_cannot_be_meant_is_a_usage_error(history: History, words: tuple[str, ...]) -> None:
    result = history.shell.run("diff", history.name, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--list" in result.stderr


@pytest.mark.parametrize("revision", ["0" * 32, "main"])
def test_revision_that_is_not_there_says_how_to_list_them(history: History, revision: str) -> None:
    result = history.shell.run("diff", history.name, revision)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("dsx: ")
    assert revision in result.stderr
    assert history.new not in result.stderr
    assert f"dsx diff {history.name} --list" in result.stderr


def test_dataset_that_is_not_there_is_one_sentence(history: History, tmp_path: Path) -> None:
    result = history.shell.run("diff", "dogs", history.old)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("dsx: ")
