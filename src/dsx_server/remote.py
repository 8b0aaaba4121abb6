"""How the processes of a hub with several ask the one that scans: calls over a local socket, each with a secret.

What the scans find is in the index file; only "scan this now" and "how far are you" travel here.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from multiprocessing.managers import BaseManager
from typing import Any

from dsx.errors import DsxError, HubUnavailableError
from dsx_server.activity import Activity
from dsx_server.index import Scans

Address = Any
"""Where the scanning process is reached, as `multiprocessing` chose it for this system."""


class ScanServer:
    """Answers the other processes, in threads of its own.

    Args:
        scans: Whoever scans in this process.
        activity: Is told that other processes are busy.
    """

    def __init__(self, scans: Scans, activity: Activity) -> None:
        self._secret = secrets.token_bytes(32)

        class Manager(BaseManager):
            pass

        Manager.register("door", callable=lambda: _Door(scans, activity), exposed=_EXPOSED)
        self._server = Manager(authkey=self._secret).get_server()
        self._thread = threading.Thread(target=self._serve, name="dsx-scan-server", daemon=True)
        self._thread.start()

    def invite(self) -> RemoteScans:
        """Return what another process takes along to ask here."""
        return RemoteScans(self._server.address, self._secret)

    def _serve(self) -> None:
        try:
            self._server.serve_forever()
        except SystemExit:
            pass  # how it ends


class RemoteScans:
    """Whoever scans, seen from another process; see `Scans`. Can be pickled before its first use.

    Args:
        address: Where the scanning process is reached.
        secret: What it asks for.
    """

    def __init__(self, address: Address, secret: bytes) -> None:
        self._address = address
        self._secret = secret
        self._local: threading.local | None = None
        self._news: queue.SimpleQueue[str] | None = None

    def refresh(self, dataset: str) -> None:
        """Scan a dataset, and return when that is published."""
        self._ask("refresh", dataset)

    def count_scanned(self, dataset: str) -> int | None:
        """Return how many entries the scan under way has found so far; None when there is none."""
        count: int | None = self._ask("count_scanned", dataset)
        return count

    def note_busy(self) -> None:
        """Requests are being answered in this process; does not wait until the other knows."""
        self._tell("note_busy")

    def note_damaged(self) -> None:
        """This process has found the index damaged; does not wait until the other knows."""
        self._tell("note_damaged")

    def _tell(self, name: str) -> None:
        if self._news is None:
            self._news = queue.SimpleQueue()
            threading.Thread(target=self._tell_all, args=[self._news], name="dsx-tell", daemon=True).start()
        self._news.put(name)

    def _tell_all(self, news: queue.SimpleQueue[str]) -> None:
        while True:
            with contextlib.suppress(DsxError):
                self._ask(news.get())

    def _ask(self, name: str, *args: str) -> Any:
        try:
            return self._door()._callmethod(name, args)
        except DsxError:
            raise  # what the scan said; many of these are an OSError as well
        except (OSError, EOFError) as error:
            self._local = None
            raise HubUnavailableError("the part of the hub that scans does not answer; it is stopping") from error

    def _door(self) -> Any:
        """Return this thread's connection."""
        if self._local is None:
            self._local = threading.local()
        door = getattr(self._local, "door", None)
        if door is None:

            class Manager(BaseManager):
                pass

            Manager.register("door", exposed=_EXPOSED)
            manager = Manager(self._address, authkey=self._secret)
            manager.connect()
            door = self._local.door = manager.door()  # type: ignore[attr-defined]  # -- `register` made it
        return door


_EXPOSED = ("refresh", "count_scanned", "note_busy", "note_damaged")


class _Door:
    """What the other processes may call."""

    def __init__(self, scans: Scans, activity: Activity) -> None:
        self.refresh = scans.refresh
        self.count_scanned = scans.count_scanned
        self.note_busy = activity.note_busy
        self.note_damaged = scans.note_damaged
