"""One process that uses the SDK and prints, as JSON, what that took: times in s, memory in bytes.

`index.py` runs it: ``sdk_probe.py bare``, ``sdk_probe.py load DATASET CACHE`` with ``DSX_URL`` and ``DSX_API_KEY`` set,
and ``sdk_probe.py parse FILE``, the file being the body of an answer, gzipped.
"""

from __future__ import annotations

import gc
import gzip
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dsx
from dsx.manifest import parse_columns
from memory import read_memory

TIMES = 3


class LastByte:
    """Knows when this process last received anything from a socket, on the clock of `time.perf_counter`."""

    def __init__(self) -> None:
        self.at = 0.0
        receive = socket.SocketIO.readinto

        def readinto(stream: socket.SocketIO, buffer: Any) -> int | None:
            count = receive(stream, buffer)
            if count:
                self.at = time.perf_counter()
            return count

        socket.SocketIO.readinto = readinto  # type: ignore[assignment, method-assign]  # -- all HTTP in Python reads with it


def load(dataset: str, cache: str) -> dict[str, float]:
    """Load a manifest as people do: it is asked for, unpacked, checked, packed, and kept in the cache."""
    last_byte = LastByte()
    began = time.perf_counter()
    with dsx.DatasetHubClient(cache_dir=cache) as client:
        manifest = client.load_manifest(dataset)
        ended = time.perf_counter()
        gc.collect()
        took = {"after_s": ended - last_byte.at, "whole_s": ended - began}
        return {"rows": len(manifest), **took, **measure_memory()}


def parse(file: str) -> dict[str, float]:
    """Parse the same body with the SDK's parser, and with ``json`` alone."""
    packed = Path(file).read_bytes()
    return {
        "unpack_s": time_best(gzip.decompress, packed),
        "parse_s": time_best(parse_columns, data := gzip.decompress(packed)),
        "json_s": time_best(json.loads, data),
    }


def time_best(call: Callable[[bytes], object], data: bytes) -> float:
    """Return the shortest of `TIMES` calls, in s."""
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        call(data)
        took.append(time.perf_counter() - began)
    return min(took)


def measure_memory() -> dict[str, float]:
    """Return what this process takes now, and took at most."""
    memory = read_memory(os.getpid())
    return {} if memory is None else {"rss": memory.rss, "peak": memory.peak}


if __name__ == "__main__":
    probes: dict[str, Callable[..., dict[str, float]]] = {"bare": measure_memory, "load": load, "parse": parse}
    print(json.dumps(probes[sys.argv[1]](*sys.argv[2:])))
