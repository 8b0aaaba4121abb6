"""What the rows of `transfer.py` read from: each is started when the first row asks for it, and stays to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from hubs import HOST, Hub
from link_check import LinkSpeed, check_link, run_link
from measuring import BenchmarkError, wait_for
from payloads import Payloads
from samples import HERE
from servers import (
    HubServer,
    ProcessServer,
    Server,
    measure_idle,
    run_nginx,
    run_plain_hub,
    run_rsync_daemon,
)

S = TypeVar("S", bound=Server)

COLD_MS = 8
SETTLE_S = 300.0


class Sides:
    """Starts servers.

    Args:
        payloads: What they serve.
        work: Folder for their files.
        stack: Ends them.

    Attributes:
        idle: What each takes without work, in bytes, by process.
        link_speed: What the slow link was found to do; None while it was not needed.
    """

    def __init__(self, payloads: Payloads, work: Path, stack: ExitStack) -> None:
        self.idle: dict[int, int] = {}
        self._payloads = payloads
        self._work = work
        self._stack = stack
        self._started: dict[str, Server | BenchmarkError] = {}
        self._link = self._plain_link = ""
        self.link_speed: LinkSpeed | None = None

    def get_hub(self) -> HubServer:
        """Return the hub, which knows every digest by now, as it does a while after its start."""
        return self._get("hub", HubServer, lambda: self._run_hub("hub", []))

    def get_cold_hub(self) -> HubServer:
        """Return the hub whose disk takes its time."""
        variables = {"DSX_DIGESTS": "off"}
        command = [str(HERE / "cold_hub.py"), str(COLD_MS)]
        return self._get("cold-hub", HubServer, lambda: self._run_hub("cold-hub", command, **variables))

    def get_plain_hub(self) -> ProcessServer:
        """Return FastAPI with `FileResponse`."""
        return self._get("plain", ProcessServer, lambda: run_plain_hub(self._payloads.served, self._make("plain")))

    def get_cold_plain_hub(self) -> ProcessServer:
        """Return the same on the slow disk."""
        return self._get(
            "cold-plain",
            ProcessServer,
            lambda: run_plain_hub(self._payloads.served, self._make("cold-plain"), COLD_MS),
        )

    def get_nginx(self) -> ProcessServer:
        """Return nginx on the served folder."""
        return self._get("nginx", ProcessServer, lambda: run_nginx(self._payloads.served, self._make("nginx")))

    def get_rsync(self) -> ProcessServer:
        """Return the daemon of rsync."""
        return self._get("rsync", ProcessServer, lambda: run_rsync_daemon(self._payloads.served, self._make("rsync")))

    def get_converted_nginx(self) -> ProcessServer:
        """Return nginx on what peers have made of the datasets."""
        return self._get(
            "converted-nginx", ProcessServer, lambda: run_nginx(self._work / "converted", self._make("converted-nginx"))
        )

    def get_link(self) -> str:
        """Return the URL of the hub behind the slow link, which is checked when it is made."""
        if not self._link:
            self.link_speed = check_link()
            port, _ = self._stack.enter_context(run_link(self.get_hub().hub.port))
            self._link = f"http://{HOST}:{port}"
        return self._link

    def get_plain_link(self) -> str:
        """Return the URL of FastAPI with `FileResponse` behind another one."""
        if not self._plain_link:
            port, _ = self._stack.enter_context(run_link(self.get_plain_hub().port))
            self._plain_link = f"http://{HOST}:{port}/file"
        return self._plain_link

    def _make(self, name: str) -> Path:
        folder = self._work / name
        folder.mkdir()
        return folder

    def _get(self, name: str, kind: type[S], run: Callable[[], AbstractContextManager[S]]) -> S:
        """Return a server; one that did not start is not tried again."""
        server = self._started.get(name)
        if server is None:
            try:
                server = self._stack.enter_context(run())
                self.idle[server.pid] = measure_idle(server)
            except (BenchmarkError, OSError) as error:
                server = BenchmarkError(str(error))
            self._started[name] = server
        if isinstance(server, BenchmarkError):
            raise server
        if not isinstance(server, kind):
            raise TypeError(f"{name} is a {type(server).__name__}, not a {kind.__name__}")
        return server

    @contextmanager
    def _run_hub(self, name: str, command: list[str], **variables: str) -> Iterator[HubServer]:
        state = self._make(name)
        extra = {"command": command} if command else {}
        hub = Hub(self._payloads.served, state, variables, **extra)
        try:
            for dataset in self._payloads.datasets:
                hub.wait_for_revision(dataset, limit_s=SETTLE_S)
            if variables.get("DSX_DIGESTS") != "off":
                self._wait_for_digests(hub)
            yield HubServer(hub)
        finally:
            hub.stop()

    def _wait_for_digests(self, hub: Hub) -> None:
        def look() -> bool | None:
            shares = [hub.describe(name, timeout_s=SETTLE_S).get("digest_share") for name in self._payloads.datasets]
            return True if shares == [1.0] * len(shares) else None

        wait_for(look, "the hub knows every digest", limit_s=SETTLE_S, pause_s=0.5)
