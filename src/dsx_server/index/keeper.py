"""Keeps the index true: scans datasets when somebody asks, when something changed, and now and then.

One process of a hub has a keeper. Everything that it finds is in the index file, where all processes see it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from dsx.errors import DatasetNotFoundError, DsxError
from dsx_server.index.database import Database
from dsx_server.index.history import prune_revisions
from dsx_server.index.mounts import forget_folders, note_folder
from dsx_server.index.revisions import is_published, make_key, publish_living, read_info
from dsx_server.index.scan import Scan, Scanner
from dsx_server.index.schedule import Schedule
from dsx_server.storage import Storage

log = logging.getLogger("dsx.index")

SCAN_THREADS = 8
"""How many datasets are scanned at once."""

LONG_S = 0.5
"""A first scan that has taken so long, in s, is one that is not made twice for one question."""

LOOK_S = 1.0
"""How often, in s, a keeper looks whether datasets came or went."""

PROGRESS_LOGGED_S = 10.0


class Keeper:
    """Scans the datasets of one storage. Threads may share it; `close` it when done.

    Args:
        db: The index.
        storage: Where the datasets lie.
        list_datasets: Names those that there are.
        rescan_s: How long a change may go unseen where nothing watches, in s.
        on_news: Told the name of a dataset of which a scan that nobody waits for has published a revision.
        on_rebuilt: Called when a damaged index was made anew.
    """

    def __init__(
        self,
        db: Database,
        storage: Storage,
        *,
        list_datasets: Callable[[], list[str]],
        rescan_s: float,
        on_news: Callable[[str], object],
        on_rebuilt: Callable[[], object],
    ) -> None:
        self._db = db
        self._storage = storage
        self._list_datasets = list_datasets
        self._rescan_s = rescan_s
        self._on_news = on_news
        self._on_rebuilt = on_rebuilt
        self._kept: dict[str, _Kept] = {}
        # Held by whoever scans a dataset; never forgotten, so that nobody scans it beside somebody else.
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._watched: Mapping[str, object] = {}
        self._wake = threading.Condition()
        self._is_closed = self._has_listed = False
        self._threads = ThreadPoolExecutor(SCAN_THREADS, thread_name_prefix="dsx-scan")
        self._thread = threading.Thread(target=self._run, name="dsx-keeper", daemon=True)

    def start(self) -> None:
        """Begin to scan without being asked."""
        self._thread.start()

    def close(self) -> None:
        """Begin no more scans; one under way ends when it next writes."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def refresh(self, dataset: str) -> None:
        """Scan ``dataset`` and publish what is found; all who ask before the scan begins share it.

        A first scan that has been under way for a while is shared as well: its end is what everybody waits for.

        Raises:
            DatasetNotFoundError: There is no such dataset.
            UnreadableError: A folder could not be read.
            HubUnavailableError: Its disk seems not to be mounted, or the index cannot be written.
        """
        asked = time.monotonic()
        kept = self._keep(dataset)
        is_shared = kept.entries is not None and not kept.is_known and asked - kept.began > LONG_S
        with self._turns[dataset]:
            if kept.began <= asked and not (is_shared and kept.is_true):
                self._scan_whole(kept)
            self._publish(kept)

    def count_scanned(self, dataset: str) -> int | None:
        """Return how many entries the scan under way has found so far; None when there is none."""
        kept = self._kept.get(dataset)
        return None if kept is None else kept.entries

    def is_scanning(self) -> bool:
        """Tell whether any dataset is being scanned."""
        return any(kept.entries is not None for kept in list(self._kept.values()))

    def is_settled(self) -> bool:
        """Tell whether every dataset has been looked at since the start."""
        return self._has_listed and all(kept.is_known for kept in list(self._kept.values()))

    def note_change(self, dataset: str, folder: str) -> None:
        """Something in ``folder`` of ``dataset`` seems to have changed."""
        with self._wake:
            self._keep(dataset).schedule.note_change(folder, time.monotonic())
            self._wake.notify_all()

    def note_watched(self, folders: Mapping[str, object]) -> None:
        """From now on these folders, by dataset, are watched, and no others."""
        with self._wake:
            before, self._watched = self._watched, dict(folders)
            for name, kept in self._kept.items():
                kept.schedule.is_watched = name in folders
                if folders.get(name) != before.get(name):
                    kept.schedule.note_all_changed(time.monotonic())  # what changed before nobody has seen
            self._wake.notify_all()

    def note_all_changed(self) -> None:
        """Anything may have changed in any dataset."""
        with self._wake:
            for kept in self._kept.values():
                kept.schedule.note_all_changed(time.monotonic())
            self._wake.notify_all()

    def _keep(self, dataset: str) -> _Kept:
        kept = self._kept.get(dataset)
        if kept is None:
            kept = self._kept.setdefault(dataset, _Kept(dataset, Schedule(self._rescan_s)))
            kept.schedule.is_watched = dataset in self._watched
        return kept

    def note_damaged(self) -> None:
        """Somebody has found the index damaged."""
        self._db.is_damaged = True
        with self._wake:
            self._wake.notify_all()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                if self._db.is_damaged:
                    self._rebuild()
                self._db.check()
                self._begin_all(self._list_datasets())
            except DsxError as error:
                log.debug("the datasets cannot be looked at: %s", error)
                self._pause(LOOK_S)
            except Exception:  # the outermost door of this thread
                if not self._is_closed:
                    log.exception("looking at the datasets failed")
                self._pause(LOOK_S)

    def _rebuild(self) -> None:
        """Make the index anew; what is being scanned at the moment is not written, and is scanned again."""
        self._db.rebuild()
        self._on_rebuilt()
        self.note_all_changed()

    def _begin_all(self, names: list[str]) -> None:
        """Begin what is due, and wait until something will be."""
        with self._wake:
            for gone in set(self._kept) - set(names):
                if not self._kept[gone].is_at_work:
                    del self._kept[gone]
            self._has_listed = True
            wait_s = min([LOOK_S, *(self._begin_due(self._keep(name)) for name in names)])
        self._pause(wait_s)

    def _pause(self, wait_s: float) -> None:
        with self._wake:
            if not self._is_closed:
                self._wake.wait(max(0.01, wait_s))

    def _begin_due(self, kept: _Kept) -> float:
        """Begin what is due for one dataset, and return in how many s something will be."""
        now = time.monotonic()
        if kept.is_at_work or self._is_closed or now < kept.rests_until:
            return LOOK_S
        folders = kept.schedule.take_folders(now)
        if folders == [] and not (kept.has_news and kept.schedule.may_publish(now)):
            return kept.schedule.find_next(has_news=kept.has_news) - now
        kept.is_at_work = True
        self._threads.submit(self._work, kept, folders)
        return LOOK_S

    def _work(self, kept: _Kept, folders: list[str] | None) -> None:
        try:
            if self._bring_up(kept, folders):
                self._on_news(kept.dataset)
        except Exception as error:  # noqa: BLE001 -- the outermost door of this thread
            with self._wake:
                kept.schedule.note_failed(time.monotonic())
                kept.rests_until = time.monotonic() + LOOK_S
            if not self._is_closed and not isinstance(error, DatasetNotFoundError):
                kept.log_failure(error)
        finally:
            with self._wake:
                kept.is_at_work = False
                self._wake.notify_all()

    def _bring_up(self, kept: _Kept, folders: list[str] | None) -> bool:
        """Scan the whole dataset, or some folders, and tell whether that made a revision."""
        with self._turns[kept.dataset]:
            if folders is None or (folders and not kept.is_true):
                self._scan_whole(kept)
            elif folders:
                self._scan_some(kept, folders)
            if kept.has_news and kept.is_true and kept.schedule.may_publish(time.monotonic()):
                return self._publish(kept)
            if folders is None:
                self._log(kept, is_new=False)
            return False

    def _scan_whole(self, kept: _Kept) -> None:
        kept.began = time.monotonic()
        try:
            scanner, scan = self._scan(kept, None)
            if scan is None:
                raise RuntimeError("a scan of everything is always enough")
            took_s = time.monotonic() - kept.began
            with self._db.write() as db:
                db.execute(
                    "UPDATE datasets SET scanned_ns = ?, scan_s = ?, failure = NULL WHERE id = ?",
                    (time.time_ns(), took_s, make_key(db, kept.dataset)),
                )
            if scan.entries:
                note_folder(self._db, kept.dataset, scanner.identity)
            else:
                forget_folders(self._db, {kept.dataset})
        except BaseException as error:
            kept.began = float("-inf")  # whoever waits for this scan makes one himself
            if isinstance(error, DsxError) and not isinstance(error, DatasetNotFoundError):
                self._note_failure(kept, error)
            raise
        self._note_scanned(kept, scan, took_s, is_whole=True)

    def _scan_some(self, kept: _Kept, folders: list[str]) -> None:
        began = time.monotonic()
        scan = self._scan(kept, folders)[1]
        if scan is None:
            self._scan_whole(kept)
        else:
            self._note_scanned(kept, scan, time.monotonic() - began, is_whole=False)

    def _scan(self, kept: _Kept, folders: list[str] | None) -> tuple[Scanner, Scan | None]:
        kept.note_progress(0)
        was_true, kept.is_true = kept.is_true, False
        try:
            scanner = Scanner(self._db, self._storage, kept.dataset, on_progress=kept.note_progress)
            scan = scanner.scan_all() if folders is None else scanner.scan_folders(folders)
            kept.is_true = was_true or folders is None
            return scanner, scan
        finally:
            kept.entries = None
            kept.is_known = True

    def _note_scanned(self, kept: _Kept, scan: Scan, took_s: float, *, is_whole: bool) -> None:
        with self._db.read() as db:
            kept.has_news = not is_published(db, kept.dataset)
        kept.opened += scan.opened
        kept.took_s = took_s
        kept.failure_logged = ""
        with self._wake:
            kept.schedule.note_scanned(racy=scan.racy, took_s=took_s, is_whole=is_whole, now=time.monotonic())
            self._wake.notify_all()

    def _publish(self, kept: _Kept) -> bool:
        """Publish what was found, and tell whether that made a revision."""
        is_new = False
        if kept.has_news:
            with self._db.write() as db:
                is_new = publish_living(db, make_key(db, kept.dataset))
                if is_new:
                    prune_revisions(db, kept.dataset)
        kept.has_news = False
        with self._wake:
            kept.schedule.note_published(time.monotonic())
        self._log(kept, is_new=is_new)
        return is_new

    def _log(self, kept: _Kept, *, is_new: bool) -> None:
        with self._db.read() as db:
            info = read_info(db, kept.dataset)
        if info is None:
            return
        left_out = ", ".join(f"{count} {reason}" for reason, count in info.left_out.items()) or "nothing"
        is_news = is_new or info.left_out != kept.left_out_logged
        kept.left_out_logged = info.left_out
        log.log(
            logging.INFO if is_news else logging.DEBUG,
            "scanned %r in %.2f s: %d entries, %d bytes, revision %s, %d opened, left out: %s",
            kept.dataset, kept.took_s, info.entries, info.bytes, info.id, kept.opened, left_out,
        )  # fmt: skip
        kept.opened = 0

    def _note_failure(self, kept: _Kept, error: DsxError) -> None:
        kind = type(error).__name__
        with suppress(DsxError), self._db.write() as db:  # an index that fails says so to whoever asks
            db.execute("UPDATE datasets SET failure = ? WHERE name = ?", (json.dumps([kind, str(error)]), kept.dataset))


