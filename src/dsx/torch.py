"""Train with PyTorch on a dataset of the hub (extra ``torch``): `HubDataset`, and `HubDataLoader` to go over it."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsx._ahead import BUDGET_BYTES
from dsx._meter import Meter, StreamStats
from dsx._plan import Plan, PlannedBatch, PlannedReads
from dsx._run import Run
from dsx._source import SampleSource
from dsx._state import StreamState, check_choice, parse_state
from dsx.data import HubDataset as PlainHubDataset
from dsx.errors import InvalidRequestError, MissingExtraError
from dsx.order import Remainder, Share, check_integer
from dsx.protocol.text import shown

try:
    import torch.distributed
    from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset
except ImportError as error:
    raise MissingExtraError('dsx.torch needs PyTorch: pip install "dsx-hub[torch]"') from error

log = logging.getLogger("dsx")

_owners = itertools.count()


class HubDataset(PlainHubDataset, Dataset[Any]):
    """`dsx.data.HubDataset` as a map-style dataset of PyTorch.

    Its `__getitems__`, which PyTorch's DataLoader calls for every batch, is one request. It works in workers that are
    forked, spawned or made by a fork server, and below `Subset`, `random_split` and `DistributedSampler`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reads = PlannedReads()

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of some numbers; see `dsx.data.HubDataset`."""
        if isinstance(indices, PlannedBatch):
            return self._read_planned(indices, None)
        return super().__getitems__(indices)

    def _read_planned(self, batch: PlannedBatch, chosen: Sequence[int] | None) -> list[Any]:
        contents = self._reads.read(self._source, batch, chosen)
        return self._make_items(batch if chosen is None else [chosen[number] for number in batch], contents)


class _ChosenSamples(Subset[Any]):
    """Some samples of a `HubDataset`."""

    dataset: HubDataset

    def __getitems__(self, indices: list[int]) -> list[Any]:
        if isinstance(indices, PlannedBatch):
            return self.dataset._read_planned(indices, self.indices)
        return self.dataset.__getitems__([self.indices[index] for index in indices])


class HubDataLoader(DataLoader[Any]):
    """PyTorch's DataLoader over a `HubDataset`, whose order is exact, elastic and resumable.

    Each `iter` is one pass, and the next is of the next epoch; after one that was broken off, the same begins again.
    Samples come ahead of the loop: without workers in threads of this process, with workers in each of them. Rank and
    world size are those of ``torch.distributed`` when that is initialised.

    Args:
        dataset: A `HubDataset`, or a ``Subset`` of one, as ``random_split`` makes.
        batch_size: How many samples a batch has.
        shuffle: Whether each epoch has a random order of all samples.
        seed: Any integer, of which the orders are made.
        drop_last: Whether the last batch is left out if it is smaller.
        rank: Which of several processes this one is, in place of what ``torch.distributed`` says.
        world_size: How many there are, likewise.
        remainder: What is done when they do not divide the samples: ``"pad"`` takes the first ones again, as
            ``DistributedSampler`` does; ``"drop"`` leaves the last out; ``"exact"`` gives some ranks one more. Left
            out, it is ``"pad"`` with several ranks.
        prefetch_bytes: How many bytes may have come and not been taken, in all workers together.
        **options: What else PyTorch's ``DataLoader`` takes, but for samplers and ``in_order=False``.

    Raises:
        InvalidRequestError: An argument cannot be right.
    """

    def __init__(
        self,
        dataset: HubDataset | Subset[Any],
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int = 0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        remainder: Remainder | None = None,
        prefetch_bytes: int = BUDGET_BYTES,
        **options: Any,
    ) -> None:
        for name in ("sampler", "batch_sampler"):
            if options.get(name) is not None:
                raise InvalidRequestError(
                    f"HubDataLoader has an order of its own; for a {name} use PyTorch's DataLoader"
                )
        if not options.get("in_order", True):
            raise InvalidRequestError("in_order=False would make states wrong; for that use PyTorch's DataLoader")
        if (rank is None) != (world_size is None):
            raise InvalidRequestError("rank and world_size are given together, or both left out")
        self._size = check_integer("batch_size", batch_size, least=1)
        self._seed = int(check_integer("seed", seed, least=None))
        self._shuffle, self._drop_last = bool(shuffle), bool(drop_last)
        self._given_rank, self._remainder = (rank, world_size), remainder
        self._prefetch_bytes = check_integer("prefetch_bytes", prefetch_bytes, least=1)
        self._owner = next(_owners)
        self._run = Run()
        self._meter: Meter | None = None
        chosen = _choose(dataset)
        self._make_share(len(chosen), 0)
        super().__init__(chosen, batch_sampler=_Batches(self, chosen), **options)
        # What Lightning looks at to see that nothing is left to be done for several ranks. PyTorch lets nobody set it.
        self.__dict__["sampler"] = self.batch_sampler.sampler

    @property
    def epoch(self) -> int:
        """The epoch of the pass that is under way or was broken off, else of the next one."""
        return self._run.epoch

    def __iter__(self) -> Iterator[Any]:
        return self._iter_pass()

    def set_epoch(self, epoch: int) -> None:
        """Have the next pass be of an epoch, from its beginning; for the epoch that the loader is in, do nothing.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self._run.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the run stands, as JSON can carry it: the batches that the loop has taken are done.

        What workers have fetched ahead does not count. The state may be loaded with any number of workers, and of
        ranks: that of any rank, taken after equally many steps, serves all.
        """
        choice = self._source.choice
        return StreamState(
            dataset=choice.dataset,
            revision=self._source.revision,
            include=None if choice.include is None else list(choice.include),
            exclude=None if choice.exclude is None else list(choice.exclude),
            chosen=self._name_chosen(),
            shuffle=self._shuffle,
            seed=self._seed,
            epoch=self._run.epoch,
            position=self._run.position,
        ).model_dump()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state says; the next pass gives what was not taken.

        Seed and epoch are those of the state, and so is the revision, which the dataset takes over unless it was made
        with one.

        Args:
            state: What `state_dict` returned.

        Raises:
            InvalidRequestError: It is of another dataset, selection, subset, order or pinned revision, or of a revision
                that the hub has no longer; the message says what differs.
        """
        read = parse_state(state)
        check_choice(read, self._source.choice, shuffle=self._shuffle, chosen=self._name_chosen())
        source = self._source.at_revision(read.revision)
        length = len(source) if isinstance(self.dataset, HubDataset) else len(self.dataset)
        check_integer("the position of the state", read.position, most=length)
        if source is not self._source:
            self._hub_dataset._use(source, self._hub_dataset._labels.target)
            self._iterator = None  # of workers that persist and have the other revision
        self._seed = read.seed
        self._run.go_to(read.epoch, read.position)

    def stats(self) -> StreamStats:
        """Return how the pass that is under way goes, or how the last one went; requests of workers are not counted."""
        return StreamStats() if self._meter is None else self._meter.read()

    @property
    def _hub_dataset(self) -> HubDataset:
        dataset: HubDataset = self.dataset if isinstance(self.dataset, HubDataset) else self.dataset.dataset
        return dataset

    @property
    def _source(self) -> SampleSource:
        return self._hub_dataset._source

    def _name_chosen(self) -> str | None:
        """Return what tells one subset from another; None for all samples."""
        if isinstance(self.dataset, HubDataset):
            return None
        return hashlib.sha256(array("q", self.dataset.indices).tobytes()).hexdigest()

    def _make_share(self, length: int, start: int) -> Share:
        rank, world_size = self._given_rank
        if rank is None or world_size is None:
            is_known = torch.distributed.is_available() and torch.distributed.is_initialized()
            rank = torch.distributed.get_rank() if is_known else 0
            world_size = torch.distributed.get_world_size() if is_known else 1
        return Share(length, rank, world_size, self._remainder or ("pad" if world_size > 1 else "exact"), start)

    def _make_plan(self, start: int) -> Plan:
        return Plan(
            owner=self._owner,
            share=self._make_share(len(self.dataset), start),
            seed=self._seed,
            epoch=self._run.epoch,
            shuffle=self._shuffle,
            size=self._size,
            drop_last=self._drop_last,
            stride=max(1, self.num_workers),
            budget_bytes=max(1, self._prefetch_bytes // max(1, self.num_workers)),
        )

    def _iter_pass(self) -> Iterator[Any]:
        plan = self._make_plan(self._run.prepare())
        progress = self._run.begin(plan.share, min(plan.share.count, plan.count * plan.size))
        reads = self._hub_dataset._reads
        meter = self._meter = Meter()
        reads.begin(self._owner, meter)
        if self.num_workers:
            self._source.is_nearby()
        sent = self.batch_sampler.begin(plan)
        sizes = _SampleSizes(self._source, self.dataset)
        waited_s = 0.0
        try:
            began = time.monotonic()
            for batch in super().__iter__():
                waited_s += time.monotonic() - began
                meter.waited_s = waited_s  # all of it, decoding too, and not only for bytes
                numbers = sent.popleft()
                progress.taken += len(numbers)
                meter.samples += len(numbers)
                meter.bytes += sizes.sum(numbers)
                yield batch
                began = time.monotonic()
        finally:
            meter.stop()
            reads.end(self._owner)
        self._run.finish(progress)
        log.info("epoch %d of dataset %s: %s", plan.epoch, shown(self._source.choice.dataset), meter.read())


class _Samples(DistributedSampler[Any]):
    """Which samples come, one by one; where frameworks set the epoch."""

    def __init__(self, loader: HubDataLoader, dataset: Any) -> None:
        share = loader._make_share(len(dataset), 0)
        super().__init__(dataset, num_replicas=share.world_size, rank=share.rank, shuffle=loader._shuffle)
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        self._loader.set_epoch(epoch)

    def __len__(self) -> int:
        return self._loader._make_share(len(self.dataset), 0).count

    def __iter__(self) -> Iterator[int]:
        for batch in self._loader._make_plan(self._loader._run.start):
            yield from batch


class _Batches:
    """Hands the batches of the pass that was begun last to PyTorch's DataLoader.

    Attributes:
        batch_size: How many samples a batch has; frameworks read it, as the next two.
        drop_last: Whether the last batch is left out if it is smaller.
        sampler: The samples one by one.
    """

    def __init__(self, loader: HubDataLoader, dataset: Any) -> None:
        self.batch_size = loader._size
        self.drop_last = loader._drop_last
        self.sampler = _Samples(loader, dataset)
        self._loader = loader
        self._plan: Plan | None = None
        self._sent: deque[PlannedBatch] = deque()

    def begin(self, plan: Plan) -> deque[PlannedBatch]:
        """Begin a pass; return where the batches are noted that were handed out."""
        self._plan, self._sent = plan, deque()
        return self._sent

    def __len__(self) -> int:
        return self._loader._make_plan(0).count

    def __iter__(self) -> Iterator[PlannedBatch]:
        plan, self._plan = self._plan, None
        plan, sent = plan or self._loader._make_plan(self._loader._run.start), self._sent
        for batch in plan:
            sent.append(batch)
            yield batch


class _SampleSizes:
    """How many bytes samples have, by their numbers."""

    def __init__(self, source: SampleSource, dataset: Any) -> None:
        self._sizes = source.list_sizes()
        self._rows = source.rows
        self._chosen = None if isinstance(dataset, HubDataset) else dataset.indices

    def sum(self, numbers: Sequence[int]) -> int:
        """Return the sum of some."""
        chosen = numbers if self._chosen is None else map(self._chosen.__getitem__, numbers)
        return sum(self._sizes[self._rows[number]] for number in chosen)


def _choose(dataset: Any) -> HubDataset | _ChosenSamples:
    """Return a dataset, or a subset of one, whose batches can be read ahead."""
    if isinstance(dataset, HubDataset):
        return dataset
    indices: Sequence[int] | None = None
    inner = dataset
    while isinstance(inner, Subset):
        indices = inner.indices if indices is None else [inner.indices[index] for index in indices]
        inner = inner.dataset
    if indices is None or not isinstance(inner, HubDataset):
        raise InvalidRequestError(
            f"HubDataLoader goes over a dsx.torch.HubDataset or a Subset of one, not {shown(dataset)}; for others use "
            "PyTorch's DataLoader"
        )
    return _ChosenSamples(inner, [inner._check_index(index) for index in indices])
