"""The way to the hub: through proxies that the environment names, and over TLS that can be trusted."""

from __future__ import annotations

import base64
import http.server
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dsx.client
from dsx import DatasetHubClient, HubUnreachableError
from tests.conftest import KEY

from .scripted import HonestScript, Reply, Request, ScriptedHub, answer

Connect = Callable[..., DatasetHubClient]
StartScripted = Callable[[Callable[[Request], Reply]], ScriptedHub]

ELSEWHERE = "http://hub.invalid:8000"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(dsx.client, "FIRST_CONTACT_S", 0.1)


@pytest.fixture
def proxy(start_scripted: StartScripted) -> ScriptedHub:
    """A proxy that answers what it is asked by itself: as the hub ``hub.invalid`` would."""
    honest = HonestScript({"x": b"1"})
    return start_scripted(lambda request: honest(request._replace(target=request.target.removeprefix(ELSEWHERE))))


def test_proxy_of_the_environment_is_told_the_whole_url(
    connect: Connect, proxy: ScriptedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://somebody:secret@127.0.0.1:{proxy.port}")
    client = connect(ELSEWHERE)
    assert client.list_datasets() == ["cats"]
    assert client.get_file_bytes("cats", "x") == b"1"
    assert [request.target for request in proxy.requests] == [f"{ELSEWHERE}/datasets", f"{ELSEWHERE}/file/cats/x"]
    assert {request.headers["authorization"] for request in proxy.requests} == {f"Bearer {KEY}"}
    said = base64.b64encode(b"somebody:secret").decode()
    assert {request.headers["proxy-authorization"] for request in proxy.requests} == {f"Basic {said}"}


def test_folder_in_the_address_is_kept(connect: Connect, start_scripted: StartScripted) -> None:
    hub = start_scripted(HonestScript({}))
    hub.script = lambda request: HonestScript({})(request._replace(target=request.target.removeprefix("/data/hub")))
    assert connect(f"{hub.url}/data/hub/").list_datasets() == ["cats"]
    assert hub.requests[0].target == "/data/hub/datasets"


@pytest.mark.parametrize("without", ["hub.invalid", "*"])
def test_host_that_needs_no_proxy_is_asked_itself(
    connect: Connect, proxy: ScriptedHub, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", without)
    with pytest.raises(HubUnreachableError, match=r"hub\.invalid"):
        connect(ELSEWHERE).list_datasets()
    assert proxy.requests == []


def test_this_machine_is_never_asked_through_a_proxy(
    connect: Connect, proxy: ScriptedHub, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    hub = start_scripted(HonestScript({}))
    assert connect(hub.url).list_datasets() == ["cats"]
    assert proxy.requests == []


def test_proxy_is_asked_for_a_tunnel_to_a_hub_with_tls_and_not_told_the_key(
    connect: Connect, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_scripted(lambda _: answer(403))
    monkeypatch.setenv("https_proxy", proxy.url)
    with pytest.raises(HubUnreachableError, match=r"through the proxy 127\.0\.0\.1"):
        connect("https://hub.invalid").list_datasets()
    assert {(request.method, request.target) for request in proxy.requests} == {("CONNECT", "hub.invalid:443")}
    assert [request for request in proxy.requests if "authorization" in request.headers] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of ``localhost`` that only whoever is told of it trusts, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return Path(f"{file}.crt")


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    """A port where something speaks TLS with that certificate, and has no datasets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """Say nothing of clients that do not trust it."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(""))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_certificate_that_is_not_trusted_is_an_error_at_once(connect: Connect, tls_port: int) -> None:
    with pytest.raises(HubUnreachableError, match="certificate") as caught:
        connect(f"https://localhost:{tls_port}").list_datasets()
    assert not caught.value.retryable


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificate_that_the_environment_trusts_is_trusted(
    connect: Connect, tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(certificate))
    assert connect(f"https://localhost:{tls_port}").list_datasets() == []


def test_certificate_that_requests_trusts_is_trusted(
    connect: Connect, tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))
    assert connect(f"https://localhost:{tls_port}").list_datasets() == []


def test_certificate_of_another_host_is_an_error(
    connect: Connect, tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with pytest.raises(HubUnreachableError, match=r"127\.0\.0\.1"):
        connect(f"https://127.0.0.1:{tls_port}").list_datasets()
