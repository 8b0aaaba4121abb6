"""Downloads under way over real files: claimed by one, put to rest, gone on with, swept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx._partials import Partial, Workshop, _name_host

from .conftest import run_python

MIB = 1024 * 1024
DATA = os.urandom(MIB) * 6
WEEK_S = 7 * 24 * 3600


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """The folder of downloads under way."""
    return tmp_path / "tmp"


def interrupt(workshop: Workshop, path: str = "x", *, etag: str = '"1"', size: int = 3 * MIB) -> None:
    """Begin a download and let go of it."""
    partial = workshop.claim("cats", path)
    partial.begin(etag, len(DATA))
    partial.write(DATA[:size])
    workshop.release(partial, "cats", path)


def age(folder: Path, seconds: float) -> None:
    """Make every file older."""
    for file in folder.iterdir():
        os.utime(file, (time.time() - seconds,) * 2)


def test_new_download_begins_with_nothing(tmp: Path) -> None:
    workshop = Workshop(tmp)
    partial = workshop.claim("cats", "x")
    assert (partial.offset, partial.etag) == (0, "")
    workshop.release(partial, "cats", "x")


def test_finished_download_is_the_bytes_that_were_written(tmp: Path) -> None:
    workshop = Workshop(tmp)
    partial = workshop.claim("cats", "x")
    partial.begin('"1"', len(DATA))
    for start in range(0, len(DATA), 100_000):
        partial.write(DATA[start : start + 100_000])
    assert (partial.digest, partial.head) == (hashlib.sha256(DATA).hexdigest(), DATA[:1024])
    finished = partial.finish()
    assert finished.read_bytes() == DATA
    finished.unlink()
    workshop.release(partial, "cats", "x")
    assert os.listdir(tmp) == []


@pytest.mark.parametrize("same_workshop", [True, False])
def test_interrupted_download_goes_on(tmp: Path, same_workshop: bool) -> None:
    workshop = Workshop(tmp)
    interrupt(workshop)
    workshop = workshop if same_workshop else Workshop(tmp)
    partial = workshop.claim("cats", "x")
    assert (partial.offset, partial.etag, partial.size) == (3 * MIB, '"1"', len(DATA))
    assert (partial.digest, partial.head) == (hashlib.sha256(DATA[: 3 * MIB]).hexdigest(), DATA[:1024])
    partial.write(DATA[3 * MIB :])
    assert partial.finish().read_bytes() == DATA


def test_another_entry_does_not_get_it(tmp: Path) -> None:
    workshop = Workshop(tmp)
    interrupt(workshop)
    for dataset, path in (("dogs", "x"), ("cats", "y")):
        partial = workshop.claim(dataset, path)
        assert partial.offset == 0
        workshop.release(partial, dataset, path)


def test_short_download_is_not_worth_keeping(tmp: Path) -> None:
    interrupt(Workshop(tmp), size=1000)
    assert os.listdir(tmp) == []


def test_download_without_a_validator_is_not_kept(tmp: Path) -> None:
    interrupt(Workshop(tmp), etag="")
    assert os.listdir(tmp) == []


def test_begin_throws_away_what_was_there(tmp: Path) -> None:
    workshop = Workshop(tmp)
    interrupt(workshop)
    partial = workshop.claim("cats", "x")
    partial.begin('"2"', 5)
    partial.write(b"fresh")
    assert (partial.offset, partial.digest) == (5, hashlib.sha256(b"fresh").hexdigest())
    assert partial.finish().read_bytes() == b"fresh"


def test_new_version_leaves_nothing_of_the_old_one(tmp: Path) -> None:
    workshop = Workshop(tmp)
    interrupt(workshop)
    partial = workshop.claim("cats", "x")
    partial.begin('"2"', 5)
    partial.write(b"fresh")
    partial.finish().unlink()
    workshop.release(partial, "cats", "x")
    assert os.listdir(tmp) == []


def test_of_many_who_claim_one_gets_it(tmp: Path) -> None:
    interrupt(Workshop(tmp))
    workshops = [Workshop(tmp) for _ in range(8)]
    offsets: list[int] = []
    barrier = threading.Barrier(8)

    def claim(workshop: Workshop) -> None:
        barrier.wait()
        partial = workshop.claim("cats", "x")
        offsets.append(partial.offset)
        partial.begin("", 0)
        workshop.release(partial, "cats", "x")

    threads = [threading.Thread(target=claim, args=(workshop,)) for workshop in workshops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(offsets) == [0] * 7 + [3 * MIB]
    assert os.listdir(tmp) == []


def test_two_downloads_of_one_entry_do_not_disturb_each_other(tmp: Path) -> None:
    workshop = Workshop(tmp)
    one, other = workshop.claim("cats", "x"), workshop.claim("cats", "x")
    for partial in (one, other):
        partial.begin('"1"', len(DATA))
    for start in range(0, len(DATA), MIB):
        one.write(DATA[start : start + MIB])
        other.write(DATA[start : start + MIB])
    finished = [partial.finish() for partial in (one, other)]
    assert [file.read_bytes() for file in finished] == [DATA, DATA]
    for file in finished:
        file.unlink()
    for partial in (one, other):
        workshop.release(partial, "cats", "x")
    assert os.listdir(tmp) == []


def test_download_under_way_is_not_swept(tmp: Path) -> None:
    workshop = Workshop(tmp)
    partial = workshop.claim("cats", "x")
    partial.begin('"1"', len(DATA))
    partial.write(DATA)
    Workshop(tmp)
    assert partial.finish().read_bytes() == DATA


DIE = """
    import os, sys, pathlib
    from dsx._partials import Workshop
    partial = Workshop(pathlib.Path(sys.argv[1])).claim("cats", "x")
    partial.begin('"1"', 6 * 1024**2)
    for _ in range(int(sys.argv[2])):
        partial.write(bytes(1024**2))
    partial._file.flush()
    os._exit(1)
