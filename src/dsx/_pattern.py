"""Which rows of a manifest a caller will ask for next, learned from those he has asked for. Arithmetic, no I/O.

A row is expected when its *kind*, the name of its folder and its suffix, was asked for and not passed over. So a loop
over a manifest, over the ``.jpg`` of it, or over what lies in folders ``images`` looks the same from here: one list of
which some kinds count. Where kinds do not explain the calls, a constant distance between rows may.

Nothing is foretold before it would have come true `SURE_AFTER` times in a row. Who jumps about never gets there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsx.manifest import Manifest, columns_of

SURE_AFTER = 3
"""So many calls in a row have to be the ones expected."""

FORGIVEN_AFTER = 8
"""A kind that was passed over is expected again when it was asked for so many times since."""

NEAR_ROWS = 32
"""So many rows are looked at to learn what was passed over, and how far a caller may go while nothing is known."""

FAR_ROWS = 8192
"""So many rows are looked through at once for those that are expected; whoever goes further begins anew."""

CHUNK_ROWS = 256
MOST_KINDS = 4096

Kind = tuple[str | None, str | None]
"""Name of the folder and suffix; None stands for any."""


class Pattern:
    """What the calls that go along one manifest have in common. Not for several threads at once.

    Attributes:
        row: The row that was asked for last, or the furthest one of those that came out of order; -1 before the first.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.row = -1
        self._manifest = manifest
        self._columns = columns_of(manifest)
        self._scores: dict[Kind, int] = {}
        self._right = 0
        self._step = 0
        self._steps = 0
        self._late = 0

    @property
    def is_sure(self) -> bool:
        """Whether what comes next can be foretold."""
        return self._right >= SURE_AFTER or self._steps >= SURE_AFTER

    def find_row(self, path: str) -> int | None:
        """Return the row of ``path``; None when the manifest has no such path."""
        row = self.row + max(1, self._step)
        columns = self._columns
        if row < len(columns.sizes) and columns.read_path(row) == path.encode("utf-8", "surrogatepass"):
            return row
        return self._manifest.find_row(path)

    def see(self, row: int, *, is_ordered: bool = True) -> bool:
        """Learn from a call for ``row``; return False when the caller has gone back, and begins anew.

        Args:
            row: The row.
            is_ordered: Whether the calls come in order; else one may be late, and only many such are a way back.
        """
        before, step = self.row, row - self.row
        if step == 0:
            return True
        kind = read_kind(self._columns.read_path(row).decode())
        self._late = self._late + 1 if step < 0 else 0
        if before < 0 or (step < 0 and (is_ordered or self._late > NEAR_ROWS)):
            self._begin_anew(row)
            self._note(kind, is_taken=True)
            return before < 0
        if step > 0:
            self._take_step(step)
            passed, is_surprise = self._look_between(before, row)
            if is_surprise:
                self._right = 0
            elif self._is_expected(kind):
                self._right += 1
            for each in passed:
                self._note(each, is_taken=False)
            self.row = row
        self._note(kind, is_taken=True)
        return True

    def reach(self, row: int) -> None:
        """Note that a row was asked for as foretold."""
        if row > self.row:
            self.row = row
            self._late = 0

    def pass_over(self, rows: Iterable[int]) -> None:
        """Learn that rows which were expected have not been asked for."""
        for row in rows:
            self._note(read_kind(self._columns.read_path(row).decode()), is_taken=False)
            self._right = self._steps = 0

    def iter_expected(self, after: int) -> Iterator[tuple[int, str | None]]:
        """Yield rows that are expected behind the row ``after``, with their paths; without one, how far that is.

        Ends at the end of the manifest, or when `FAR_ROWS` have been looked through.
        """
        count = len(self._columns.sizes)
        if self._right < SURE_AFTER:
            steps = (after - self.row) // self._step + 1
            for row in range(self.row + steps * self._step, count, self._step):
                yield row, self._columns.read_path(row).decode()
            return
        for start in range(after + 1, min(count, after + 1 + FAR_ROWS), CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, count)
            for row, path in enumerate(self._columns.read_paths(start, stop), start):
                if self._is_expected(read_kind(path)):
                    yield row, path
            yield stop - 1, None

    def _begin_anew(self, row: int) -> None:
        self.row = row
        self._right = self._step = self._steps = self._late = 0

    def _take_step(self, step: int) -> None:
        self._steps = self._steps + 1 if step == self._step else 1
        self._step = step

    def _look_between(self, before: int, row: int) -> tuple[set[Kind], bool]:
        """Return the kinds that were passed over, and whether one of them was expected."""
        most = FAR_ROWS if self.is_sure else NEAR_ROWS
        is_far = row - before > most
        passed: set[Kind] = set()
        for start in range(before + 1, min(row, before + 1 + (NEAR_ROWS if is_far else most)), CHUNK_ROWS):
            passed.update(map(read_kind, self._columns.read_paths(start, min(row, start + CHUNK_ROWS))))
            if any(map(self._is_expected, passed)):
                return passed, True
        return passed, is_far

    def _is_expected(self, kind: Kind) -> bool:
        score = self._scores.get(kind)
        if score is not None:
            return score >= 0
        folder, suffix = kind
        return self._scores.get((None, suffix), -1) >= 0 and self._scores.get((folder, None), 0) >= 0

    def _note(self, kind: Kind, *, is_taken: bool) -> None:
        scores = self._scores
        if len(scores) > MOST_KINDS:
            scores.clear()
        for key in (kind, (kind[0], None), (None, kind[1])):
            scores[key] = min(0, scores.get(key, 0) + 1) if is_taken else -FORGIVEN_AFTER


def read_kind(path: str) -> Kind:
    """Return the name of the folder that an entry lies in, and its suffix in lower case."""
    above, _, name = path.rpartition("/")
    return above.rpartition("/")[2], name.rpartition(".")[2].lower() if "." in name else ""
