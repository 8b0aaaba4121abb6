"""Where a run over many epochs stands: which epoch, from where its pass began, how far that has come."""

from __future__ import annotations

from dsx.order import Share, check_integer


class Progress:
    """How far one pass has come.

    Attributes:
        share: What the pass takes.
        taken: How many samples of it the loop has taken.
    """

    __slots__ = ("share", "taken")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.taken = 0


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

    def begin(self, share: Share) -> Progress:
        """Begin a pass over a share, which begins at `start`."""
        self._progress = Progress(share)
        return self._progress

    def finish(self, progress: Progress) -> None:
        """Note that a pass has come to its end: the next one is of the next epoch."""
        if progress is self._progress:
            self.go_to(self.epoch + 1, 0)

    def set_epoch(self, epoch: int) -> None:
        """Go to the begin of an epoch; where a run stands in that very epoch, it stays."""
        if check_integer("epoch", epoch) != self.epoch:
            self.go_to(epoch, 0)

    def go_to(self, epoch: int, position: int) -> None:
        """Have the next pass be of an epoch, and begin at a position."""
        self.epoch = epoch
        self.start = position
        self._progress = None
