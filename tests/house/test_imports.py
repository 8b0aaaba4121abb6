"""The rooms and the direction of their imports, read from the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"

# From the floor up; a module may import from lower tiers only. A new module finds its place here first.
DSX_TIERS = [
    {"dsx.errors", "dsx.protocol.version", "dsx.protocol.text"},
    {
        "dsx.protocol",
        "dsx.protocol.paths",
        "dsx.protocol.digests",
        "dsx.protocol.checksums",
        "dsx.protocol.globs",
        "dsx.protocol.frames",
    },
    {"dsx.protocol.models"},
    {"dsx._columns"},
    {"dsx._columns_json", "dsx._logins"},
    {
        "dsx.config",
        "dsx.manifest",
        "dsx._process",
        "dsx._retry",
        "dsx._disk",
        "dsx._progress",
        "dsx._problems",
        "dsx._link",
        "dsx._sinks",
        "dsx.order",
        "dsx._meter",
        "dsx._ledger_file",
        "dsx._state",
    },
    {"dsx._way", "dsx._crew"},
    {
        "dsx._transport",
        "dsx._ledger",
        "dsx._partials",
        "dsx._manifest_files",
        "dsx._scan",
        "dsx._reads",
        "dsx._pattern",
    },
    {"dsx._layout", "dsx._published", "dsx._wanted", "dsx._ranges", "dsx._walk", "dsx._run", "dsx._quota"},
    {"dsx._digests", "dsx._selecting", "dsx._cache_parts"},
    {"dsx._cache", "dsx._fetch", "dsx._revisions"},
    {"dsx._manifests", "dsx._download", "dsx._cleaning", "dsx._batch", "dsx._folders"},
    {"dsx._pace", "dsx._offline", "dsx._inventory", "dsx._publishing", "dsx._mirror"},
    {"dsx._ahead", "dsx._readahead"},
    {"dsx._download_many", "dsx._single", "dsx._access", "dsx._kept", "dsx._placed"},
    {"dsx._source", "dsx._pull", "dsx._verify"},
    {"dsx.stream"},
    {"dsx.client"},
    {"dsx", "dsx._images", "dsx._labels", "dsx._plan"},
    {"dsx.data"},
    {"dsx.torch"},
    {"dsx.cli"},
    {"dsx.cli.__main__"},
]
SERVER_TIERS = [
    {
        "dsx_server.filesystems",
        "dsx_server.access_log",
        "dsx_server.activity",
        "dsx_server.auth",
        "dsx_server.keys",
        "dsx_server.problems",
    },
    {"dsx_server.settings", "dsx_server.storage"},
    {"dsx_server.index"},
    {"dsx_server.routes", "dsx_server.backstage", "dsx_server.remote"},
    {"dsx_server.front"},
    {"dsx_server.app"},
    {"dsx_server.process"},
    {"dsx_server.workers"},
    {"dsx_server.run"},
    {"dsx_server"},
]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(SRC.rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def imports_of(path: Path) -> set[str]:
    """Every module that ``path`` imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
    return found


def tier_of(module: str, tiers: list[set[str]]) -> int | None:
    """The tier of the longest listed name that ``module`` is or lies in; the two roots stand for themselves only."""
    best: tuple[int, int] | None = None
    for number, names in enumerate(tiers):
        for name in names:
            lies_in = module.startswith(name + ".") and name not in ("dsx", "dsx_server", "dsx.protocol")
            if (module == name or lies_in) and (best is None or len(name) > best[0]):
                best = (len(name), number)
    return None if best is None else best[1]


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_point_down(name: str, path: Path) -> None:
    root = name.split(".")[0]
    tiers = DSX_TIERS if root == "dsx" else SERVER_TIERS
    own = tier_of(name, tiers)
    assert own is not None, f"{name} has no tier: give it one in this file"
    for imported in imports_of(path):
        if imported.split(".")[0] != root:
            continue
        other = tier_of(imported, tiers)
        same_room = ".".join(name.split(".")[:2]) == ".".join(imported.split(".")[:2]) and imported.count(".") >= 2
        assert other is not None, f"{name} imports {imported}, which has no tier"
        assert other < own or same_room, f"{name} imports {imported}, which is not below it"


def test_there_are_no_import_cycles() -> None:
    graph = {
        name: {i for i in imports_of(path) if i.split(".")[0] in ("dsx", "dsx_server")} for name, path in modules()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert len(done) >= len(graph)


def test_server_uses_only_errors_and_protocol_of_the_sdk() -> None:
    for name, path in modules():
        if name.split(".")[0] == "dsx_server":
            theirs = {i for i in imports_of(path) if i.split(".")[0] == "dsx"}
            assert all(i == "dsx.errors" or i.startswith("dsx.protocol") for i in theirs), (name, theirs)


def test_sdk_imports_the_server_nowhere_but_in_the_command() -> None:
    users = {name for name, path in modules() if any(i.startswith("dsx_server") for i in imports_of(path))}
    assert {name for name in users if name.startswith("dsx.")} <= {"dsx.cli.demo", "dsx.cli.serve"}


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("fastapi", ("dsx_server.routes.", "dsx_server.problems", "dsx_server.app")),
        ("fastapi_offline", ("dsx_server.app",)),
        ("sqlite3", ("dsx_server.index.", "dsx._ledger")),
        ("requests", ("dsx._transport", "dsx._way")),
        ("urllib3", ("dsx._transport", "dsx._way")),
        ("uvicorn", ("dsx_server.process",)),
        ("psutil", ("dsx_server.filesystems",)),
        ("watchfiles", ("dsx_server.index.watch_process",)),
        ("multiprocessing", ("dsx_server.workers", "dsx_server.remote")),
        ("dotenv", ("dsx_server.settings",)),
        ("click", ("dsx.cli.",)),
        ("torch", ("dsx.torch",)),
    ],
)
def test_library_stays_in_its_room(library: str, rooms: tuple[str, ...]) -> None:
    users = {name for name, path in modules() if library in {i.split(".")[0] for i in imports_of(path)}}
    assert users, f"nobody uses {library}: take it out of this test"
    assert {name for name in users if not name.startswith(rooms) and name not in rooms} == set()


def test_environment_is_read_in_the_two_settings_files_only() -> None:
    readers = set()
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"):
                readers.add(name)
    assert readers == {"dsx.config", "dsx_server.settings"}


@pytest.mark.parametrize("module", ["dsx", "dsx_server", "dsx.cli"])
def test_nothing_happens_at_import(module: str, tmp_path: Path) -> None:
    code = (
        "import os, socket, sys\n"
        "def refuse(*args, **kwargs): raise SystemExit('network at import')\n"
        "socket.socket.connect = refuse\n"
        "seen = []\n"
        "watched = ('os.mkdir', 'sqlite3.connect')\n"
        "sys.addaudithook(lambda event, args: seen.append(args) if event in watched else None)\n"
        f"import {module}\n"
        "made = [args for args in seen if '__pycache__' not in str(args)]\n"
        "sys.exit(str(made) if made or os.listdir('.') else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
