"""Digests in the manifest: what comes is held against them, and a change that only they tell is not missed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import dsx._manifests
import dsx._retry
from dsx import ConflictError, DatasetHubClient, DownloadError, IntegrityError, InvalidPathError

from .scripted import (
    HonestScript,
    Reply,
    Request,
    Script,
    ScriptedHub,
    digests_of,
    forget_query,
    md5_of_head,
    mtime_of,
)

LONG = bytes(range(251)) * 20
FILES = {"long": LONG, "other": b"o" * 2000, "short": b"s"}

Connect = Callable[..., DatasetHubClient]
Read = Callable[[DatasetHubClient, str | None], bytes]


def rewrite(data: bytes) -> bytes:
    """Give another content of the same size, first kilobyte and CRC-32, which is all that `mtime_of` looks at."""
    # The polynomial of CRC-32, bits in the order in which they are sent: xor with it leaves the sum as it is.
    number = int.from_bytes(data[2000:2005], "little") ^ 0x1DB710641
    return data[:2000] + number.to_bytes(5, "little") + data[2005:]


def download(client: DatasetHubClient, revision: str | None) -> bytes:
    """Read `long` with `download_dataset`; raise what it failed for."""
    try:
        return client.download_dataset("cats", ["long"], revision=revision)[0].read_bytes()
    except DownloadError as error:
        raise error.failures["long"] from error


READS: dict[str, Read] = {
    "get_file": lambda client, revision: client.get_file("cats", "long", revision=revision).read_bytes(),
    "get_file_bytes": lambda client, revision: client.get_file_bytes("cats", "long", revision=revision),
    "download_dataset": download,
}


def alter_entries(script: Script, alter: Callable[[bytes], bytes], methods: tuple[str, ...] = ("GET",)) -> Script:
    """Alter what a hub answers to requests for entries."""

    def send(request: Request) -> Reply:
        reply = script(request)
        if not request.path.startswith("/file") or request.method not in methods:
            return reply
        return reply._replace(data=alter(b"".join([reply.data] if isinstance(reply.data, bytes) else reply.data)))

    return send


def without_digest(script: Script, *methods: str) -> Script:
    """Send no ``Repr-Digest`` in answer to these methods: the hub's GET of a long entry may not know it."""
    return alter_entries(script, lambda data: re.sub(rb"repr-digest: [^\r]+\r\n", b"", data, count=1), methods)


def damage(script: Script) -> Script:
    """Send other bytes than the hub says."""
    return alter_entries(script, lambda data: data[:-1] + bytes([data[-1] ^ 1]))


def methods_of(hub: ScriptedHub) -> list[str]:
    """Return the methods of the requests for entries."""
    return [request.method for request in hub.requests if request.path.startswith("/file")]


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsx._retry, "FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(dsx._manifests, "FIRST_CONTACT_S", 0.3)


@pytest.fixture
def script() -> HonestScript:
    """A dataset of which the hub knows all digests; its entries are asked for one by one."""
    script = HonestScript(FILES)
    script.knows_batches = False
    script.changes = {"digests": digests_of(FILES)}
    return script


@pytest.fixture
def revision(script: HonestScript) -> str:
    """Its revision."""
    return script.keep()


@pytest.fixture
def hub(start_scripted: Callable[..., ScriptedHub], script: HonestScript, revision: str) -> ScriptedHub:
    """The hub that has it."""
    return start_scripted(script)


@pytest.fixture
def client(connect: Connect, hub: ScriptedHub) -> DatasetHubClient:
    """A client of it that knows the manifest."""
    made = connect(hub.url)
    made.load_manifest("cats")
    return made


@pytest.fixture(params=[False, True], ids=["unpinned", "pinned"])
def wanted(request: pytest.FixtureRequest, revision: str) -> str | None:
    """The revision to read: none, or the one of the manifest."""
    return revision if request.param else None


@pytest.fixture(params=READS.values(), ids=READS)
def read(request: pytest.FixtureRequest) -> Read:
    """One of the calls that read `long`."""
    return request.param  # type: ignore[no-any-return] -- pytest does not know of what type a parameter is


@pytest.fixture
def rewritten(client: DatasetHubClient, script: HonestScript, wanted: str | None) -> bytes:
    """What `long` was rewritten to in place, with its old time of modification, since the client read the manifest."""
    if wanted:
        client.load_manifest("cats", revision=wanted)
    new = script.files["long"] = rewrite(LONG)
    return new


