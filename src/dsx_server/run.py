"""Start and stop the hub: `serve` keeps the process, `serve_background` gives control back."""

from __future__ import annotations

import errno
import io
import logging
import signal
import socket
import sys
import threading
from contextlib import closing, suppress
from types import FrameType, TracebackType

from dsx.protocol.text import printable
from dsx.protocol.version import __version__
from dsx_server.app import create_app
from dsx_server.front import Front
from dsx_server.process import configure_logging, make_server, raise_descriptor_limit, tune_allocator, tune_collector
from dsx_server.settings import Settings, SettingsError
from dsx_server.storage import LocalStorage
from dsx_server.workers import Workers


def serve(settings: Settings) -> int:
    """Run a hub until SIGTERM or Ctrl-C; return the exit status.

    What is being sent is finished first, for at most `STOP_AFTER_S`; new requests are refused meanwhile.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    configure_logging(settings)
    tune_allocator()
    tune_collector()
    raise_descriptor_limit()
    if settings.workers > 1:
        return _serve_with_workers(settings)
    app, listener = _prepare(settings)
    server = make_server(app)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn puts its own handlers over these while it runs and raises the signal again afterwards: then these make
    # the end of the process a normal one.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    _greet(settings, listener)
    with closing(app):
        server.run(sockets=[listener])
    logging.getLogger("dsx.hub").info("the hub has stopped")
    return 0 if server.started else 1


class BackgroundHub:
    """A hub that runs in a thread of this process; leave its context, or call `stop`, to end it.

    Attributes:
        url: Where a client on this machine reaches it.
    """

    def __init__(self, settings: Settings) -> None:
        self._app, listener = _prepare(settings)
        self.url = f"http://{_own_address(listener, for_others=False)}"
        self._server = make_server(self._app)
        self._thread = threading.Thread(target=self._run, args=[listener], name="dsx-hub", daemon=True)
        self._thread.start()

    def _run(self, listener: socket.socket) -> None:
        with closing(self._app):
            self._server.run(sockets=[listener])

    def stop(self) -> None:
        """Finish what is being sent, then end the hub; may be called twice."""
        self._server.should_exit = True
        self._thread.join()

    def __enter__(self) -> BackgroundHub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def serve_background(settings: Settings) -> BackgroundHub:
    """Start a hub in a thread and return a handle with ``.url`` and ``.stop()``; it takes requests at once.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    return BackgroundHub(settings)


def bind(settings: Settings) -> socket.socket:
    """Listen on the address of ``settings``.

    Raises:
        SettingsError: The host is not one of this machine, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"DSX_HOST is {settings.host!r}, which is no address of this machine; try 0.0.0.0"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two hubs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(
                f"DSX_HOST is {settings.host!r}, which is no address of this machine; try 0.0.0.0"
            ) from error
        raise SettingsError(
            f"cannot listen on DSX_HOST {settings.host}, DSX_PORT {settings.port}: {error.strerror}; "
            "stop the program that uses it or set another DSX_PORT"
        ) from error
    return listener


def describe(settings: Settings, listener: socket.socket) -> str:
    """Word the greeting: where the hub listens, what it found, and what to paste on the training device."""
    datasets = LocalStorage(settings.dataset_path).list_datasets()
    count = f"{len(datasets)} dataset{'' if len(datasets) == 1 else 's'}"
    shown = printable(", ".join(datasets[:10])) + (", ..." if len(datasets) > 10 else "")
    names = shown or "put one folder per dataset into it"
    host, port = listener.getsockname()[:2]
    return (
        f"DSX Hub {__version__} listens on http://{_bracketed(host)}:{port}\n"
        f"It serves {printable(str(settings.dataset_path.absolute()))} with {count}: {names}\n"
        f"{_describe_client(settings, _own_address(listener, for_others=True))}"
    )


def _describe_client(settings: Settings, address: str) -> str:
    """Word what to paste on the training device; a key is shown once, when it is new, on a terminal."""
    if settings.key_file is None:
        return (
            "On the training device, with DSX_API_KEY set there too:\n\n"
            "    from dsx import DatasetHubClient\n"
            f'    hub = DatasetHubClient("http://{address}")  # key: from DSX_API_KEY\n'
            "    print(hub.list_datasets())\n"
        )
    file = printable(str(settings.key_file))
    is_shown = settings.shows_key and sys.stdout.isatty()  # elsewhere it may end in a log
    key = f"this key, kept in {file}:\n\n    {settings.api_key}" if is_shown else f"the key in {file}"
    return f"On the training device:\n\n    dsx login http://{address}\n\nIt asks for {key}\n"


def _greet(settings: Settings, listener: socket.socket) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that this terminal cannot show
    with suppress(BrokenPipeError):  # nobody reads it
        print(describe(settings, listener), flush=True)  # noqa: T201 -- the greeting


def _serve_with_workers(settings: Settings) -> int:
    with closing(bind(settings)) as listener, closing(Workers(settings, listener)) as workers:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: workers.stop())
        _greet(settings, listener)
        status = workers.run()
    logging.getLogger("dsx.hub").info("the hub has stopped")
    return status


def _prepare(settings: Settings) -> tuple[Front, socket.socket]:
    """Open all that a hub needs, or nothing."""
    listener = bind(settings)
    try:
        return create_app(settings), listener
    except BaseException:
        listener.close()
        raise


def _own_address(listener: socket.socket, *, for_others: bool) -> str:
    """Return ``host:port`` by which the hub is reached: from this machine, or from others."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
        host = _lan_address() if for_others else ("127.0.0.1" if listener.family == socket.AF_INET else "::1")
    return f"{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _lan_address() -> str:
    """Ask the system which of its addresses faces the network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address kept free for documentation (RFC 5737)
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
