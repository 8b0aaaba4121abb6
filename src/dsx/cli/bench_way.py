"""``dsx bench``: the way to the hub, without any file."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from statistics import median
from urllib.parse import urlsplit

from dsx._transport import SMALL_BODY_BYTES, Transport
from dsx._way import is_loopback
from dsx.cli.bench_clock import Clock
from dsx.cli.bench_measures import Way

CONNECTIONS = 5
CONNECT_TIMEOUT_S = 2.0
HEALTH_TIMEOUT_S = 10.0

MOST_ROUND_TRIPS = 300
LEAST_ROUND_TRIPS = 3

FREE_RATIO = 1.5
"""A round trip of at most so many times the usual one says that nothing else is on the link."""


def measure_way(transport: Transport, limit_s: float) -> Way:
    """Measure how long it takes to connect, and to ask and be answered.

    Args:
        transport: The hub.
        limit_s: How long, in s, round trips are made.

    Raises:
        DsxError: The hub does not answer.
    """
    durations_s, is_own = _connect(transport.url)
    round_trips_s = _make_round_trips(transport, limit_s)
    return Way(
        is_loopback=is_own or is_loopback(transport.url),
        connect_ms=1000 * median(durations_s) if durations_s else None,
        round_trip_ms=1000 * median(round_trips_s),
        round_trip_p99_ms=1000 * _find_p99(round_trips_s),
    )


def settle(transport: Transport, way: Way, limit_s: float) -> None:
    """Wait until the link is free of what was sent and is not wanted any more, but no longer than that, in s.

    A transfer that ends early leaves what is under way behind: much, where a tunnel or a router holds it.
    """
    clock = Clock(limit_s)
    while clock.left_s > 0:
        began = time.perf_counter()
        transport.get_body("/health", timeout_s=HEALTH_TIMEOUT_S, limit=SMALL_BODY_BYTES)
        if 1000 * (time.perf_counter() - began) <= max(FREE_RATIO * way.round_trip_ms, way.round_trip_p99_ms):
            return


def _connect(url: str) -> tuple[list[float], bool]:
    """Make some connections; return how long each took, in s, and whether the other end is this machine."""
    parts = urlsplit(url)
    place = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    durations_s: list[float] = []
    is_own = False
    with suppress(OSError):  # requests may go through a proxy; if there is no way at all, the next one says so
        for _ in range(CONNECTIONS):
            began = time.perf_counter()
            with socket.create_connection(place, CONNECT_TIMEOUT_S) as connection:
                durations_s.append(time.perf_counter() - began)
                is_own = connection.getpeername()[0] == connection.getsockname()[0]
    return durations_s, is_own


def _make_round_trips(transport: Transport, limit_s: float) -> list[float]:
    """Return how long each of some round trips took, in s; the first one, which connects, does not count."""
    transport.get_body("/health", timeout_s=HEALTH_TIMEOUT_S, limit=SMALL_BODY_BYTES)
    clock = Clock(limit_s)
    durations_s: list[float] = []
    while len(durations_s) < LEAST_ROUND_TRIPS or (len(durations_s) < MOST_ROUND_TRIPS and clock.left_s > 0):
        began = time.perf_counter()
        transport.get_body("/health", timeout_s=HEALTH_TIMEOUT_S, limit=SMALL_BODY_BYTES)
        durations_s.append(time.perf_counter() - began)
    return durations_s


def _find_p99(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
