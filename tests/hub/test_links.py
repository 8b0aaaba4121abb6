"""Links and devices inside a dataset: what stays inside is followed, nothing else, whoever swaps what meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsx_server.storage import beneath
from dsx_server.storage.beneath import open_beneath, open_resolved
from tests.conftest import HubProcess, write_files
from tests.hub.conftest import ask, connect, format_request, receive_all

CANARY = b"canary: these bytes lie outside"
INSIDE = b"these bytes lie inside"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and FIFOs are made as POSIX has them")

Opener = Callable[[str, str], int]


@pytest.fixture(params=[open_beneath, open_resolved], ids=["open_beneath", "open_resolved"])
def opener(request: pytest.FixtureRequest) -> Opener:
    """Both ways to open a file beneath a folder: with openat, and without it."""
    found: Opener = request.param
    return found


@pytest.fixture
def root(request: pytest.FixtureRequest, shared_served: Path) -> Path:
    """A dataset on the shared hub with one file, and a secret beside it."""
    path = shared_served.resolve() / f"d{abs(hash(request.node.nodeid))}"
    write_files(path, {"real/x": INSIDE})
    write_files(shared_served.parent, {f"{path.name}-secret/x": CANARY})
    write_files(shared_served, {f"{path.name}-secret/x": CANARY})
    return path


@pytest.fixture
def secret(root: Path, shared_served: Path) -> Path:
    """A folder outside the served one that holds the canary."""
    return shared_served.resolve().parent / f"{root.name}-secret"


def read(opener: Opener, root: Path, path: str) -> bytes:
    """Open with one of the openers and read."""
    descriptor = opener(str(root), path)
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


def link_file_relative(root: Path) -> str:
    (root / "link").symlink_to("real/x")
    return "link"


def link_file_absolute(root: Path) -> str:
    (root / "link").symlink_to(root / "real" / "x")
    return "link"


def link_folder_relative(root: Path) -> str:
    (root / "link").symlink_to("real")
    return "link/x"


def link_folder_absolute(root: Path) -> str:
    (root / "link").symlink_to(root / "real")
    return "link/x"


def link_from_below(root: Path) -> str:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "link").symlink_to("../../real/x")
    return "a/b/link"


def link_to_link(root: Path) -> str:
    (root / "first").symlink_to("real")
    (root / "second").symlink_to("first")
    return "second/x"


def link_out_and_back(root: Path) -> str:
    (root / "link").symlink_to(f"../{root.name}/real/x")
    return "link"


INSIDE_LINKS = [
    link_file_relative,
    link_file_absolute,
    link_folder_relative,
    link_folder_absolute,
    link_from_below,
    link_to_link,
    link_out_and_back,
]


@pytest.mark.parametrize("make", INSIDE_LINKS)
def test_link_that_stays_inside_is_followed(opener: Opener, root: Path, make: Callable[[Path], str]) -> None:
    assert read(opener, root, make(root)) == INSIDE


@pytest.mark.parametrize("make", INSIDE_LINKS)
def test_link_that_stays_inside_is_listed_and_served(
    shared_hub: HubProcess, root: Path, make: Callable[[Path], str]
) -> None:
    path = make(root)
    listed = {row["path"]: row for row in shared_hub.get(f"/manifest/{root.name}").json()}
    assert listed[path]["size"] == len(INSIDE)
    assert shared_hub.get(f"/file/{root.name}/{path}").content == INSIDE


def leaf_absolute(root: Path, secret: Path) -> str:
    (root / "link").symlink_to(secret / "x")
    return "link"


def leaf_relative(root: Path, secret: Path) -> str:
    (root / "link").symlink_to(os.path.relpath(secret / "x", root))
    return "link"


def folder_above(root: Path, secret: Path) -> str:
    (root / "link").symlink_to(secret)
    return "link/x"


def folder_far_above(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("/")
    return f"link{secret}/x"


def sibling_with_the_same_beginning(root: Path, secret: Path) -> str:
    (root / "link").symlink_to(f"../{root.name}-secret/x")
    return "link"


def through_two_links(root: Path, secret: Path) -> str:
    (root / "out").symlink_to(secret)
    (root / "link").symlink_to("out/x")
    return "link"


def process_root(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("/proc/self/root")
    return f"link{secret}/x"


def process_environment(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("/proc/self/environ")
    return "link"


def process_folder(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("/proc/self")
    return "link/environ"


def loop_of_one(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("link")
    return "link"


def loop_of_two(root: Path, secret: Path) -> str:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    return "a/x"


def dangling(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("nothing/x")
    return "link"


def fifo(root: Path, secret: Path) -> str:
    os.mkfifo(root / "fifo")
    return "fifo"


def link_to_fifo(root: Path, secret: Path) -> str:
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("fifo")
    return "link"


def link_to_device(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("/dev/zero")
    return "link"


def link_to_terminal(root: Path, secret: Path) -> str:
    (root / "link").symlink_to("/dev/stdin")
    return "link"


def folder_as_file(root: Path, secret: Path) -> str:
    return "real"


def file_as_folder(root: Path, secret: Path) -> str:
    return "real/x/y"


def link_to_itself_as_folder(root: Path, secret: Path) -> str:
    (root / "link").symlink_to(".")
    return "link"


NOT_ENTRIES = [
    leaf_absolute,
    leaf_relative,
    folder_above,
    folder_far_above,
    sibling_with_the_same_beginning,
    through_two_links,
    process_root,
    process_environment,
    process_folder,
    loop_of_one,
    loop_of_two,
    dangling,
    fifo,
    link_to_fifo,
    link_to_device,
    link_to_terminal,
    folder_as_file,
    file_as_folder,
    link_to_itself_as_folder,
]


@pytest.mark.parametrize("make", NOT_ENTRIES)
def test_what_leads_elsewhere_is_not_opened(
    opener: Opener, root: Path, secret: Path, make: Callable[[Path, Path], str]
) -> None:
    path = make(root, secret)
    with pytest.raises(OSError) as caught:  # noqa: PT011 -- one of three, told apart below
        read(opener, root, path)
    assert isinstance(caught.value, FileNotFoundError | NotADirectoryError) or "symbolic links" in str(caught.value)


@pytest.mark.parametrize("make", NOT_ENTRIES)
def test_what_leads_elsewhere_is_404_and_not_listed(
    shared_hub: HubProcess, root: Path, secret: Path, make: Callable[[Path, Path], str]
) -> None:
    path = make(root, secret)
    answer = ask(shared_hub, f"/file/{root.name}/{path}".encode())
    assert answer.status == 404
    assert CANARY not in answer.body
    assert [row["path"] for row in shared_hub.get(f"/manifest/{root.name}").json()] == ["real/x"]


@pytest.mark.parametrize("make", NOT_ENTRIES)
def test_refused_open_leaves_no_descriptor_open(
    opener: Opener, root: Path, secret: Path, make: Callable[[Path, Path], str]
) -> None:
    path = make(root, secret)
    before = set(os.listdir("/dev/fd"))
    with pytest.raises(OSError):  # noqa: PT011 -- which one is the test above
        read(opener, root, path)
    assert set(os.listdir("/dev/fd")) == before


def test_device_inside_a_dataset_is_no_entry(shared_hub: HubProcess, opener: Opener, root: Path) -> None:
    try:
        os.mknod(root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except (PermissionError, OSError) as error:
        pytest.skip(f"this user may not make devices: {error}")
    with pytest.raises(FileNotFoundError):
        read(opener, root, "zero")
    assert ask(shared_hub, f"/file/{root.name}/zero".encode()).status == 404
    assert [row["path"] for row in shared_hub.get(f"/manifest/{root.name}").json()] == ["real/x"]


def test_fifo_does_not_keep_others_waiting(shared_hub: HubProcess, root: Path) -> None:
    os.mkfifo(root / "fifo")
    for _ in range(50):  # more than the hub has threads
        assert ask(shared_hub, f"/file/{root.name}/fifo".encode()).status == 404
    assert ask(shared_hub, f"/file/{root.name}/real/x".encode()).body == INSIDE


def test_file_under_the_root_folder_of_the_system_is_found(tmp_path: Path, opener: Opener) -> None:
    (tmp_path / "x").write_bytes(INSIDE)
    assert read(opener, Path("/"), str(tmp_path.resolve() / "x").lstrip("/")) == INSIDE


def test_links_between_folders_do_not_make_the_manifest_endless(shared_hub: HubProcess, root: Path) -> None:
    for number in range(6):
        (root / str(number)).mkdir()
        for other in range(6):
            (root / str(number) / f"to{other}").symlink_to(f"../{other}")
    paths = [row["path"] for row in shared_hub.get(f"/manifest/{root.name}").json()]
    assert "real/x" in paths


def test_folder_that_is_linked_to_is_listed_under_both_names(shared_hub: HubProcess, root: Path) -> None:
    (root / "link").symlink_to("real")
    rows = shared_hub.get(f"/manifest/{root.name}").json()
    assert [row["path"] for row in rows] == ["link/x", "real/x"]
    assert rows[0]["hash"] == rows[1]["hash"]


def test_link_up_to_the_dataset_itself_does_not_loop(shared_hub: HubProcess, root: Path) -> None:
    (root / "real" / "up").symlink_to("..")
    (root / "real" / "here").symlink_to(".")
    assert [row["path"] for row in shared_hub.get(f"/manifest/{root.name}").json()] == ["real/x"]


@pytest.fixture
def during_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run something just before and just after the module opens the last segment of a path: the worst moment."""
    real_open = os.open

    def install(name: str, before: Callable[[], None], after: Callable[[], None]) -> None:
        def open_between(path: str, flags: int, *args: int, **options: int) -> int:
            if os.fspath(path).rsplit("/", 1)[-1] != name:
                return real_open(path, flags, *args, **options)
            before()
            try:
                return real_open(path, flags, *args, **options)
            finally:
                after()

        monkeypatch.setattr(beneath.os, "open", open_between)

    yield install
    monkeypatch.undo()


