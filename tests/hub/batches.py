"""Batches as the hub's tests ask for them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dsx.protocol.frames import FRAMES_TYPE, Piece, Status, decode_frames
from tests.conftest import KEY, HubProcess
from tests.hub.conftest import WAIT_S, InProcessHub

ANY_SIZE = 2**62


class Got(NamedTuple):
    """One frame, with its pieces joined."""

    status: Status
    payload: bytes

    @property
    def code(self) -> str:
        """The code of a problem."""
        return str(json.loads(self.payload)["code"])

    @property
    def detail(self) -> str:
        """The words of a problem."""
        return str(json.loads(self.payload)["detail"])


class BatchConnection:
    """One connection to a hub on which batches are asked for."""

    def __init__(self, hub: HubProcess | InProcessHub) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=WAIT_S)

    def send(self, dataset: str, body: object, *, key: str | None = KEY, **headers: str) -> http.client.HTTPResponse:
        """Send a request; ``body`` is bytes as they are, or what becomes JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        self.http.request("POST", f"/batch/{dataset}", data, sent)
        return self.http.getresponse()

    def read(self, dataset: str, body: dict[str, Any]) -> list[Got]:
        """Ask for a batch and read it to its end."""
        answer = self.send(dataset, body)
        assert answer.status == 200, answer.read()
        assert answer.headers["content-type"] == FRAMES_TYPE
        return list(read_frames(answer, len(body.get("paths", body.get("reads")))))

    def close(self) -> None:
        """End the connection."""
        self.http.close()


def read_frames(answer: http.client.HTTPResponse, count: int) -> Iterator[Got]:
    """Yield the frames of an answer."""
    long = bytearray()
    for part in decode_frames(iter(lambda: answer.read(1 << 20), b""), [ANY_SIZE] * count):
        if isinstance(part, Piece):
            long += part.data
        else:
            yield Got(part.status, bytes(long) if part.payload is None else part.payload)
            long.clear()


def read_batch(hub: HubProcess | InProcessHub, dataset: str, **body: Any) -> list[Got]:
    """Ask for a batch on a connection of its own."""
    connection = BatchConnection(hub)
    try:
        return connection.read(dataset, body)
    finally:
        connection.close()


def refuse_batch(hub: HubProcess | InProcessHub, dataset: str, body: object, **options: Any) -> tuple[int, str]:
    """Ask for a batch that is refused as a whole; return status and code."""
    connection = BatchConnection(hub)
    try:
        answer = connection.send(dataset, body, **options)
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status, json.loads(answer.read())["code"]
    finally:
        connection.close()


def statuses(found: Sequence[Got]) -> list[str]:
    """Return the names of the statuses."""
    return [got.status.name for got in found]
