"""``dsx demo`` and the ``dsx`` command, run as a user runs them: in a process of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from sklearn import datasets

from dsx import MissingExtraError
from dsx.cli.digits import load_digits, write_digits
from dsx.cli.report import Step, format_table

KEY = "known-key-0123456789"
LIMIT_S = 60
"""The issue's "in under a minute"; the run takes 6 s on two cores."""

USE_KNOWN_KEY = f"import secrets; secrets.token_urlsafe = lambda: {KEY!r}\n"
NOTE_COMMAND_LINES = (
    "import sys\n"
    "sys.addaudithook(lambda event, args: print('starts', args[1], file=open('../commands', 'a'))"
    " if event == 'subprocess.Popen' else None)\n"
)
MAIN = "from dsx.cli import main; main()"


class User:
    """Somebody whose home, working folder and temporary folder are empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folders = [folder / name for name in ("home", "state", "work", "tmp")]
        for each in self.folders:
            each.mkdir()
        home, state, self.cwd, tmp = map(str, self.folders)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("DSX_")}
        self.env |= {"HOME": home, "USERPROFILE": home, "XDG_STATE_HOME": state, "XDG_CACHE_HOME": state}
        self.env |= {"TMPDIR": tmp, "TEMP": tmp, "TMP": tmp}

    def start(self, *words: str, prelude: str = "") -> subprocess.Popen[str]:
        """Start ``dsx <words>`` as a shell does: Ctrl-C works, and the processes are a group."""
        code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{prelude}\n{MAIN}"
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``dsx <words>`` to its end."""
        process = self.start(*words, prelude=prelude)
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def left_behind(self) -> list[str]:
        """Name the files in this user's folders, and (on Linux) the processes that still run for this user."""
        files = [str(path) for folder in self.folders for path in folder.rglob("*")]
        return files + [f"process {pid}" for pid in self._processes()]

    def _processes(self) -> Iterator[str]:
        mark = f"TMPDIR={self.env['TMPDIR']}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    yield path.parent.name
            except OSError:
                continue  # it has ended, or is somebody else's


@pytest.fixture
def user(tmp_path: Path) -> User:
    """A user with nothing in their folders."""
    return User(tmp_path)


def block(*modules: str) -> str:
    """Write code that makes Python behave as if ``modules`` were not installed."""
    return (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[User, subprocess.CompletedProcess[str]]:
    """One run of the demo from beginning to end, for the tests that look at what it said and left."""
    user = User(tmp_path_factory.mktemp("demo"))
    return user, user.run("demo", prelude=USE_KNOWN_KEY + NOTE_COMMAND_LINES)


def test_demo_recognises_at_least_93_percent(whole_run: tuple[User, subprocess.CompletedProcess[str]]) -> None:
    _, result = whole_run
    assert (result.returncode, result.stderr) == (0, "")
    found = re.search(r"^accuracy: (\d+\.\d)%$", result.stdout, re.M)
    assert found is not None
    assert float(found[1]) >= 93.0


@pytest.mark.parametrize(("step", "files"), [("writing files", 1797), ("streaming", 1347), ("downloading", 450)])
def test_demo_says_files_per_second(
    whole_run: tuple[User, subprocess.CompletedProcess[str]], step: str, files: int
) -> None:
    _, result = whole_run
    row = re.search(rf"^  {step} +(\d+\.\d\d) s +([\d,]+) files +([\d,]+) files/s$", result.stdout, re.M)
    assert row is not None
    assert int(row[2].replace(",", "")) == files
    assert int(row[3].replace(",", "")) > 0


def test_demo_shows_the_way_to_a_folder_of_ones_own(whole_run: tuple[User, subprocess.CompletedProcess[str]]) -> None:
    _, result = whole_run
    lines = [line.strip() for line in result.stdout.splitlines()]
    snippet = lines[lines.index("from dsx import DatasetHubClient") :]
    compile("\n".join(snippet), "snippet", "exec")
    assert lines.index("python server/server.py") > lines.index("export DSX_DATASET_PATH=/path/to/your/datasets")


def test_demo_leaves_nothing_behind(whole_run: tuple[User, subprocess.CompletedProcess[str]]) -> None:
    user, _ = whole_run
    assert user.left_behind() == []


def test_key_is_in_no_output_and_on_no_command_line(whole_run: tuple[User, subprocess.CompletedProcess[str]]) -> None:
    user, result = whole_run
    commands = (user.folder / "commands").read_text()
    assert "dsx.cli.training" in commands
    assert KEY not in result.stdout + result.stderr + commands


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("moment", ["Loading", "Writing", "Starting a second", "  Streaming"])
def test_interrupt_leaves_nothing_behind(user: User, moment: str) -> None:
    process = user.start("demo")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment):
            os.killpg(process.pid, signal.SIGINT)
            break
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, "")
    assert "accuracy" not in out
    assert user.left_behind() == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_interrupt_while_cleaning_up_does_not_stop_it(user: User) -> None:
    impatient = (
        "import shutil, signal; real = shutil.rmtree\n"
        "def rmtree(*args, **kwargs): signal.raise_signal(signal.SIGINT); real(*args, **kwargs)\n"
        "shutil.rmtree = rmtree"
    )
    result = user.run("demo", prelude=impatient)
    assert (result.returncode, result.stderr) == (130, "")
    assert user.left_behind() == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_sigterm_leaves_nothing_behind(user: User) -> None:
    process = user.start("demo")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("  Streaming"):
            process.terminate()
            break
    _, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert user.left_behind() == []