def nothing() -> None:
    """Change nothing."""


def read_if_found(opener: Opener, root: Path, path: str) -> bytes:
    """Read, or give nothing where the open is refused."""
    try:
        return read(opener, root, path)
    except OSError:
        return b""


def test_file_swapped_for_a_link_before_the_open_is_not_followed(
    opener: Opener, root: Path, secret: Path, during_open: Callable[..., None]
) -> None:
    def swap() -> None:
        (root / "real" / "x").unlink()
        (root / "real" / "x").symlink_to(secret / "x")

    during_open("x", swap, nothing)
    assert read_if_found(opener, root, "real/x") == b""


def test_folder_swapped_for_a_link_before_the_open_is_not_followed(
    opener: Opener, root: Path, secret: Path, during_open: Callable[..., None]
) -> None:
    def swap() -> None:
        (root / "real").rename(root / "away")
        (root / "real").symlink_to(secret)

    during_open("x", swap, nothing)
    assert CANARY not in read_if_found(opener, root, "real/x")


def test_folder_swapped_for_a_link_and_back_is_not_followed(
    opener: Opener, root: Path, secret: Path, during_open: Callable[..., None]
) -> None:
    def swap() -> None:
        (root / "real").rename(root / "away")
        (root / "real").symlink_to(secret)

    def swap_back() -> None:
        (root / "real").unlink()
        (root / "away").rename(root / "real")

    during_open("x", swap, swap_back)
    assert CANARY not in read_if_found(opener, root, "real/x")


