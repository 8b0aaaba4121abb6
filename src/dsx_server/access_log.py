"""One line in the log for each request.

`logging` takes as long over a line as the hub over half of a short answer. So the lines of one turn of the event loop
are handed to it together, as one record; each begins as if it had come alone.
"""

from __future__ import annotations

import asyncio
import logging
import time

LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"
"""How a line of the hub's log looks; the lines of this module too."""

log = logging.getLogger("dsx.access")


class AccessLog:
    """Collects lines and writes them a moment later. For one event loop."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @property
    def is_on(self) -> bool:
        """Whether anybody wants the lines."""
        return log.isEnabledFor(logging.INFO)

    def add(self, line: str) -> None:
        """Write one line, soon."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self.flush)
        self._lines.append(line)

    def flush(self) -> None:
        """Write what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            # The record itself begins the first one; the others came within the same few milliseconds.
            log.info("%s", lines[0] if len(lines) == 1 else f"\n{_format_time()} INFO ".join(lines))


def _format_time() -> str:
    """Write the time as `logging` does."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now % 1 * 1000):03d}"
