"""What every process of the hub does the same way: log, answer requests, and end."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import sys
import threading
import time
from typing import NoReturn

import uvicorn

from dsx_server.access_log import LINE_FORMAT
from dsx_server.front import Front
from dsx_server.settings import Settings

STOP_AFTER_S = 8
"""After a signal, what is being sent has this long to finish; the process ends within 10 s."""

ARENAS = 2
KEPT_BYTES = 16 * 1024 * 1024
HEAP_BYTES = 4 * 1024 * 1024
"""Allocations of up to this size, in bytes, come out of what is kept."""

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

LINGER_S = 0.5
"""How long the end of the process then waits for threads, in s."""

_UVICORN_SAYS = ("ASGI callable returned without", "Cancel ", "Exception in ASGI application")


def tune_collector() -> None:
    """Look for cycles of garbage more seldom: a scan makes millions of tuples, and none of them is in one.

    Measured: 8 % of the time of a first scan. What was imported is not looked through again at all.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def raise_descriptor_limit() -> None:
    """Allow as many open files as the system lets this user have: a thousand idle connections are soon there."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return  # Windows, which has no such limit
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def tune_allocator() -> None:
    """Have memory that was freed kept for the next block, where the C library is glibc.

    By default blocks of a batch go back to the system, and each page of the next one is a fault. Measured, batches of
    95 KB entries: 90 us instead of 135 us of processor time each. At most `ARENAS` times `KEPT_BYTES` are kept.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, HEAP_BYTES)


def configure_logging(settings: Settings) -> None:
    """Send the log to stderr, one line an event."""
    logging.basicConfig(level=settings.log_level_number, format=LINE_FORMAT, stream=sys.stderr, force=True)
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, settings.log_level_number))
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def make_server(app: Front) -> uvicorn.Server:
    """Return the server that answers requests with ``app``."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="off",  # serve() and BackgroundHub close the app themselves, also after a second Ctrl-C
        timeout_graceful_shutdown=STOP_AFTER_S,
    )
    return uvicorn.Server(config)


def end_process(status: int) -> NoReturn:
    """End the process, also when a thread still reads from a slow disk: Python would wait for it."""
    deadline = time.monotonic() + LINGER_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
    lingering = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    if lingering:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what the front door has already logged in its own words."""
    return not record.getMessage().startswith(_UVICORN_SAYS)