def test_file_swapped_for_a_fifo_before_the_open_is_not_served(
    opener: Opener, root: Path, during_open: Callable[..., None]
) -> None:
    def swap() -> None:
        (root / "real" / "x").unlink()
        os.mkfifo(root / "real" / "x")

    during_open("x", swap, nothing)
    with pytest.raises(FileNotFoundError):
        read(opener, root, "real/x")


def test_file_removed_after_the_open_leaves_no_descriptor_open(
    opener: Opener, root: Path, during_open: Callable[..., None]
) -> None:
    during_open("x", nothing, (root / "real" / "x").unlink)
    before = set(os.listdir("/dev/fd"))
    read_if_found(opener, root, "real/x")
    assert set(os.listdir("/dev/fd")) == before


def flip_link(root: Path, secret: Path) -> None:
    """Point the link ``flip`` inside, then outside."""
    for target in (root / "real" / "x", secret / "x"):
        (root / "flip.new").symlink_to(target)
        (root / "flip.new").replace(root / "flip")


def flip_folder(root: Path, secret: Path) -> None:
    """Make ``flip`` a link to a folder outside, then a real folder."""
    (root / "flip.new").symlink_to(secret)
    (root / "flip").rename(root / "flip.away") if (root / "flip").exists() else None
    (root / "flip.new").rename(root / "flip")
    (root / "flip").unlink()
    (root / "flip.away").rename(root / "flip")


@pytest.mark.parametrize(("flip", "path"), [(flip_link, "flip"), (flip_folder, "flip/x")], ids=["leaf", "folder"])
def test_racing_swaps_never_yield_bytes_from_outside(
    shared_hub: HubProcess, root: Path, secret: Path, flip: Callable[[Path, Path], None], path: str
) -> None:
    if flip is flip_folder:
        write_files(root, {"flip/x": INSIDE})
    stop = threading.Event()

    def race() -> None:
        while not stop.is_set():
            flip(root, secret)

    racer = threading.Thread(target=race)
    racer.start()
    try:
        bodies = [read_if_found(open_beneath, root, path) for _ in range(3000)]
        target = f"/file/{root.name}/{path}".encode()
        with connect(shared_hub) as connection:
            connection.sendall(format_request(target, close=False) * 300 + format_request(target))
            answers = receive_all(connection)
    finally:
        stop.set()
        racer.join()
    assert set(bodies) <= {INSIDE, b""}
    assert CANARY not in answers
    assert answers.count(b"HTTP/1.1 ") == 301
    assert answers.count(b"HTTP/1.1 200") + answers.count(b"HTTP/1.1 404") + answers.count(b"HTTP/1.1 409") == 301