class _Kept:
    """One dataset in a keeper's hands.

    Attributes:
        began: When the newest scan of all of it began.
        is_at_work: Whether a thread of the keeper has it.
        is_known: Whether it has been looked at.
        is_true: Whether the living rows are what a scan of everything found, and not what one that failed had so far.
        rests_until: After a failure nothing is begun before this time (monotonic, s).
        has_news: Whether what was found is still to be published.
        entries: How many entries the scan under way has found; None when there is none.
    """

    def __init__(self, dataset: str, schedule: Schedule) -> None:
        self.dataset = dataset
        self.schedule = schedule
        self.began = float("-inf")
        self.is_at_work = self.is_known = self.is_true = False
        self.rests_until = 0.0
        self.has_news = False
        self.entries: int | None = None
        self.opened = 0
        self.took_s = 0.0
        self.left_out_logged: dict[str, int] = {}
        self.failure_logged = ""
        self._said = 0.0

    def note_progress(self, entries: int) -> None:
        """Keep how far a scan is, and say so in the log now and then."""
        now = time.monotonic()
        if not entries:
            self._said = now
        elif now - self._said > PROGRESS_LOGGED_S:
            self._said = now
            log.info("scanning %r: %d entries so far", self.dataset, entries)
        self.entries = entries

    def log_failure(self, error: Exception) -> None:
        """Say in the log, once, that the dataset cannot be scanned."""
        if not isinstance(error, DsxError):
            log.error("dataset %r could not be scanned", self.dataset, exc_info=error)
        elif str(error) != self.failure_logged:
            self.failure_logged = str(error)
            log.warning("dataset %r cannot be scanned: %s", self.dataset, error)