def test_rewritten_content_differs_in_nothing_but_its_digest() -> None:
    new = rewrite(LONG)
    assert new != LONG
    assert (len(new), md5_of_head(new), mtime_of(new)) == (len(LONG), md5_of_head(LONG), mtime_of(LONG))


def test_digest_in_the_manifest_spares_a_request(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, read: Read, wanted: str | None
) -> None:
    hub.script = without_digest(script, "GET")
    assert read(client, wanted) == LONG
    assert methods_of(hub) == ["GET"]


def test_without_a_digest_in_the_manifest_the_hub_is_asked_for_it(
    connect: Connect, hub: ScriptedHub, script: HonestScript, read: Read, wanted: str | None
) -> None:
    script.changes = {}
    hub.script = without_digest(script, "GET")
    assert read(connect(hub.url), wanted) == LONG
    assert methods_of(hub) == ["GET", "HEAD"]


def test_read_is_held_against_the_digest_in_the_manifest(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, read: Read, rewritten: bytes, wanted: str | None
) -> None:
    hub.script = without_digest(forget_query(script), "GET", "HEAD")  # so that nothing else tells
    with pytest.raises(IntegrityError, match="long"):
        read(client, wanted)


def test_bytes_that_do_not_fit_the_hubs_own_digest_are_wrong(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, read: Read, wanted: str | None
) -> None:
    hub.script = damage(script)
    with pytest.raises(IntegrityError, match="long"):
        read(client, wanted)
    assert methods_of(hub) == ["GET", "GET"]


@pytest.mark.parametrize("wanted", [None])
def test_wrong_bytes_of_a_rewritten_entry_are_wrong(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, read: Read, rewritten: bytes, wanted: None
) -> None:
    hub.script = damage(script)
    with pytest.raises(IntegrityError, match="long"):
        read(client, wanted)


@pytest.mark.parametrize("is_said_at_once", [True, False])
@pytest.mark.parametrize("wanted", [True], indirect=True)
def test_entry_rewritten_in_place_is_a_conflict_of_the_revision(
    client: DatasetHubClient,
    hub: ScriptedHub,
    script: HonestScript,
    read: Read,
    rewritten: bytes,
    wanted: str,
    cache_dir: Path,
    is_said_at_once: bool,
) -> None:
    hub.script = forget_query(script) if is_said_at_once else without_digest(forget_query(script), "GET")
    with pytest.raises(ConflictError, match=f"long.*{wanted}"):
        read(client, wanted)
    assert methods_of(hub) == (["GET"] if is_said_at_once else ["GET", "HEAD"])
    assert not (cache_dir / "cats" / "long").exists()


@pytest.mark.parametrize("wanted", [True], indirect=True)
def test_newest_content_in_the_cache_is_not_taken_for_that_of_the_revision(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, rewritten: bytes, wanted: str
) -> None:
    hub.script = forget_query(script)
    path = client.get_file("cats", "long")
    with pytest.raises(ConflictError, match="long"):
        client.get_file("cats", "long", revision=wanted)
    assert path.read_bytes() == rewritten


@pytest.mark.parametrize("is_said_at_once", [True, False])
@pytest.mark.parametrize("wanted", [None])
def test_entry_rewritten_in_place_is_read_as_it_is_now(
    client: DatasetHubClient,
    hub: ScriptedHub,
    script: HonestScript,
    read: Read,
    rewritten: bytes,
    wanted: None,
    is_said_at_once: bool,
) -> None:
    if not is_said_at_once:
        hub.script = without_digest(script, "GET")
    assert read(client, wanted) == rewritten


@pytest.mark.parametrize("wanted", [None])
def test_entry_rewritten_in_place_is_not_kept_as_what_the_manifest_says(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, rewritten: bytes, wanted: None
) -> None:
    client.get_file("cats", "long")
    hub.requests.clear()
    assert client.get_file("cats", "long").read_bytes() == rewritten
    assert ["if-none-match" in request.headers for request in hub.of("GET", "/file")] == [True]
    script.files["long"] = LONG
    assert client.get_file("cats", "long").read_bytes() == LONG


@pytest.mark.parametrize("wanted", [None])
def test_entry_rewritten_in_place_is_known_once_the_manifest_has_its_digest(
    client: DatasetHubClient, hub: ScriptedHub, script: HonestScript, rewritten: bytes, wanted: None
) -> None:
    client.get_file("cats", "long")
    script.changes = {"digests": digests_of(script.files)}
    client.load_manifest("cats")
    hub.requests.clear()
    assert client.get_file("cats", "long").read_bytes() == rewritten
    assert hub.requests == []


