"""`SampleStream`: passes over the samples of a dataset, shuffled, shared and resumable."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dsx._ahead import BUDGET_BYTES, SkipLog
from dsx._meter import Meter, StreamStats
from dsx._reads import OnError
from dsx._run import Progress, Run
from dsx._source import Sample, SampleSource
from dsx._state import StreamState, check_choice, parse_state
from dsx.errors import InvalidRequestError
from dsx.order import Order, Remainder, Share, check_integer
from dsx.protocol.text import shown

log = logging.getLogger("dsx")


@dataclass(frozen=True)
class StreamOptions:
    """How samples are passed over; see `DatasetHubClient.stream`.

    Raises:
        InvalidRequestError: One cannot be right.
    """

    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    rank: int = 0
    world_size: int = 1
    remainder: Remainder = "exact"
    prefetch_bytes: int = BUDGET_BYTES
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise InvalidRequestError(f"on_error is 'raise' or 'skip', not {shown(self.on_error)}")
        check_integer("seed", self.seed, least=None)
        check_integer("epoch", self.epoch)
        check_integer("prefetch_bytes", self.prefetch_bytes, least=1)
        Share(0, self.rank, self.world_size, self.remainder)


class SampleStream:
    """Ordered passes over the samples of a dataset; each `iter` is one, and the next is of the next epoch.

    After a pass that was broken off, the same one begins again; `set_epoch` wins over both. Samples come ahead of the
    loop, in few requests. Made by `DatasetHubClient.stream`. For one thread at a time; of several passes at once, the
    one begun last is the one that `state_dict` and `stats` tell of.

    Attributes:
        dataset: Name of the dataset.
    """

    def __init__(self, source: SampleSource, options: StreamOptions) -> None:
        self._source = source
        self._options = options
        self._seed = int(options.seed)
        self._run = Run(options.epoch)
        self._meter: Meter | None = None
        self._pass: weakref.ref[Generator[tuple[Progress, Sample | None], None, None]] | None = None
        self.dataset = source.choice.dataset

    @property
    def revision(self) -> str:
        """The revision that the samples are of."""
        return self._source.revision

    @property
    def epoch(self) -> int:
        """The epoch of the pass that is under way or was broken off, else of the next one."""
        return self._run.epoch

    def __len__(self) -> int:
        """Return how many samples a whole pass gives this rank."""
        return self._make_share(0).count

    def __repr__(self) -> str:
        return (
            f"<SampleStream of dataset {shown(self.dataset)}: {len(self)} samples, epoch {self.epoch}, "
            f"revision {self.revision}>"
        )

    def __iter__(self) -> Iterator[Sample]:
        with closing(self._begin_pass()) as samples:
            for progress, sample in samples:
                progress.taken += 1
                if sample is not None:
                    yield sample

    def batches(self, n: int) -> Iterator[list[Sample]]:
        """Pass over the samples in lists of ``n``; the last one may be shorter.

        A state is of whole lists: what the loop has not been given counts as not taken.

        Args:
            n: How many samples a list has.
        """
        check_integer("n", n, least=1)
        return self._iter_batches(n)

    def _iter_batches(self, n: int) -> Iterator[list[Sample]]:
        batch: list[Sample] = []
        taken = 0
        with closing(self._begin_pass()) as samples:
            for progress, sample in samples:
                taken += 1
                if sample is not None:
                    batch.append(sample)
                if len(batch) == n:
                    progress.taken = taken
                    yield batch
                    batch = []
            if batch:
                progress.taken = taken
                yield batch

    def set_epoch(self, epoch: int) -> None:
        """Have the next pass be of an epoch, from its beginning.

        For the epoch that the stream is in already, it does nothing: a loop that sets each epoch may be resumed in the
        middle of one.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self._run.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, as JSON can carry it: all samples that the loop has taken are done.

        With several ranks, the state of any of them, taken after equally many steps, is that of all.
        """
        choice, run = self._source.choice, self._run
        return StreamState(
            dataset=choice.dataset,
            revision=self.revision,
            include=None if choice.include is None else list(choice.include),
            exclude=None if choice.exclude is None else list(choice.exclude),
            shuffle=self._options.shuffle,
            seed=self._seed,
            epoch=run.epoch,
            position=run.position,
        ).model_dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says; the next pass gives what was not taken, to any number of ranks.

        Seed and epoch are those of the state, and so is the revision unless the stream was made with one.

        Args:
            state: What `state_dict` returned.

        Raises:
            InvalidRequestError: It is of another dataset, selection, order or pinned revision, or of a revision that
                the hub has no longer; the message says what differs.
        """
        read = parse_state(state)
        check_choice(read, self._source.choice, shuffle=self._options.shuffle)
        source = self._source.at_revision(read.revision)
        check_integer("the position of the state", read.position, most=len(source))
        self._source, self._seed = source, read.seed
        self._run.go_to(read.epoch, read.position)

    def stats(self) -> StreamStats:
        """Return how the pass that is under way goes, or how the last one went."""
        return StreamStats() if self._meter is None else self._meter.read()

    def close(self) -> None:
        """End the pass that is under way, and what it has asked for; the stream may be used again."""
        begun = None if self._pass is None else self._pass()
        if begun is not None:
            begun.close()

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _make_share(self, start: int) -> Share:
        options = self._options
        return Share(len(self._source), options.rank, options.world_size, options.remainder, start)

    def _begin_pass(self) -> Generator[tuple[Progress, Sample | None], None, None]:
        share = self._make_share(self._run.prepare())
        self._meter = Meter()
        samples = self._iter_pass(self._run.begin(share, share.count), self._run.epoch, self._meter)
        self._pass = weakref.ref(samples)
        return samples

    def _iter_pass(
        self, progress: Progress, epoch: int, meter: Meter
    ) -> Generator[tuple[Progress, Sample | None], None, None]:
        """Yield each sample of a pass, and None for one that is left out."""
        options, source, share = self._options, self._source, progress.share
        skipped = SkipLog(self.dataset) if options.on_error == "skip" else None
        order = Order(share.length, seed=self._seed, epoch=epoch, shuffle=options.shuffle)
        rows: deque[int] = deque()

        def number() -> Iterator[int]:
            for some in share.iter_blocks():
                numbers = order.take(some)
                rows.extend(map(source.rows.__getitem__, numbers))
                yield from numbers

        try:
            ahead = source.read_ahead(number(), budget_bytes=options.prefetch_bytes, meter=meter)
            with closing(ahead.take()) as results:
                for read, result in results:
                    row = rows.popleft()
                    if isinstance(result, bytes):
                        meter.samples += 1
                        meter.bytes += len(result)
                        yield progress, Sample(row, read.path, result)
                    elif skipped is None:
                        raise result
                    else:
                        skipped.note(read.path, result)
                        yield progress, None
        finally:
            meter.stop()
        self._run.finish(progress)
        log.info("epoch %d of dataset %s: %s", epoch, shown(self.dataset), meter.read())
