"""A TCP proxy in front of a hub: it records requests, and holds or cuts what the hub sends."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from .scripted import Request, parse_request

BLOCK_BYTES = 65536


class Proxy:
    """Passes connections on to ``127.0.0.1:port``.

    Attributes:
        requests: What was asked, in order; noted before it is passed on.
        held: Set when the hub's answers have reached the limit of `hold_after`.
    """

    def __init__(self, port: int) -> None:
        self.requests: list[Request] = []
        self.held = threading.Event()
        self._target = port
        self._left: int | None = None
        self._flip = b""
        self._lock = threading.Lock()
        self._go_on = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._spawn(self._accept)

    @property
    def file_requests(self) -> list[Request]:
        """The GET requests for entries."""
        return [each for each in self.requests if each.method == "GET" and each.path.startswith("/file/")]

    def hold_after(self, count: int) -> None:
        """Pass on ``count`` more bytes of answers in all, then none until `release`."""
        with self._lock:
            self.held.clear()
            self._go_on.clear()
            self._left = count

    def release(self) -> None:
        """Hold nothing back any more."""
        with self._lock:
            self._left = None
            self._go_on.set()

    def flip_bit_in(self, piece: bytes) -> None:
        """Change one bit of the next answer that holds ``piece`` in one block."""
        self._flip = piece

    def _take_room(self, size: int) -> int:
        """Return how many of so many bytes may be passed on."""
        with self._lock:
            if self._left is None:
                return size
            may_pass = min(size, self._left)
            self._left -= may_pass
            return may_pass

    def cut(self) -> None:
        """Reset all connections."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End everything."""
        self._stopped.set()
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join(20)

    def _spawn(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                client, _ = self._listener.accept()
                self._spawn(self._join, client)

    def _join(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target), 20) as hub:
            hub.settimeout(None)
            self._open |= {client, hub}
            back = threading.Thread(target=self._pass_answers, args=(hub, client), daemon=True)
            back.start()
            self._pass_requests(client, hub)
            back.join(20)
            self._open -= {client, hub}

    def _pass_requests(self, client: socket.socket, hub: socket.socket) -> None:
        pending = b""
        with contextlib.suppress(OSError):
            while block := client.recv(BLOCK_BYTES):
                *heads, pending = (pending + block).split(b"\r\n\r\n")
                self.requests += map(parse_request, heads)
                hub.sendall(block)
        with contextlib.suppress(OSError):
            hub.shutdown(socket.SHUT_RDWR)

    def _pass_answers(self, hub: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := hub.recv(BLOCK_BYTES):
                if self._flip and self._flip in block:
                    block = block.replace(self._flip, bytes([self._flip[0] ^ 1]) + self._flip[1:])
                    self._flip = b""
                while block:
                    may_pass = self._take_room(len(block))
                    client.sendall(block[:may_pass])
                    block = block[may_pass:]
                    if block:
                        self.held.set()
                        self._go_on.wait()
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
