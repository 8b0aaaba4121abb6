"""Revisions: pinned manifests and reads, the list, the difference, and what is kept."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import HubProcess, write_files


@pytest.fixture
def cats(served: Path) -> Path:
    """A dataset with three entries."""
    write_files(served / "cats", {"a": b"a" * 2000, "b/c": b"c", "b/d": b"d"})
    return served / "cats"


def newest(hub: HubProcess) -> str:
    answer: str = hub.get("/datasets/cats").json()["revision"]
    return answer


def change(cats: Path) -> None:
    """Add one entry, change one, remove one."""
    write_files(cats, {"new": b"n", "a": b"A" * 2000})
    (cats / "b" / "c").unlink()


def test_pinned_manifest_answers_after_the_dataset_changed(cats: Path, hub: HubProcess) -> None:
    before = hub.get("/manifest/cats").json()
    revision = newest(hub)
    change(cats)
    assert newest(hub) != revision
    assert hub.get(f"/manifest/cats?revision={revision}").json() == before


def test_pinned_columns_name_their_revision(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    change(cats)
    columns = hub.get(f"/manifest/cats?format=columns&revision={revision}").json()
    assert (columns["revision"], columns["paths"]) == (revision, ["a", "b/c", "b/d"])


def test_pinned_manifest_revalidates(cats: Path, hub: HubProcess) -> None:
    first = hub.get(f"/manifest/cats?revision={newest(hub)}")
    again = hub.get(f"/manifest/cats?revision={newest(hub)}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pinned_manifest_survives_a_restart(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    change(cats)
    newest(hub)
    hub.stop()
    hub.start()
    assert len(hub.get(f"/manifest/cats?revision={revision}").json()) == 3


@pytest.mark.parametrize("revision", ["0" * 32, "", "x", "%00", "..", "'; DROP TABLE entries; --", "9" * 5000])
@pytest.mark.parametrize("route", ["/manifest/cats?revision={}", "/file/cats/a?revision={}"])
def test_any_string_that_names_no_revision_is_404(cats: Path, hub: HubProcess, route: str, revision: str) -> None:
    newest(hub)
    answer = hub.get(route.format(revision.replace(" ", "%20")))
    assert (answer.status_code, answer.json()["code"]) == (404, "revision_not_found")
    assert "revisions" in answer.json()["detail"]


def test_revision_of_another_dataset_is_404(cats: Path, served: Path, hub: HubProcess) -> None:
    write_files(served / "dogs", {"x": b"x"})
    other = hub.get("/datasets/dogs").json()["revision"]
    newest(hub)
    assert hub.get(f"/manifest/cats?revision={other}").json()["code"] == "revision_not_found"


def test_revisions_are_listed_newest_first(cats: Path, hub: HubProcess) -> None:
    first = newest(hub)
    change(cats)
    second = newest(hub)
    listed = hub.get("/datasets/cats/revisions").json()
    assert [each["revision"] for each in listed] == [second, first]
    assert [(each["entries"], each["bytes"]) for each in listed] == [(3, 2002), (3, 2002)]
    assert listed[0]["created_at"] > listed[1]["created_at"]


def test_change_nobody_asked_about_is_listed_too(cats: Path, hub: HubProcess) -> None:
    newest(hub)
    change(cats)
    assert len(hub.get("/datasets/cats/revisions").json()) == 2


def test_difference_names_added_changed_and_removed(cats: Path, hub: HubProcess) -> None:
    a = newest(hub)
    change(cats)
    b = newest(hub)
    assert hub.get(f"/datasets/cats/diff?from={a}&to={b}").json() == {
        "from": a,
        "to": b,
        "added": ["new"],
        "changed": ["a"],
        "removed": ["b/c"],
    }


def test_difference_the_other_way_is_reversed(cats: Path, hub: HubProcess) -> None:
    a = newest(hub)
    change(cats)
    b = newest(hub)
    answer = hub.get(f"/datasets/cats/diff?from={b}&to={a}").json()
    assert (answer["added"], answer["changed"], answer["removed"]) == (["b/c"], ["a"], ["new"])


def test_difference_to_itself_is_empty(cats: Path, hub: HubProcess) -> None:
    a = newest(hub)
    answer = hub.get(f"/datasets/cats/diff?from={a}&to={a}").json()
    assert (answer["added"], answer["changed"], answer["removed"]) == ([], [], [])


def test_difference_over_several_revisions_leaves_out_what_came_and_went(cats: Path, hub: HubProcess) -> None:
    a = newest(hub)
    write_files(cats, {"passing": b"x"})
    newest(hub)
    (cats / "passing").unlink()
    assert newest(hub) == a
    write_files(cats, {"stays": b"x"})
    b = newest(hub)
    assert hub.get(f"/datasets/cats/diff?from={a}&to={b}").json()["added"] == ["stays"]


def test_difference_needs_two_revisions(cats: Path, hub: HubProcess) -> None:
    assert hub.get("/datasets/cats/diff?from=x").status_code == 422
    newest(hub)
    assert hub.get(f"/datasets/cats/diff?from={newest(hub)}&to=x").json()["code"] == "revision_not_found"


def test_pinned_entry_that_is_unchanged_is_served(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    change(cats)
    assert hub.get(f"/file/cats/b/d?revision={revision}").content == b"d"


def test_pinned_entry_that_changed_is_a_conflict_that_names_it(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    change(cats)
    answer = hub.get(f"/file/cats/a?revision={revision}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "'a'" in answer.json()["detail"]
    assert b"AAAA" not in answer.content


def test_pinned_entry_that_changed_unseen_is_a_conflict_too(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    with (cats / "a").open("r+b") as file:
        file.seek(1500)
        file.write(b"X")
    assert hub.get(f"/file/cats/a?revision={revision}").status_code == 409


def test_entry_that_is_newer_than_the_revision_is_404(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    change(cats)
    answer = hub.get(f"/file/cats/new?revision={revision}")
    assert (answer.status_code, answer.json()["code"]) == (404, "entry_not_found")


def test_entry_that_was_removed_is_404_though_the_revision_has_it(cats: Path, hub: HubProcess) -> None:
    revision = newest(hub)
    change(cats)
    assert hub.get(f"/file/cats/b/c?revision={revision}").json()["code"] == "entry_not_found"


def test_revision_is_the_documented_hash(cats: Path, hub: HubProcess) -> None:
    columns = hub.get("/manifest/cats?format=columns").json()
    rows = zip(columns["paths"], columns["sizes"], columns["hashes"], columns["mtimes_ns"], strict=True)
    hashes = [hashlib.sha256("\0".join(map(str, row)).encode()).hexdigest() for row in rows]
    state = f"{len(hashes)}\0{sum(int(each, 16) for each in hashes) % 2**256:064x}"
    assert columns["revision"] == hashlib.sha256(state.encode()).hexdigest()[:32]


def make_revisions(cats: Path, hub: HubProcess, count: int) -> list[str]:
    """Publish that many more revisions and return their ids."""
    revisions = []
    for number in range(count):
        write_files(cats, {"counter": b"x" * (number + 1)})
        revisions.append(newest(hub))
    return revisions


def test_last_ten_revisions_are_kept(cats: Path, hub: HubProcess) -> None:
    revisions = make_revisions(cats, hub, 13)
    listed = [each["revision"] for each in hub.get("/datasets/cats/revisions").json()]
    assert listed == revisions[::-1][:10]
    assert hub.get(f"/manifest/cats?revision={revisions[0]}").status_code == 404


def test_revision_that_was_asked_for_is_kept(cats: Path, hub: HubProcess) -> None:
    pinned = newest(hub)
    before = hub.get(f"/manifest/cats?revision={pinned}").json()
    make_revisions(cats, hub, 12)
    assert hub.get(f"/manifest/cats?revision={pinned}").json() == before


def test_revision_asked_for_long_ago_is_forgotten_with_its_rows(cats: Path, hub: HubProcess, tmp_path: Path) -> None:
    pinned = newest(hub)
    hub.get(f"/manifest/cats?revision={pinned}")
    change(cats)
    with sqlite3.connect(tmp_path / "state" / "index.sqlite") as db:
        db.execute("UPDATE revisions SET asked_ns = asked_ns - 31 * 24 * 3600 * 1000000000")
    db.close()
    make_revisions(cats, hub, 11)
    assert hub.get(f"/manifest/cats?revision={pinned}").status_code == 404
    with sqlite3.connect(tmp_path / "state" / "index.sqlite") as db:
        assert db.execute("SELECT count(*) FROM entries WHERE path = 'b/c'").fetchone() == (0,)
    db.close()
