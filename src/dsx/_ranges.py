"""The bytes of one long entry, in order, while several ranges of it are on their way.

The caller's thread plans the ranges and takes their blocks, those of the first one as they come. Each range has a
thread, which receives it into memory, holds every answer against what was asked for, and goes on where it breaks. All
answers are of one version of the entry: ``If-Match`` asks for it, and the entity tag is compared.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import NamedTuple

from dsx._link import POLL_S, Link
from dsx._retry import Patience
from dsx._transport import Answer, Transport
from dsx.errors import DsxError, HubUnavailableError, HubUnreachableError, IntegrityError

PARALLEL = 4
"""How many ranges of one entry are received at once, at most."""

MOST_WAITING = 2
"""How many ranges may have come and wait while another one is asked for."""

BLOCKS = 64
"""In how many blocks a range is received: with each, threads wait for each other."""

LEAST_BLOCK_BYTES = 64 * 1024

CLOSING_WAIT_S = 0.2
"""How long, in s, is waited for the threads of a transfer that ends early; they end by themselves."""

CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class Version(NamedTuple):
    """One version of an entry.

    Attributes:
        url: Path and query of its URL.
        name: What messages call it.
        etag: Its strong entity tag.
        size: Its size in bytes.
    """

    url: str
    name: str
    etag: str
    size: int


class Begun(NamedTuple):
    """An answer that has begun to come.

    Attributes:
        answer: The answer, body unread.
        opened: Lets go of its connection when it is closed.
        stop: Up to where it is read; it may go further.
    """

    answer: Answer
    opened: ExitStack
    stop: int


class _Part:
    """One range on its way: bytes ``[position, stop)`` are still to come, ``blocks`` wait to be taken."""

    def __init__(self, start: int, stop: int, begun: Begun | None = None) -> None:
        self.position = start
        self.stop = stop
        self.room = stop - start
        self.begun = begun
        self.blocks: deque[bytes] = deque()
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.asked_at = time.monotonic()
        self.is_done = False


class Ranges:
    """Brings the rest of one version of an entry.

    Args:
        transport: The hub.
        version: What is wanted.
        seconds: How long a range that breaks is tried again without a byte more coming, in seconds.
        stop: Ends it early when it is set.
    """

    def __init__(self, transport: Transport, version: Version, seconds: float, stop: threading.Event) -> None:
        self._transport = transport
        self._link: Link = transport.link
        self._version = version
        self._seconds = seconds
        self._stop = stop
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._parts: deque[_Part] = deque()
        self._threads: list[threading.Thread] = []
        self._planned = self._start = 0

    @property
    def came_bytes(self) -> int:
        """How many bytes have come so far: also those that wait for what is before them."""
        with self._changed:
            return self._planned - self._start - sum(part.stop - part.position for part in self._parts)

    def iter_blocks(self, start: int, begun: Begun) -> Generator[bytes, None, None]:
        """Yield the bytes from ``start`` on, of which ``begun`` brings the first.

        Raises:
            ConflictError: The hub has another version meanwhile.
            IntegrityError: It answers with what was not asked for.
            DsxError: A range did not come; everything before it was yielded.
        """
        self._start = start
        try:
            self._link.hold(begun.stop - start)
            self._begin(_Part(start, begun.stop, begun))
            while self._parts:
                self._begin_more()
                part = self._parts[0]
                block = self._take(part)
                if block is not None:
                    yield block
                elif part.is_done and not part.blocks:
                    if part.error is not None:
                        raise part.error
                    self._link.give_back(self._parts.popleft().room)
        finally:
            self._close()

    def _begin_more(self) -> None:
        """Ask for further ranges, as many as may be under way."""
        while self._planned < self._version.size:
            if sum(not part.is_done for part in self._parts) >= self._count_wanted():
                return
            size = self._link.take(self._version.size - self._planned, is_needed=not self._parts)
            if not size:
                return
            self._begin(_Part(self._planned, self._planned + size))

    def _count_wanted(self) -> int:
        """How many ranges should be received: few when it is not them who are waited for."""
        if not self._parts or not self._parts[0].is_done:
            return PARALLEL
        return 1 if len(self._parts) <= MOST_WAITING else 0

    def _begin(self, part: _Part) -> None:
        self._planned = part.stop
        self._parts.append(part)
        thread = threading.Thread(target=self._work, args=(part,), name="dsx-range", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _take(self, part: _Part) -> bytes | None:
        """Return the next block of ``part``, waiting a moment for it; None when there is none."""
        with self._changed:
            if not part.blocks and not part.is_done:
                self._changed.wait(POLL_S)
            if self._stop.is_set():
                raise HubUnreachableError(f"{self._version.name} was stopped")
            return part.blocks.popleft() if part.blocks else None

    def _close(self) -> None:
        """Let the threads end, and give back all room."""
        self._ended.set()
        with self._changed:
            answers = [part.answer for part in self._parts if part.answer is not None]
        for answer in answers:
            answer.abort()
        deadline = time.monotonic() + CLOSING_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        while self._parts:
            self._link.give_back(self._parts.popleft().room)

    def _work(self, part: _Part) -> None:
        """Receive one range, in a thread of its own."""
        try:
            self._receive(part)
        except BaseException as error:  # noqa: BLE001 -- the outermost door of a thread: iter_blocks() raises it
            part.error = error
        with self._changed:
            part.is_done = True
            self._changed.notify()

    def _receive(self, part: _Part) -> None:
        """Receive a range to its end, going on where it breaks; how long is tried counts from a break on."""
        start, patience = part.position, None
        while not self._ended.is_set():
            try:
                self._read(part, patience)
            except DsxError as error:
                if isinstance(error, HubUnavailableError):
                    self._link.note_refusal()
                if patience is None:
                    patience = Patience(self._seconds, self._ended)
                patience.wait_after(error)
            else:
                if patience is None:
                    self._link.note_range(part.stop - start, time.monotonic() - part.asked_at)
                return

    def _read(self, part: _Part, patience: Patience | None) -> None:
        """Receive what one answer brings of a range."""
        with self._open(part) as answer:
            with self._changed:
                part.answer = answer
            if self._ended.is_set():
                return
            for block in answer.iter_blocks(max(LEAST_BLOCK_BYTES, part.room // BLOCKS)):
                self._deliver(part, block)
                if patience is not None:
                    patience.note_progress(self._seconds)
                if part.position == part.stop or self._ended.is_set():
                    break
        if part.position < part.stop:
            raise HubUnreachableError(
                f"{self._version.name} broke off after {part.position} of {self._version.size} bytes"
            )

    def _deliver(self, part: _Part, block: bytes) -> None:
        left = part.stop - part.position
        with self._changed:
            part.blocks.append(block if len(block) <= left else block[:left])
            part.position += min(len(block), left)
            self._changed.notify()

    def _open(self, part: _Part) -> AbstractContextManager[Answer]:
        """Ask for what a range still lacks; the first time, of the first one, its answer is there already."""
        begun, part.begun = part.begun, None
        return self._ask(part) if begun is None else _enter(begun)

    @contextmanager
    def _ask(self, part: _Part) -> Iterator[Answer]:
        version = self._version
        headers = {
            "Range": f"bytes={part.position}-{part.stop - 1}",
            "If-Match": version.etag,
            "Accept-Encoding": "identity",
        }
        with ExitStack() as opened:
            opened.enter_context(self._link.request(self._ended))
            part.asked_at = time.monotonic()
            answer = opened.enter_context(self._transport.open("GET", version.url, headers=headers))
            if check_part(answer, version.name) != (part.position, part.stop, version.size):
                raise IntegrityError(f"{version.name} came from another place than was asked for")
            if answer.headers.get("ETag") != version.etag:
                raise IntegrityError(f"{version.name} came in another version than was asked for")
            yield answer


@contextmanager
def _enter(begun: Begun) -> Iterator[Answer]:
    with begun.opened:
        yield begun.answer


def check_body(answer: Answer, name: str) -> int:
    """Make sure that a body is the bytes themselves, and counted; return how many they are.

    Raises:
        IntegrityError: It is not.
    """
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise IntegrityError(f"{name} came compressed, which was not asked for; is there a proxy between?")
    if answer.length is None:
        raise IntegrityError(f"{name} came without a Content-Length, so that it cannot be counted")
    return answer.length


def check_part(answer: Answer, name: str) -> tuple[int, int, int]:
    """Return which bytes ``[start, stop)`` of how many an answer says that it brings.

    Raises:
        IntegrityError: It says nothing that can be right.
    """
    length = check_body(answer, name)
    said = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != 206 or said is None:
        raise IntegrityError(f"{name} came with status {answer.status}, not as the part that was asked for")
    start, last, size = map(int, said.groups())
    if not start <= last < size or last + 1 - start != length:
        raise IntegrityError(f"{name} came from another place than was asked for")
    return start, last + 1, size