"""


def run_and_die(tmp: Path, mebibytes: int) -> None:
    """Leave behind what a killed process leaves."""
    done = subprocess.run([sys.executable, "-c", DIE.replace("\n    ", "\n"), tmp, str(mebibytes)], check=False)
    assert done.returncode == 1
    assert [file.suffix for file in tmp.iterdir()].count(".work") == 1


def test_download_of_a_dead_process_goes_on_at_its_checkpoint(tmp: Path) -> None:
    run_and_die(tmp, 5)
    partial = Workshop(tmp).claim("cats", "x")
    assert 4 * MIB <= partial.offset <= 5 * MIB
    assert partial.digest == hashlib.sha256(bytes(partial.offset)).hexdigest()
    partial.finish()


def test_download_of_a_dead_process_without_a_checkpoint_is_swept(tmp: Path) -> None:
    run_and_die(tmp, 2)
    Workshop(tmp)
    assert os.listdir(tmp) == []


def test_download_of_a_live_process_is_left_alone(
    tmp: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start_python(
        DIE.replace("os._exit(1)", "print('ready', flush=True)\n    __import__('signal').pause()"), tmp, 5
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    before = sorted(os.listdir(tmp))
    Workshop(tmp)
    assert sorted(os.listdir(tmp)) == before


def test_what_nobody_claims_for_a_week_is_swept(tmp: Path) -> None:
    interrupt(Workshop(tmp))
    age(tmp, WEEK_S + 60)
    Workshop(tmp)
    assert os.listdir(tmp) == []


def test_what_is_younger_than_a_week_is_kept(tmp: Path) -> None:
    interrupt(Workshop(tmp))
    age(tmp, WEEK_S - 3600)
    partial = Workshop(tmp).claim("cats", "x")
    partial.finish()
    assert partial.offset == 3 * MIB


def test_files_of_another_host_are_swept_after_a_week(tmp: Path) -> None:
    run_and_die(tmp, 2)
    (work,) = tmp.glob("*.work")
    name, owner, _ = work.name.split(".")
    moved = work.rename(tmp / f"{name}.{'0' * 8}{owner[8:]}.work")
    Workshop(tmp)
    assert moved.exists()
    age(tmp, WEEK_S + 60)
    Workshop(tmp)
    assert os.listdir(tmp) == []


def test_process_ids_of_another_container_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    here = _name_host()
    assert here == _name_host()
    monkeypatch.setattr(Path, "readlink", lambda _: Path("pid:[4026539999]"))
    assert here != _name_host()


def test_foreign_files_are_not_touched(tmp: Path) -> None:
    tmp.mkdir()
    names = ["notes.txt", "x.part", "0" * 16 + ".work", "a-b.json", "\N{GRINNING FACE}"]
    for name in names:
        (tmp / name).write_bytes(b"mine")
    age(tmp, 10 * WEEK_S)
    Workshop(tmp)
    assert sorted(os.listdir(tmp)) == sorted(names)


def test_folders_with_such_names_are_no_error(tmp: Path) -> None:
    key = f"{'0' * 16}-{'0' * 24}-{'0' * 16}"
    (tmp / f"{key}.part").mkdir(parents=True)
    (tmp / f"{key}.json").mkdir()
    workshop = Workshop(tmp)
    assert workshop.list_resting("cats") == []


def test_files_at_rest_are_listed_by_dataset(tmp: Path) -> None:
    workshop = Workshop(tmp)
    interrupt(workshop)
    assert sum(file.stat().st_size for file in workshop.list_resting("cats")) > 3 * MIB
    assert workshop.list_resting("dogs") == []


def test_scratch_file_is_gone_afterwards(tmp: Path) -> None:
    with Workshop(tmp).scratch("cats_manifest.json") as temporary:
        temporary.write_bytes(b"1")
        Workshop(tmp)  # sweeps
        assert temporary.exists()
    assert os.listdir(tmp) == []


def test_scratch_file_of_a_dead_process_is_swept(tmp: Path) -> None:
    code = """
        import os, sys, pathlib
        from dsx._partials import Workshop
        with Workshop(pathlib.Path(sys.argv[1])).scratch("x") as temporary:
            temporary.write_bytes(b"1")
            print(len(os.listdir(sys.argv[1])), flush=True)
            os._exit(0)
    """
    assert run_python(code, tmp) == "1\n"
    Workshop(tmp)
    assert os.listdir(tmp) == []


def test_reader_of_a_partial_never_sees_unhashed_bytes_vouched_for(tmp: Path) -> None:
    interrupt(Workshop(tmp))
    (part,) = tmp.glob("*.part")
    part.write_bytes(DATA[: 2 * MIB] + b"\0" + DATA[2 * MIB + 1 : 3 * MIB] + b"tail")
    partial = Workshop(tmp).claim("cats", "x")
    assert isinstance(partial, Partial)
    assert (partial.offset, partial.etag) == (0, "")
    partial.finish()
