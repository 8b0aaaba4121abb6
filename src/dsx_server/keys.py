"""The key that a hub makes for itself when it was given none; it is kept in the state folder, for the owner alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

KEY_FILE = "api_key"


def keep_key(state_dir: Path) -> tuple[Path, str, bool]:
    """Return the file, the key in it, and whether it was made just now.

    Two hubs that start at once agree: the file gets its name only if there is none, complete and with mode 0600.

    Raises:
        OSError: It cannot be read or written.
    """
    file = state_dir / KEY_FILE
    made = secrets.token_urlsafe(32)
    is_new = False
    if not file.exists():
        temporary = state_dir / f"{KEY_FILE}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as opened:
                opened.write(made + "\n")
            is_new = _name(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
    return file, file.read_text("ascii").strip(), is_new


def _name(temporary: Path, file: Path) -> bool:
    """Give a file its name unless there is one; tell whether it got it."""
    try:
        file.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if file.exists():
            return False
        temporary.replace(file)
    return True
