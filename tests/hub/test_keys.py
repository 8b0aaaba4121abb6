"""Who gets in: the right key in the right header, and nobody else."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from dsx_server import Settings
from dsx_server.app import create_app
from tests.conftest import KEY, HubProcess, write_files
from tests.hub.conftest import Answer, ask

PROTECTED = [
    b"/datasets",
    b"/datasets/cats",
    b"/datasets/no-such",
    b"/manifest/cats",
    b"/manifest/no-such",
    b"/file/cats/x",
    b"/file/cats/no-such",
    b"/file/no-such/x",
    b"/file/cats/../x",
    b"/file/cats/%00",
    b"/file/cats/%ff",
    b"/no/such/route",
    b"/",
    b"/docs/x",
    b"/health/x",
    b"/healthy",
]
WRONG = {
    "missing": [],
    "empty": [b"Authorization:"],
    "scheme only": [b"Authorization: Bearer"],
    "scheme and a space": [b"Authorization: Bearer "],
    "no scheme": [b"Authorization: " + KEY.encode()],
    "other scheme": [b"Authorization: Basic " + KEY.encode()],
    "other scheme that begins alike": [b"Authorization: BearerX " + KEY.encode()],
    "no space": [b"Authorization: Bearer" + KEY.encode()],
    "prefix": [b"Authorization: Bearer " + KEY[:-1].encode()],
    "longer": [b"Authorization: Bearer " + KEY.encode() + b"x"],
    "other case": [b"Authorization: Bearer " + KEY.upper().encode()],
    "quoted": [b'Authorization: Bearer "' + KEY.encode() + b'"'],
    "twice in one": [b"Authorization: Bearer " + KEY.encode() + b" " + KEY.encode()],
    "list": [b"Authorization: Bearer " + KEY.encode() + b", Bearer " + KEY.encode()],
    "not ascii": [b"Authorization: Bearer \xc3\xa9\xff"],
    "tab": [b"Authorization: Bearer\t" + KEY.encode()],
    "long": [b"Authorization: Bearer " + b"x" * 60_000],
    "long after the right one": [b"Authorization: Bearer " + KEY.encode() + b"x" * 10_000],
    "doubled, right first": [b"Authorization: Bearer " + KEY.encode(), b"Authorization: Bearer x"],
    "doubled, right last": [b"Authorization: Bearer x", b"Authorization: Bearer " + KEY.encode()],
    "doubled, both right": [b"Authorization: Bearer " + KEY.encode()] * 2,
    "other header": [b"X-Api-Key: " + KEY.encode()],
    "cookie": [b"Cookie: Authorization=Bearer " + KEY.encode()],
    "proxy header": [b"Proxy-Authorization: Bearer " + KEY.encode()],
}


@pytest.fixture(scope="module")
def door(shared_hub: HubProcess, shared_served: Path) -> HubProcess:
    """A hub with one dataset."""
    write_files(shared_served, {"cats/x": b"canary"})
    return shared_hub


def comparable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    """Leave out what differs between any two answers."""
    return answer.status, {k: v for k, v in answer.headers.items() if k not in ("date", "x-request-id")}, answer.body


def test_right_key_opens(door: HubProcess) -> None:
    assert ask(door, b"/file/cats/x").body == b"canary"


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
def test_case_of_the_scheme_does_not_matter(door: HubProcess, scheme: bytes) -> None:
    headers = [b"Authorization: " + scheme + b" " + KEY.encode()]
    assert ask(door, b"/datasets", key=None, headers=headers).status == 200


@pytest.mark.parametrize("line", [b"AUTHORIZATION: Bearer %s", b"authorization:   Bearer   %s  "])
def test_case_of_the_header_and_spaces_around_do_not_matter(door: HubProcess, line: bytes) -> None:
    assert ask(door, b"/datasets", key=None, headers=[line % KEY.encode()]).status == 200


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_every_wrong_key_gets_the_same_answer(door: HubProcess, wrong: str) -> None:
    expected = ask(door, b"/datasets", key=None, headers=[b"Authorization: Bearer some-wrong-key"])
    answer = ask(door, b"/file/cats/x", key=None, headers=WRONG[wrong])
    assert comparable(answer) == comparable(expected)
    assert answer.status == 401


@pytest.mark.parametrize("target", PROTECTED, ids=bytes.decode)
def test_every_protected_path_gets_the_same_answer_existing_or_not(door: HubProcess, target: bytes) -> None:
    expected = ask(door, b"/datasets", key=None)
    assert comparable(ask(door, target, key=None)) == comparable(expected)
    assert expected.status == 401


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE"])
def test_every_method_needs_the_key(door: HubProcess, method: bytes) -> None:
    expected = ask(door, b"/datasets", key=None)
    assert comparable(ask(door, b"/file/cats/x", method=method, key=None)) == comparable(expected)


def test_head_without_a_key_is_401_without_a_body(door: HubProcess) -> None:
    answer = ask(door, b"/file/cats/x", method=b"HEAD", key=None)
    assert (answer.status, answer.body) == (401, b"")


def test_refusal_says_which_scheme_is_wanted(door: HubProcess) -> None:
    answer = ask(door, b"/datasets", key=None)
    assert answer.headers["www-authenticate"].split()[0] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"Authorization: Bearer" in answer.body


def test_refusal_names_neither_path_nor_key(door: HubProcess) -> None:
    answer = ask(door, b"/file/cats/very-secret", key="almost-right")
    raw = repr(answer)
    assert "very-secret" not in raw
    assert "almost-right" not in raw


@pytest.mark.parametrize("name", ["key", "api_key", "token", "access_token", "Authorization"])
def test_key_in_the_query_does_not_open(door: HubProcess, name: str) -> None:
    assert ask(door, f"/datasets?{name}={KEY}".encode(), key=None).status == 401


def test_key_of_a_megabyte_does_not_open_and_does_not_harm(door: HubProcess) -> None:
    answer = ask(door, b"/datasets", key="x" * 1_000_000)
    assert 400 <= answer.status < 500
    assert ask(door, b"/datasets").status == 200


@pytest.mark.parametrize("target", [b"/health", b"/docs", b"/openapi.json"])
@pytest.mark.parametrize("key", [None, "wrong", KEY])
def test_public_paths_need_no_key(door: HubProcess, target: bytes, key: str | None) -> None:
    assert ask(door, target, key=key).status == 200


@pytest.mark.parametrize(
    "target",
    [
        b"/health/../datasets",
        b"/docs/../datasets",
        b"/docs/%2e%2e/datasets",
        b"/static-offline-docs/../datasets",
        b"/static-offline-docs/..%2fdatasets",
        b"/static-offline-docs/%2e%2e/file/cats/x",
        b"//datasets",
        b"/datasets/",
        b"/./datasets",
        b"/%64atasets",
        b"/Datasets",
        b"/datasets;/health",
        b"/datasets?/health",
        b"/datasets%3f/health",
        b"/datasets#/health",
        b"http://hub/datasets",
        b"http://hub/health/../file/cats/x",
    ],
    ids=bytes.decode,
)
def test_no_spelling_of_a_path_gets_past_the_door(door: HubProcess, target: bytes) -> None:
    answer = ask(door, target, key=None)
    assert answer.status in (400, 401, 404)
    assert b'"cats"' not in answer.body
    assert b"canary" not in answer.body


def test_method_override_headers_change_nothing(door: HubProcess) -> None:
    headers = [b"X-Original-URL: /health", b"X-Rewrite-URL: /health", b"X-Forwarded-For: 127.0.0.1"]
    assert ask(door, b"/datasets", key=None, headers=headers).status == 401


def test_upgrade_to_a_websocket_does_not_get_past_the_door(door: HubProcess) -> None:
    upgrade = [
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    assert ask(door, b"/file/cats/x", key=None, headers=upgrade).status == 401


@pytest.mark.parametrize("key", ["two  words", "'\"`\\{}[]()<>:;/+==", "~!@#$%^&*|,.?_-%25", "x" * 5000])
def test_key_may_hold_any_printable_ascii(start_hub: Callable[..., HubProcess], key: str) -> None:
    hub = start_hub(key=key)
    assert ask(hub, b"/datasets", key=key).status == 200
    assert ask(hub, b"/datasets", key=key[:-1] + "_").status == 401


def test_key_is_in_no_answer_and_not_in_the_log(served: Path, start_hub: Callable[..., HubProcess]) -> None:
    write_files(served, {"cats/x": b"x"})
    hub = start_hub(DSX_LOG_LEVEL="debug")
    targets = [
        b"/datasets",
        b"/datasets?api_key=" + KEY.encode(),
        b"/manifest/cats?format=" + b"x",
        b"/file/cats/x",
        b"/file/cats/y",
        b"/file/cats/..",
        b"/docs",
        b"/openapi.json",
        b"/nothing",
        b"/%ff",
    ]
    for target in targets:
        assert KEY not in repr(ask(hub, target))
        assert KEY not in repr(ask(hub, target, key=KEY + "x"))
    ask(hub, b"/datasets", key=None, headers=[b"Authorization: Bearer " + KEY.encode()] * 2)
    hub.stop()
    assert KEY not in hub.log
    assert "/datasets" in hub.log


def test_key_is_not_in_the_repr_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    settings = Settings(api_key=KEY, dataset_path=tmp_path / "served", state_dir=tmp_path / "state")
    assert KEY not in repr(settings)
    assert KEY not in str(settings)


def test_key_is_not_in_the_state_folder(served: Path, tmp_path: Path, start_hub: Callable[..., HubProcess]) -> None:
    write_files(served, {"cats/x": b"x"})
    hub = start_hub()
    hub.get("/manifest/cats")
    hub.stop()
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_refused_requests_leave_nothing_behind_in_memory(tmp_path: Path) -> None:
    class Scope(dict[str, object]):
        """A dict that can be watched."""

    (tmp_path / "served").mkdir()
    app = create_app(Settings(api_key=KEY, dataset_path=tmp_path / "served", state_dir=tmp_path / "state"))
    watched: list[weakref.ref[Scope]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        pass

    async def refuse() -> None:
        for _ in range(50):
            scope = Scope(
                type="http",
                method="GET",
                path="/datasets",
                raw_path=b"/datasets",
                query_string=b"",
                headers=[],
                client=None,
            )
            watched.append(weakref.ref(scope))
            await app(scope, receive, send)  # type: ignore[arg-type]  # a dict, as ASGI wants

    asyncio.run(refuse())
    gc.collect()
    alive = sum(reference() is not None for reference in watched)
    assert alive <= 1


def test_request_id_is_in_the_header_and_in_the_log_line(door: HubProcess) -> None:
    answer = ask(door, b"/datasets", key=None)
    assert re.fullmatch(r"[0-9a-f]+", answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] != ask(door, b"/datasets", key=None).headers["x-request-id"]
    assert f"id={answer.headers['x-request-id']}" in door.log
