"""Where a run over many epochs stands: which epoch, from where its pass began, how far that has come."""

from __future__ import annotations

from dsx.order import Share, check_integer


class Progress:
    """How far one pass has come.

    Attributes:
        share: What the pass takes.
        total: How many samples of it the loop is given.
        taken: How many of them it has taken.
    """

    __slots__ = ("share", "taken", "total")

    def __init__(self, share: Share, total: int) -> None:
        self.share = share
        self.total = total
        self.taken = 0

    @property
    def is_whole(self) -> bool:
        """Whether the loop has taken all, though it may not have asked whether there is more."""
        return 0 < self.total == self.taken


class Run:
    """Passes over the same samples, one after another; of several at a time the one begun last counts.

    Attributes:
        epoch: The epoch that the next pass, or the one under way, is of.
        start: The position from which that pass begins.

    Args:
        epoch: The first epoch.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = check_integer("epoch", epoch)
        self.start = 0
        self._progress: Progress | None = None

    @property
    def position(self) -> int:
        """The next position in the order of the epoch, over all ranks."""
        progress = self._progress
        return self.start if progress is None else progress.share.find_reached(progress.taken)

    def prepare(self) -> int:
        """Go on to the next epoch if the loop has had all of this one; return the position from which to begin."""
        if self._progress is not None and self._progress.is_whole:
            self.go_to(self.epoch + 1, 0)
        return self.start

    def begin(self, share: Share, total: int) -> Progress:
        """Begin a pass over a share, of which the loop is given so many samples."""
        self._progress = Progress(share, total)
        return self._progress

    def finish(self, progress: Progress) -> None:
        """Note that a pass has come to its end: the next one is of the next epoch."""
        if progress is self._progress:
            self.go_to(self.epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; where a run stands in that very epoch, it stays."""
        is_had = self._progress is not None and self._progress.is_whole
        if check_integer("epoch", epoch) != self.epoch or is_had:
            self.go_to(epoch, 0)

    def go_to(self, epoch: int, position: int) -> None:
        """Have the next pass be of an epoch, and begin at a position."""
        self.epoch = epoch
        self.start = position
        self._progress = None
