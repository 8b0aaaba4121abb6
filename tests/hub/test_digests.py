"""The hub learns the SHA-256 of entries: from what it serves, and from the disk while nobody needs it."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsx_server import Settings
from dsx_server.index import Learned
from dsx_server.index import index as index_module
from tests.conftest import KEY, HubProcess, write_files
from tests.hub.conftest import InProcessHub, ask, wait_until

OLD_NS = 10**18


@pytest.fixture
def cats(served: Path) -> Path:
    """A dataset of three entries that were written long ago."""
    write_files(served / "cats", {"a": b"a" * 2000, "b/c": b"c", "b/big": b"x" * 3_000_000})
    return served / "cats"


def known(hub: HubProcess) -> dict[str, str | None]:
    """Return the digests in the manifest."""
    columns = hub.get("/manifest/cats?format=columns").json()
    return dict(zip(columns["paths"], columns["digests"], strict=True))


def share(hub: HubProcess) -> float:
    found: float = hub.get("/datasets/cats").json()["digest_share"]
    return found


def expected(folder: Path) -> dict[str, str]:
    """Compute the digests from the files themselves."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_digests_are_computed_while_the_hub_is_idle(cats: Path, hub: HubProcess) -> None:
    assert known(hub).keys() == expected(cats).keys()
    wait_until(lambda: share(hub) == 1, "all digests are known")
    assert known(hub) == expected(cats)


def test_digests_are_kept_over_a_restart(cats: Path, start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub()
    wait_until(lambda: share(hub) == 1, "all digests are known")
    hub.stop()
    again = start_hub(DSX_DIGESTS="off")
    assert known(again) == expected(cats)
    assert again.get("/file/cats/b/big", headers={"Range": "bytes=0-0"}).headers["Repr-Digest"] == repr_digest(
        cats / "b" / "big"
    )


def repr_digest(path: Path) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()}:"


def test_changed_entry_has_a_new_digest(cats: Path, hub: HubProcess) -> None:
    wait_until(lambda: share(hub) == 1, "all digests are known")
    (cats / "a").write_bytes(b"b" * 2000)
    assert known(hub)["a"] is None
    wait_until(lambda: share(hub) == 1, "its digest is known")
    assert known(hub) == expected(cats)


def test_rewriting_in_place_under_the_old_mtime_makes_a_digest_unknown(cats: Path, hub: HubProcess) -> None:
    os.utime(cats / "a", ns=(OLD_NS, OLD_NS))
    wait_until(lambda: share(hub) == 1, "all digests are known")
    first = hub.get("/manifest/cats?format=columns")
    with (cats / "a").open("r+b") as file:
        file.seek(1500)
        file.write(b"X")
    os.utime(cats / "a", ns=(OLD_NS, OLD_NS))
    second = hub.get("/manifest/cats?format=columns", headers={"If-None-Match": first.headers["ETag"]})
    assert second.status_code == 200
    assert second.json()["revision"] == first.json()["revision"]
    assert known(hub)["a"] is None
    wait_until(lambda: share(hub) == 1, "its digest is known")
    assert known(hub) == expected(cats)


def test_change_of_permissions_costs_no_revision(cats: Path, hub: HubProcess) -> None:
    wait_until(lambda: share(hub) == 1, "all digests are known")
    before = hub.get("/datasets/cats").json()["revision"]
    (cats / "a").chmod(0o600)
    assert hub.get("/datasets/cats").json()["revision"] == before
    wait_until(lambda: share(hub) == 1 and known(hub) == expected(cats), "its digest is known again")


def test_removed_entry_does_not_count(cats: Path, hub: HubProcess) -> None:
    wait_until(lambda: share(hub) == 1, "all digests are known")
    (cats / "a").unlink()
    write_files(cats, {"new": b"n"})
    assert share(hub) < 1
    wait_until(lambda: share(hub) == 1, "the new one's digest is known")
    assert known(hub) == expected(cats)


def test_manifest_with_more_digests_has_another_etag(cats: Path, start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub()
    first = hub.get("/manifest/cats?format=columns")
    wait_until(lambda: share(hub) == 1, "all digests are known")
    second = hub.get("/manifest/cats?format=columns", headers={"If-None-Match": first.headers["ETag"]})
    if None in first.json()["digests"]:
        assert second.status_code == 200
    assert first.json()["revision"] == hub.get("/datasets/cats").json()["revision"]
    third = hub.get("/manifest/cats?format=columns")
    assert hub.get("/manifest/cats", headers={"If-None-Match": third.headers["ETag"]}).status_code == 304


def test_pinned_revision_keeps_its_digests(cats: Path, hub: HubProcess) -> None:
    wait_until(lambda: share(hub) == 1, "all digests are known")
    pinned = hub.get("/datasets/cats").json()["revision"]
    before = expected(cats)
    (cats / "a").write_bytes(b"changed")
    assert hub.get("/datasets/cats").json()["revision"] != pinned
    columns = hub.get(f"/manifest/cats?format=columns&revision={pinned}").json()
    assert dict(zip(columns["paths"], columns["digests"], strict=True)) == before


def test_off_computes_nothing_unasked(cats: Path, start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub(DSX_DIGESTS="off")
    assert "Repr-Digest" not in hub.get("/file/cats/a").headers
    assert "Repr-Digest" not in hub.request("HEAD", "/file/cats/a").headers
    assert set(known(hub).values()) == {None}
    asked = hub.get("/file/cats/a", headers={"Want-Repr-Digest": "sha-256=10"})
    assert asked.headers["Repr-Digest"] == repr_digest(cats / "a")


def test_what_is_served_whole_is_known_without_the_background(cats: Path, start_hub: Callable[..., HubProcess]) -> None:
    hub = start_hub(DSX_DIGESTS="off")
    known(hub)

    def is_known() -> bool:
        # An entry that has just been written is not believed yet: asked again, it is.
        for path in ("a", "b/c", "b/big"):
            hub.get(f"/file/cats/{path}", headers={"Want-Repr-Digest": "sha-256=10"})
        known(hub)
        return share(hub) == 1

    wait_until(is_known, "what was served is known")
    assert known(hub) == expected(cats)


@pytest.fixture
def busy_hub(tmp_path: Path, cats: Path) -> Iterator[InProcessHub]:
    """A hub in this process."""
    hub = InProcessHub(Settings(api_key=KEY, dataset_path=cats.parent, state_dir=tmp_path / "state"))
    yield hub
    hub.stop()


def test_nothing_is_hashed_while_the_hub_is_busy(busy_hub: InProcessHub, cats: Path) -> None:
    hashed: list[Learned] = []
    record = index_module.record_digests

    def note(db: object, learned: list[Learned]) -> set[str]:
        hashed.extend(learned)
        return record(db, learned)  # type: ignore[arg-type]  # -- passed on as it came

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(index_module, "record_digests", note)
        asking = [True]

        def keep_busy() -> int:
            count = 0
            while asking[0]:
                ask(busy_hub, b"/file/cats/b/c", headers=[b"Range: bytes=0-0"])
                count += 1
            return count

        busy = pool.submit(keep_busy)
        for _ in range(60):
            ask(busy_hub, b"/manifest/cats")
        before = {each.path for each in hashed}
        asking[0] = False
        assert busy.result() > 0
        wait_until(lambda: {each.path for each in hashed} == expected(cats).keys(), "they are hashed afterwards")
    assert before <= {"b/c"}
