"""The front door of the SDK: what it offers, and that it offers nothing else by accident."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import dsx
import dsx_server
from dsx import errors

DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ROOT = Path(__file__).resolve().parents[2]


def test_all_is_sorted_and_complete() -> None:
    assert list(dsx.__all__) == sorted(dsx.__all__)
    assert all(hasattr(dsx, name) for name in dsx.__all__)


def test_public_names_of_the_sdk_are_these() -> None:
    classes = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == "dsx.errors"
    }
    others = {
        "DatasetDiff",
        "DatasetHubClient",
        "Manifest",
        "ManifestEntry",
        "RevisionInfo",
        "Sample",
        "SampleStream",
        "StreamStats",
        "__version__",
    }
    assert set(dsx.__all__) == others | (classes - {"Problem"})


def test_public_names_of_the_hub_are_these() -> None:
    assert set(dsx_server.__all__) == {
        "BackgroundHub",
        "Settings",
        "SettingsError",
        "create_app",
        "end_process",
        "serve",
        "serve_background",
    }


def test_every_public_function_and_class_says_what_it_is() -> None:
    silent = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(path.read_text())
        public = [n for n in tree.body if isinstance(n, DEFINITIONS) and not n.name.startswith("_")]
        methods = [f for c in public if isinstance(c, ast.ClassDef) for f in c.body if isinstance(f, DEFINITIONS)]
        nodes = [tree, *public, *(method for method in methods if not method.name.startswith("_"))]
        silent += [f"{path.name}:{getattr(n, 'name', 'module')}" for n in nodes if ast.get_docstring(n) is None]
    assert silent == []


def test_every_exception_to_a_rule_has_its_reason() -> None:
    bare = []
    for path in [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "server").rglob("*.py"))]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"#\s*(noqa|type:\s*ignore|pragma:\s*no cover)", line) and " -- " not in line:
                bare.append(f"{path.name}:{number}")
    assert bare == []


def test_rooms_are_small() -> None:
    large = {path.name: path.read_text().count("\n") for path in (ROOT / "src").rglob("*.py")}
    assert {name: lines for name, lines in large.items() if lines > 400} == {}
