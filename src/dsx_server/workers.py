"""A hub with several processes: this one scans, the others answer requests.

They share the listening socket, so that the system hands each connection to one that is free, and the index file.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from dsx_server.app import create_app
from dsx_server.backstage import Backstage
from dsx_server.process import STOP_AFTER_S, configure_logging, end_process, make_server, tune_allocator, tune_collector
from dsx_server.remote import RemoteScans, ScanServer
from dsx_server.settings import Settings
from dsx_server.storage import LocalStorage

log = logging.getLogger("dsx.hub")

SHORT_LIFE_S = 10.0
SHORT_LIVES = 5
"""When so many processes in a row end within `SHORT_LIFE_S`, another one would not do better: the hub gives up."""

KILL_AFTER_S = STOP_AFTER_S + 1

LOOK_S = 1.0
"""How often, in s, it is looked whether the hub shall stop: a signal that comes just before a wait does not end it."""


class Workers:
    """The processes that answer requests, and what works behind them; `close` it when done.

    Args:
        settings: What the hub was told.
        listener: The socket that it listens on.

    Raises:
        SettingsError: The state folder cannot be used, or another hub uses it.
    """

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._backstage = Backstage(settings, LocalStorage(settings.dataset_path))
        self._scans = ScanServer(self._backstage.keeper, self._backstage.activity)
        self._context = multiprocessing.get_context("spawn")
        self._processes: list[tuple[SpawnProcess, float]] = []
        self._short_lives = 0
        # The processes end when the write end closes, which it does with this process, however that ends.
        self._lifeline, self._life = self._context.Pipe(duplex=False)
        self._woken, self._wake = self._context.Pipe(duplex=False)
        self._is_stopping = False

    def run(self) -> int:
        """Keep the processes running until `stop`; return the exit status."""
        self._backstage.start()
        self._processes = [self._begin() for _ in range(self._settings.workers)]
        while not self._is_stopping:
            wait([self._woken, *(process.sentinel for process, _ in self._processes)], LOOK_S)
            self._replace_ended()
        for process, _ in self._processes:
            process.terminate()
        deadline = time.monotonic() + KILL_AFTER_S
        for process, _ in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
        return 1 if self._short_lives >= SHORT_LIVES else 0

    def stop(self) -> None:
        """Let what is being sent finish, and end; may be called in a signal handler."""
        self._is_stopping = True
        self._wake.send(None)

    def close(self) -> None:
        """Let go of the state folder."""
        self._backstage.close()

    def _begin(self) -> tuple[SpawnProcess, float]:
        args = (self._settings, self._listener, self._scans.invite(), self._lifeline)
        process = self._context.Process(target=answer_requests, args=args, name="dsx-worker", daemon=True)
        process.start()
        return process, time.monotonic()

    def _replace_ended(self) -> None:
        for place, (process, began) in enumerate(self._processes):
            if process.is_alive() or self._is_stopping:
                continue
            self._short_lives = self._short_lives + 1 if time.monotonic() - began < SHORT_LIFE_S else 0
            log.error("a process of the hub ended with status %s; another takes its place", process.exitcode)
            if self._short_lives >= SHORT_LIVES:
                log.error("the hub gives up: its processes end as soon as they are started")
                self._is_stopping = True
                return
            self._processes[place] = self._begin()


def answer_requests(settings: Settings, listener: socket.socket, scans: RemoteScans, lifeline: Connection) -> None:
    """Be one of the processes that answer requests, until SIGTERM or the end of the process that started it."""
    configure_logging(settings)
    tune_allocator()
    tune_collector()
    app = create_app(settings, scans=scans)
    server = make_server(app)

    def stop(_number: int = 0, _frame: FrameType | None = None) -> None:
        server.should_exit = True

    def follow() -> None:
        wait([lifeline])
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    threading.Thread(target=follow, name="dsx-lifeline", daemon=True).start()
    try:
        server.run(sockets=[listener])
    finally:
        app.close()
    end_process(0 if server.started else 1)