def test_bytes_are_read_without_the_manifest_on_the_disk(
    client: DatasetHubClient, connect: Connect, hub: ScriptedHub, script: HonestScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dsx._manifests, "read_columns_file", lambda file: pytest.fail(f"{file} was read"))
    assert connect(hub.url).get_file_bytes("cats", "long") == LONG


def test_path_that_is_no_string_is_named(client: DatasetHubClient) -> None:
    for call in (client.get_file, client.get_file_bytes):
        with pytest.raises(InvalidPathError, match="string"):
            call("cats", Path("long"))  # type: ignore[arg-type] -- that is the mistake


def test_digest_of_a_file_of_ones_own_is_enough(client: DatasetHubClient, hub: ScriptedHub, cache_dir: Path) -> None:
    (cache_dir / "cats").mkdir(parents=True)
    (cache_dir / "cats" / "long").write_bytes(LONG)
    client.download_dataset("cats", ["long"])
    assert methods_of(hub) == []


@pytest.fixture
def filled(connect: Connect, hub: ScriptedHub, script: HonestScript) -> DatasetHubClient:
    """A client with all files in its cache, from before the hub knew the digests that it knows now."""
    script.changes = {"digests": [None, digests_of(FILES)[1], None]}
    made = connect(hub.url)
    made.download_dataset("cats")
    script.changes = {"digests": digests_of(FILES)}
    hub.requests.clear()
    return made


@pytest.mark.parametrize("call", ["load_manifest", "get_manifest"])
def test_digests_that_were_filled_in_are_taken(
    filled: DatasetHubClient, connect: Connect, hub: ScriptedHub, revision: str, call: str
) -> None:
    getattr(filled, call)("cats")
    assert [entry.digest for entry in filled.load_manifest("cats")] == digests_of(FILES)
    hub.stop()
    with pytest.warns(UserWarning, match="cached manifest"):
        kept = connect(hub.url).load_manifest("cats")
    assert [entry.digest for entry in kept] == digests_of(FILES)
    assert kept.revision == revision


@pytest.mark.parametrize("same_client", [True, False])
def test_manifest_with_new_digests_is_sent_once(
    filled: DatasetHubClient, connect: Connect, hub: ScriptedHub, same_client: bool
) -> None:
    answers = []
    honest = hub.script

    def note(request: Request) -> Reply:
        reply = honest(request)
        assert isinstance(reply.data, bytes)
        answers.append(reply.data.split(b" ", 2)[1])
        return reply

    hub.script = note
    for _ in range(2):
        (filled if same_client else connect(hub.url)).load_manifest("cats")
    assert answers == [b"200", b"304"]


def test_plain_array_is_not_written_again_for_new_digests(filled: DatasetHubClient, cache_dir: Path) -> None:
    file = cache_dir / "cats_manifest.json"
    before = file.stat()
    rows = filled.get_manifest("cats")
    after = file.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert json.loads(file.read_bytes()) == rows


@pytest.mark.parametrize("same_client", [True, False])
def test_new_digests_that_are_those_of_the_cached_files_cost_no_download(
    filled: DatasetHubClient, connect: Connect, hub: ScriptedHub, same_client: bool
) -> None:
    client = filled if same_client else connect(hub.url)
    paths = client.download_dataset("cats")
    assert [path.read_bytes() for path in paths] == [FILES[path] for path in sorted(FILES)]
    assert client.get_file("cats", "long").read_bytes() == LONG
    assert [request.path for request in hub.requests] == ["/manifest/cats"]


@pytest.mark.parametrize("same_client", [True, False])
def test_file_of_another_digest_than_the_new_one_is_fetched_anew(
    filled: DatasetHubClient, connect: Connect, hub: ScriptedHub, script: HonestScript, same_client: bool
) -> None:
    script.files["long"] = rewrite(LONG)
    script.changes = {"digests": digests_of(script.files)}
    client = filled if same_client else connect(hub.url)
    client.load_manifest("cats")
    assert client.get_file("cats", "long").read_bytes() == rewrite(LONG)
    client.download_dataset("cats")
    assert [request.path for request in hub.of("GET", "/file")] == ["/file/cats/long"]


def test_digest_that_became_unknown_is_no_reason_to_fetch(
    filled: DatasetHubClient, hub: ScriptedHub, script: HonestScript
) -> None:
    script.changes = {}
    assert {entry.digest for entry in filled.load_manifest("cats")} == {None}
    filled.download_dataset("cats")
    assert methods_of(hub) == []