def test_output_that_nobody_reads_leaves_nothing_behind(user: User) -> None:
    process = user.start("demo")
    assert process.stdout is not None
    assert process.stdout.readline() != ""
    process.stdout.close()
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert user.left_behind() == []


def test_accuracy_below_the_limit_is_a_failure(user: User) -> None:
    result = user.run("demo", prelude="import dsx.cli.demo; dsx.cli.demo.LEAST_ACCURACY = 1.01")
    assert result.returncode == 1
    assert re.fullmatch(r"dsx: the accuracy is \d+\.\d%, .*\n", result.stderr)
    assert user.left_behind() == []


def test_failure_of_the_training_process_is_one_sentence(user: User) -> None:
    wrong = "from dsx.cli import demo; real = demo.Job\n"
    wrong += "demo.Job = lambda **told: real(**told | {'dataset': 'cats'})"
    result = user.run("demo", prelude=wrong)
    assert result.returncode == 1
    assert re.fullmatch(r"dsx: .*cats.*digits.*\n", result.stderr)
    assert user.left_behind() == []


def test_killed_training_process_is_one_sentence(user: User) -> None:
    killing = "import subprocess; real = subprocess.Popen.__init__\n"
    killing += "def start(self, *args, **kwargs): real(self, *args, **kwargs); self.kill()\n"
    result = user.run("demo", prelude=killing + "subprocess.Popen.__init__ = start")
    assert result.returncode == 1
    assert re.fullmatch(r"dsx: the training process ended with status -?\d+ and no result\n", result.stderr)
    assert user.left_behind() == []


def test_interrupt_that_ends_the_training_process_too_is_quiet(user: User) -> None:
    both = "import signal, subprocess; real = subprocess.Popen.__init__\n"
    both += "def start(self, *args, **kwargs): real(self, *args, **kwargs); self.kill(); self.wait()"
    both += "; signal.raise_signal(signal.SIGINT)\n"
    result = user.run("demo", prelude=both + "subprocess.Popen.__init__ = start")
    assert (result.returncode, result.stderr) == (130, "")
    assert user.left_behind() == []


@pytest.mark.parametrize("module", ["sklearn", "PIL", "dsx_server", "fastapi"])
def test_missing_extra_gives_the_pip_line(user: User, module: str) -> None:
    result = user.run("demo", prelude=block(module))
    assert result.returncode == 2
    assert re.fullmatch(r"dsx: .*" + re.escape('pip install "dsx-hub[demo]"') + r".*\n", result.stderr)
    assert 'pip install -e ".[demo]"' in result.stderr
    assert user.left_behind() == []


@pytest.mark.parametrize("words", [(), ("demo",), ("--help",)])
def test_without_click_the_command_gives_the_pip_line(user: User, words: tuple[str, ...]) -> None:
    result = user.run(*words, prelude=block("click"))
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"dsx: .*" + re.escape('pip install "dsx-hub[cli]"') + r".*\n", result.stderr)
    assert 'pip install -e ".[cli]"' in result.stderr


@pytest.mark.parametrize("words", [("--help",), ("demo", "--help")])
def test_help_needs_neither_the_hub_nor_scikit_learn(user: User, words: tuple[str, ...]) -> None:
    result = user.run(*words, prelude=block("dsx_server", "sklearn", "PIL", "tqdm"))
    assert (result.returncode, result.stderr) == (0, "")
    assert "in under a minute" in result.stdout


def test_version_is_the_packages(user: User) -> None:
    result = user.run("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"\d+\.\d+\.\d+", result.stdout)


def test_unknown_verb_is_refused(user: User) -> None:
    result = user.run("dmeo")
    assert result.returncode == 2
    assert "dmeo" in result.stderr
    assert "Traceback" not in result.stderr


def test_digits_are_grey_png_files_in_their_class_folders(tmp_path: Path) -> None:
    paths = list(write_digits(tmp_path, load_digits()))
    targets = datasets.load_digits().target
    assert sorted(int(path.stem) for path in paths) == list(range(1797))
    assert all(int(path.parent.name) == targets[int(path.stem)] for path in paths)
    with Image.open(paths[0]) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (8, 8))


def test_split_is_the_same_each_time_and_even_over_classes() -> None:
    names = list(load_digits())
    assert names == list(load_digits())
    for label in range(10):
        test = sum(name.startswith(f"test/{label}/") for name in names)
        train = sum(name.startswith(f"train/{label}/") for name in names)
        assert test / (test + train) == pytest.approx(0.25, abs=0.01)


def test_missing_pillow_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"dsx-hub\[demo\]"):
        load_digits()


def test_table_gives_every_second_a_row() -> None:
    table = format_table([Step(name="streaming", seconds=2.0, files=500), Step(name="training", seconds=0.5)], 4.0)
    assert table.splitlines() == [
        "  streaming                2.00 s     500 files      250 files/s",
        "  training                 0.50 s",
        "  starting and stopping    1.50 s",
        "  total                    4.00 s",
    ]
