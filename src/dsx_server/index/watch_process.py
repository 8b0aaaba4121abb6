"""Watch folders and print what changes: a process of its own, started by `watching`.

Setting up the watch of a large tree holds Python's global lock for seconds, and every entry that the hub opens is an
event to be thrown away: none of that shall happen in the process that answers requests.

Standard input closes when the hub ends, and this process with it. A line of output is JSON: a string, the path of
something that changed; ``null``: from now on everything is watched; ``{"many": true}``: so much changed that the
system may have lost some of it; or ``{"error": ...}``, and the process ends.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence

DEBOUNCE_MS = 200
STEP_MS = 50
TIMEOUT_MS = 500
MANY = 4000
"""The system's queue of events holds 16,384 on Linux, and a new file makes up to four."""


def main(folders: Sequence[str]) -> int:
    """Watch ``folders`` and all below them until standard input closes."""
    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    try:
        print_changes(folders, stop)
    except (ImportError, OSError, RuntimeError) as error:
        say({"error": str(error)})
        return 1
    return 0


def print_changes(folders: Sequence[str], stop: threading.Event) -> None:
    """Print the path of all that changes, until ``stop`` is set."""
    import watchfiles  # an extra, and slow to import

    changes = watchfiles.watch(
        *folders,
        watch_filter=None,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        stop_event=stop,
        rust_timeout=TIMEOUT_MS,
        yield_on_timeout=True,
        raise_interrupt=False,
        force_polling=False,
        ignore_permission_denied=True,
    )
    is_ready = False
    for batch in changes:
        if not is_ready:  # the first batch, perhaps an empty one, comes when the watch is set up
            say(None)
            is_ready = True
        if len(batch) > MANY:
            say({"many": True})
        for path in sorted({path for _, path in batch}):
            sys.stdout.write(json.dumps(path) + "\n")
        sys.stdout.flush()


def say(value: object) -> None:
    """Print one line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
