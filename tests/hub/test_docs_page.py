"""``/docs``, ``/openapi.json`` and ``/health``: what anybody may see."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.metadata import version
from typing import Any

import pytest

from tests.conftest import HubProcess
from tests.hub.conftest import ask

ENDPOINTS = {
    "/health": {"get"},
    "/datasets": {"get"},
    "/datasets/{dataset}": {"get"},
    "/manifest/{dataset}": {"get"},
    "/file/{dataset}/{path}": {"get", "head"},
}
NEED_NO_KEY = {"/health"}


@pytest.fixture
def description(shared_hub: HubProcess) -> Any:
    """The OpenAPI document."""
    return shared_hub.get("/openapi.json").json()


class References(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def page(hub: HubProcess) -> str:
    """Fetch ``/docs`` without a key."""
    answer = ask(hub, b"/docs", key=None)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    return answer.body.decode()


def test_page_refers_to_no_other_host(shared_hub: HubProcess) -> None:
    html = page(shared_hub)
    assert re.findall(r"""(?:https?:)?//[^\s"'<>]+""", re.sub(r"//[^\n\"']*\n", "\n", html)) == []
    assert "http://" not in html
    assert "https://" not in html


def test_every_file_that_the_page_refers_to_is_served_without_a_key(shared_hub: HubProcess) -> None:
    references = References()
    references.feed(page(shared_hub))
    assert any(reference.endswith(".js") for reference in references.found)
    assert any(reference.endswith(".css") for reference in references.found)
    for reference in references.found:
        answer = ask(shared_hub, reference.encode(), key=None)
        assert answer.status == 200
        assert answer.is_whole
        assert answer.body


def test_page_reads_the_openapi_document_of_this_hub(shared_hub: HubProcess) -> None:
    assert "/openapi.json" in page(shared_hub)
    assert ask(shared_hub, b"/openapi.json", key=None).headers["content-type"] == "application/json"


def test_every_endpoint_is_described(description: Any) -> None:
    found = {
        path: set(operations) & {"get", "head", "post", "put"} for path, operations in description["paths"].items()
    }
    for path, methods in ENDPOINTS.items():
        assert methods <= found.get(path, set()), path


def test_bearer_key_is_the_one_security_scheme(description: Any) -> None:
    schemes = list(description["components"]["securitySchemes"].values())
    assert [(scheme["type"], scheme["scheme"].lower()) for scheme in schemes] == [("http", "bearer")]


def test_every_operation_but_health_needs_the_scheme(description: Any) -> None:
    name = next(iter(description["components"]["securitySchemes"]))
    for path, operations in description["paths"].items():
        for operation in operations.values():
            assert operation.get("security", []) == ([] if path in NEED_NO_KEY else [{name: []}]), path


def test_every_operation_has_a_summary_and_an_id_of_its_own(description: Any) -> None:
    operations = [operation for methods in description["paths"].values() for operation in methods.values()]
    assert all(operation["summary"] for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_every_parameter_of_a_path_is_described(description: Any) -> None:
    for path, operations in description["paths"].items():
        for operation in operations.values():
            found = {item["name"] for item in operation.get("parameters", []) if item["in"] == "path"}
            assert found == set(re.findall(r"{(\w+)}", path))


def test_every_reference_in_the_description_leads_somewhere(description: Any) -> None:
    text = repr(description)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in description["components"]["schemas"]


def test_health_is_ok_and_says_the_version(shared_hub: HubProcess) -> None:
    answer = shared_hub.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": version("dsx-hub")})


def test_version_of_the_description_is_that_of_the_package(description: Any) -> None:
    assert description["info"]["version"] == version("dsx-hub")


def test_head_of_health_has_no_body(shared_hub: HubProcess) -> None:
    answer = ask(shared_hub, b"/health", method=b"HEAD", key=None)
    assert (answer.status, answer.body) == (200, b"")


def test_unknown_route_is_a_problem_that_points_to_the_docs(shared_hub: HubProcess) -> None:
    answer = shared_hub.get("/no/such/route")
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (404, 404, "route_not_found")
    assert "/docs" in problem["detail"]
    assert problem["title"] == "Not Found"
    assert problem["request_id"] == answer.headers["x-request-id"]
