"""One process that asks a hub for ``/health`` until its stdin ends; prints how long each answer took, in s, as JSON.

``health_poll.py HOST PORT``
"""

from __future__ import annotations

import json
import select
import sys
import time
from http.client import HTTPConnection

PAUSE_S = 0.01
TIMEOUT_S = 60


def main() -> None:
    """Ask on one connection, again and again."""
    connection = HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=TIMEOUT_S)
    took_s = []
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        began = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        took_s.append(time.perf_counter() - began)
    print(json.dumps(took_s))


if __name__ == "__main__":
    main()
