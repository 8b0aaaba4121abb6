"""When a dataset is to be scanned and when a revision of it is to be published: arithmetic on times, nothing else.

A change that comes after a quiet time is published at once. While more keep coming, as when files are being copied in,
the next revision waits until they stop, or for `PUBLISH_EVERY_S`: revisions of half a copy are of no use to anybody.
"""

from __future__ import annotations

QUIET_S = 2.0
"""A dataset without a change for so long, in s, is quiet."""

PUBLISH_EVERY_S = 30.0
"""While a dataset is not quiet, a revision is published so often, in s."""

SETTLE_S = 0.1
"""A change waits this long, in s, for those that come with it."""

RACY_AGAIN_S = 2.2
"""Entries that had just been written are looked at again after this time, in s."""

WATCHED_FACTOR = 20
"""Where changes are watched, the look at everything that finds what watching missed comes so many times more seldom."""

FAILED_AGAIN_S = 10.0
"""A scan that failed is made again after this time, in s, at the latest."""

MANY_FOLDERS = 500
"""With more changed folders than this, everything is looked at."""

REST = 3
"""After a scan of some folders there is a pause of so many times what it took: copying must not keep a core busy.

The same goes for scans of everything that are made because many folders changed."""


class Schedule:
    """What is due for one dataset, and when. Times are those of one monotonic clock, in s.

    Args:
        rescan_s: How long a change may go unseen where nothing watches.

    Attributes:
        is_watched: Whether something watches the dataset's folders.
    """

    def __init__(self, rescan_s: float) -> None:
        self._rescan_s = rescan_s
        self.is_watched = False
        self._folders: dict[str, float] = {}
        self._whole_at = float("-inf")
        self._rests_until = float("-inf")
        self._whole_rests_until = float("-inf")
        self._last_change = float("-inf")
        self._last_published = float("-inf")
        self._is_prompt = False

    def note_change(self, folder: str, now: float) -> None:
        """Something changed in a folder."""
        self._is_prompt = self._is_prompt or now - self._last_change >= QUIET_S
        self._last_change = now
        self._look_again(folder, now + (SETTLE_S if self._is_prompt else QUIET_S))

    def note_all_changed(self, now: float) -> None:
        """Anything may have changed."""
        self._whole_at = min(self._whole_at, now)

    def take_folders(self, now: float) -> list[str] | None:
        """Return the folders to be looked at now; None for the whole dataset, an empty list for nothing."""
        is_many = len(self._folders) > MANY_FOLDERS
        if now >= self._whole_at or (is_many and now >= self._whole_rests_until):
            self._folders.clear()
            self._whole_at = float("inf")
            return None
        if is_many:
            return []
        due = [folder for folder, at in self._folders.items() if at <= now and now >= self._rests_until]
        for folder in due:
            del self._folders[folder]
        return due

    def note_scanned(self, *, racy: list[str], took_s: float, is_whole: bool, now: float) -> None:
        """A scan has ended, and these folders want another look."""
        if len(racy) > MANY_FOLDERS:
            self._whole_at = min(self._whole_at, now + RACY_AGAIN_S)
        else:
            for folder in racy:
                self._look_again(folder, now + RACY_AGAIN_S)
        if is_whole:
            self._whole_rests_until = now + REST * took_s
            self._whole_at = min(self._whole_at, now + self._pause_s(took_s))
        else:
            self._rests_until = now + REST * took_s

    def note_failed(self, now: float) -> None:
        """A scan has failed."""
        self._whole_at = min(self._whole_at, now + min(self._rescan_s, FAILED_AGAIN_S))

    def may_publish(self, now: float) -> bool:
        """Tell whether what was found may be published now."""
        is_quiet = now - self._last_change >= QUIET_S
        return self._is_prompt or is_quiet or now - self._last_published >= PUBLISH_EVERY_S

    def note_published(self, now: float) -> None:
        """All that was found is published."""
        self._last_published = now
        self._is_prompt = False

    def find_next(self, *, has_news: bool) -> float:
        """Return when there is something to do next; ``has_news`` says whether something waits to be published."""
        rests_until = self._whole_rests_until if len(self._folders) > MANY_FOLDERS else self._rests_until
        due = min(self._whole_at, max(rests_until, min(self._folders.values(), default=float("inf"))))
        if has_news:
            due = min(due, self._last_change + QUIET_S, self._last_published + PUBLISH_EVERY_S)
        return due

    def _look_again(self, folder: str, at: float) -> None:
        self._folders[folder] = min(at, self._folders.get(folder, at))

    def _pause_s(self, took_s: float) -> float:
        """Return how long to pause after a scan, so that no change goes unseen for longer than it may."""
        if self.is_watched:
            return self._rescan_s * WATCHED_FACTOR
        # A change behind the scan's back is found at the end of the next: pause and two scans are the longest.
        return max(self._rescan_s - 2 * took_s, took_s)
