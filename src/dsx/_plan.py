"""Batches whose future is known: whoever reads one can fetch the next ones meanwhile.

A loader hands out batches of numbers, perhaps to other processes. Each tells what order it is of and which of its
batches it is, so that a process knows by itself which ones it will be asked for next. Whatever it is asked for instead
is read at once.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dsx._batch import Result
from dsx._meter import Meter
from dsx._reads import Read
from dsx._source import SampleSource
from dsx.errors import DsxError
from dsx.order import Order, Share

ORDERED_AT_ONCE = 4096
"""So many samples are brought into order together."""

PIECES_KEPT = 2
"""So many such pieces are remembered: that of the batches handed out, and that of those read ahead."""


@dataclass(frozen=True)
class Plan:
    """The batches of one pass.

    Attributes:
        owner: Number of the loader in its process; each is followed by itself.
        share: Which positions.
        seed: Of the order.
        epoch: Of the order.
        shuffle: Whether there is one.
        size: How many samples a batch has.
        drop_last: Whether the last batch is left out if it is smaller.
        stride: The same process is given every so many-th batch.
        budget_bytes: How many bytes may have come to a process and not been taken.
    """

    owner: int
    share: Share
    seed: int
    epoch: int
    shuffle: bool
    size: int
    drop_last: bool
    stride: int
    budget_bytes: int

    @cached_property
    def _order(self) -> Order:
        return Order(self.share.length, seed=self.seed, epoch=self.epoch, shuffle=self.shuffle)

    @cached_property
    def _pieces(self) -> dict[int, list[int]]:
        return {}

    @property
    def count(self) -> int:
        """How many batches there are."""
        count = self.share.count
        return count // self.size if self.drop_last else -(-count // self.size)

    def list_numbers(self, number: int) -> list[int]:
        """Return the numbers of the samples of one batch."""
        together = max(1, ORDERED_AT_ONCE // self.size)  # a short piece of the order costs as much as a long one
        piece, place = divmod(number, together)
        numbers = self._pieces.get(piece)
        if numbers is None:
            while len(self._pieces) >= PIECES_KEPT:
                self._pieces.pop(next(iter(self._pieces)), None)
            start = piece * together * self.size
            numbers = self._order.take(self.share.list_positions(start, start + together * self.size))
            self._pieces[piece] = numbers
        return numbers[place * self.size : (place + 1) * self.size]

    def __iter__(self) -> Iterator[PlannedBatch]:
        for number in range(self.count):
            yield PlannedBatch(self.list_numbers(number), self, number)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_order", "_pieces")}


class PlannedBatch(list[int]):
    """The numbers of the samples of one batch, and what they are a part of.

    Attributes:
        plan: The batches of the pass.
        number: Which of them it is.
    """

    def __init__(self, numbers: Sequence[int], plan: Plan, number: int) -> None:
        super().__init__(numbers)
        self.plan = plan
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return PlannedBatch, (list(self), self.plan, self.number)


class Follower:
    """Reads the batches of a plan that one process is given, ahead.

    Args:
        source: Has the samples.
        first: The first batch.
        chosen: The samples that the numbers are of; None for all of the source.
        meter: Measures how it goes.
    """

    def __init__(self, source: SampleSource, first: PlannedBatch, chosen: Sequence[int] | None, meter: Meter) -> None:
        self._source = source
        self._plan = first.plan
        self._next = first.number
        self._chosen = chosen
        self._process = os.getpid()
        ahead = source.read_ahead(self._iter_numbers(first.number), budget_bytes=first.plan.budget_bytes, meter=meter)
        self._results: Generator[tuple[Read, Result], None, None] = ahead.take()

    def is_for(self, batch: PlannedBatch, source: SampleSource) -> bool:
        """Tell whether a batch is the one that is read next."""
        is_here = self._process == os.getpid() and self._source is source
        return is_here and batch.number == self._next and batch.plan == self._plan

    def take(self, batch: PlannedBatch) -> list[bytes] | None:
        """Return the bytes of the samples of the next batch; None when they did not come, and nothing more will."""
        self._next += self._plan.stride
        data: list[bytes] = []
        try:
            while len(data) < len(batch):
                _, result = next(self._results)
                if not isinstance(result, bytes):
                    break
                data.append(result)
        except (DsxError, StopIteration):
            pass
        if len(data) == len(batch):
            return data
        self.close()
        return None

    def close(self) -> None:
        """Ask for nothing more."""
        self._next = -1
        if self._process == os.getpid():
            self._results.close()

    def _iter_numbers(self, first: int) -> Iterator[int]:
        for number in range(first, self._plan.count, self._plan.stride):
            numbers = self._plan.list_numbers(number)
            yield from numbers if self._chosen is None else map(self._chosen.__getitem__, numbers)


class PlannedReads:
    """Reads batches of plans in one process, the likely next one of each loader ahead; pickles as empty."""

    def __init__(self) -> None:
        self._followers: dict[int, Follower] = {}
        self._meters: dict[int, Meter] = {}

    def begin(self, owner: int, meter: Meter) -> None:
        """Have a loader's next pass measured."""
        self._meters[owner] = meter

    def read(self, source: SampleSource, batch: PlannedBatch, chosen: Sequence[int] | None) -> list[bytes]:
        """Return the bytes of the samples of a batch.

        What was to come ahead and did not is asked for once more, and only then an error.

        Raises:
            DsxError: What is wrong with one of them, or all.
        """
        owner = batch.plan.owner
        follower = self._followers.get(owner)
        if follower is None or not follower.is_for(batch, source):
            self.end(owner)
            meter = self._meters.get(owner) or Meter()
            follower = self._followers[owner] = Follower(source, batch, chosen, meter)
        data = follower.take(batch)
        if data is None:
            data = source.read_all(batch if chosen is None else [chosen[number] for number in batch])
        return data

    def end(self, owner: int) -> None:
        """Ask for nothing more for a loader."""
        follower = self._followers.pop(owner, None)
        if follower is not None:
            follower.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return PlannedReads, ()
