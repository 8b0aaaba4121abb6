"""Documentation that cannot rot: what exists is documented, and what is documented exists."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import dsx
from dsx import errors
from dsx_server import Settings, create_app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def read(name: str) -> str:
    return (ROOT / name).read_text()


def code_variables() -> set[str]:
    text = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    return set(re.findall(r'"(DSX_[A-Z_]+)"', text))


@pytest.mark.parametrize("variable", sorted(code_variables()))
def test_every_variable_is_documented(variable: str) -> None:
    assert f"`{variable}`" in read("docs/configuration.md")


def test_every_documented_variable_exists() -> None:
    documented = set(re.findall(r"DSX_[A-Z_]+", read("docs/configuration.md") + read("README.md")))
    assert documented <= code_variables()


def test_documented_defaults_are_the_defaults() -> None:
    rows = dict(re.findall(r"\| `(DSX_\w+)` \| \w+ \| `?([^`|]*?)`? \|", read("docs/configuration.md")))
    assert rows["DSX_PORT"] == str(Settings.port)
    assert rows["DSX_HOST"] == Settings.host
    assert rows["DSX_LOG_LEVEL"] == Settings.log_level
    assert rows["DSX_WORKERS"] == str(Settings.workers)
    assert float(rows["DSX_RESCAN_S"]) == Settings.rescan_s
    assert rows["DSX_WATCH"] == ("on" if Settings.watch else "off")
    assert rows["DSX_DIGESTS"] == Settings.digests


@pytest.fixture
def openapi(tmp_path: Path) -> dict[str, object]:
    """The OpenAPI document of a hub."""
    (tmp_path / "served").mkdir()
    front = create_app(Settings(api_key="k", dataset_path=tmp_path / "served", state_dir=tmp_path / "state"))
    app = front._app
    front.close()
    return app.openapi()  # type: ignore[attr-defined, no-any-return]


def test_every_endpoint_is_documented(openapi: dict[str, dict[str, object]]) -> None:
    text = read("docs/http-api.md")
    missing = [path for path in openapi["paths"] if f"{path}`" not in text]
    assert missing == []


def test_every_documented_endpoint_exists(openapi: dict[str, dict[str, object]]) -> None:
    documented = set(re.findall(r"^## `(?:GET|POST) (/[^`]*)`", read("docs/http-api.md"), re.MULTILINE))
    pages = {"/docs", "/openapi.json"}
    assert documented - pages == set(openapi["paths"])


def test_every_public_call_is_documented() -> None:
    text = read("docs/python-api.md")
    calls = [name for name, value in inspect.getmembers(dsx.DatasetHubClient, inspect.isfunction) if name[0] != "_"]
    assert [name for name in calls if f"`{name}(" not in text] == []


def test_every_error_is_documented_with_its_builtin_and_retryable() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|.*\| (yes|no)[^|]*\|$", read("docs/errors.md"), re.MULTILINE)
    documented = {name: (parent, retry == "yes") for name, parent, retry in rows}
    classes = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    real = {
        name: value
        for name, value in classes.items()
        if issubclass(value, errors.DsxError) and value is not errors.DsxError
    }
    assert set(documented) == set(real)
    for name, (parent, retryable) in documented.items():
        assert parent in {base.__name__ for base in real[name].__mro__}, name
        assert real[name].retryable == retryable, name


def test_every_code_is_documented_with_its_status_and_class() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| `(\w+)` \|$", read("docs/errors.md"), re.MULTILINE)
    assert {code: (int(status), name) for code, status, name in rows} == {
        code: (problem.status, problem.error.__name__) for code, problem in errors.PROBLEMS.items()
    }


def test_every_reason_for_leaving_out_is_documented() -> None:
    text = "".join(path.read_text() for path in (ROOT / "src/dsx_server").rglob("*.py"))
    reasons = set(re.findall(r'left_out\["(\w+)"\]', text)) | {"link_loop", "link_outside"}
    documented = set(re.findall(r"^\| `(\w+)` \| ", read("docs/http-api.md"), re.MULTILINE))
    assert reasons <= documented


@pytest.mark.parametrize(
    "page",
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in DOCS.glob("*.md"))],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", read(page)):
        assert ((ROOT / page).parent / target).exists(), target


def test_architecture_draws_every_module() -> None:
    text = read("ARCHITECTURE.md")
    tops = {
        path.name if path.is_file() else f"{path.name}/"
        for path in (ROOT / "src").glob("*/*")
        if path.suffix != ".typed"
    }
    tops -= {"__init__.py", "__pycache__/"}
    assert {name for name in tops if name not in text} == set()


def test_readme_has_the_two_commands_and_ci_runs_the_second() -> None:
    readme = read("README.md")
    test_command = 'pip install -e ".[dev]" && pytest -n 4'
    assert 'pip install -e ".[demo]" && dsx demo' in readme
    assert test_command in readme
    assert f"\n{test_command}\n" in read(".ci/run")


def test_decisions_are_at_most_forty_lines() -> None:
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert pages
    assert [page.name for page in pages if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", page.name)] == []
    assert {page.name: n for page in pages if (n := page.read_text().count("\n")) > 40} == {}


def test_python_in_the_docs_compiles() -> None:
    blocks = []
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        blocks += [(page.name, code) for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert blocks
    for name, code in blocks:
        compile(code, name, "exec")
