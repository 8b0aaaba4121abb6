"""The one gate for dataset names and relative paths.

The hub admits nothing to its storage, and the SDK nothing to its cache, that has not passed `check_dataset` and
`check_path`. What a *system* cannot hold (a colon on Windows) is another question: `check_local` answers it before a
path becomes a file name. Links are no question of text: the hub's storage deals with them when it opens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from dsx.errors import InvalidPathError
from dsx.protocol.text import shown

MAX_PATH_BYTES = 4096
"""Longest path admitted, in bytes of UTF-8 (Linux's PATH_MAX)."""

# NUL, backslash (a separator on Windows), lone surrogates (not UTF-8), and the segments "", "." and "..".
_NOT_ADMITTED = re.compile(r"[\x00\\\ud800-\udfff]|(?:\A|/)\.{0,2}(?=/|\Z)")

_WINDOWS_CHARS = re.compile(r'[<>:"|?*\x01-\x1f]|[. ](?=/|\Z)')
_WINDOWS_DEVICES = re.compile(
    r"(?:\A|/)(?:CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³]|CONIN\$|CONOUT\$) *(?=[./]|\Z)", re.IGNORECASE
)


def check_path(path: str) -> str:
    """Return ``path`` unchanged when it is a path that can name an entry.

    Args:
        path: POSIX path relative to a dataset: ``/`` between segments, no leading or trailing one, no empty, ``.`` or
            ``..`` segment, no backslash, no NUL, valid Unicode, at most `MAX_PATH_BYTES` bytes.

    Raises:
        InvalidPathError: It is not; the message says which path.
    """
    if not isinstance(path, str):
        raise InvalidPathError(f"a path is a string relative to the dataset, like 'train/a.png'; got {shown(path)}")
    if _NOT_ADMITTED.search(path) or len(path) > MAX_PATH_BYTES or len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidPathError(
            f"{shown(path)} is not a path inside a dataset; paths are relative, like 'train/a.png', "
            "without '..', backslash or NUL"
        )
    return path


def are_names(names: Iterable[str]) -> bool:
    """Tell whether each of these, none of which has a slash in it, is a segment that `check_path` admits."""
    text = "/".join(names)
    return text == "" or not _NOT_ADMITTED.search(text)


def check_dataset(name: str) -> str:
    """Return ``name`` unchanged when it can name a dataset: one path segment that does not begin with a dot.

    Raises:
        InvalidPathError: It cannot; the message says which name.
    """
    if (
        not isinstance(name, str)
        or name.startswith(".")
        or "/" in name
        or _NOT_ADMITTED.search(name)
        or len(name) > 255
    ):
        raise InvalidPathError(
            f"{shown(name)} is not a dataset name; a dataset is one folder directly inside the served folder"
        )
    return name


def check_local(path: str, *, windows: bool) -> str:
    """Return ``path`` unchanged when a file of this name can be made on this system and lands where it says.

    Args:
        path: A path that `check_path` admitted.
        windows: Whether the file will lie on Windows, which forbids more.

    Raises:
        InvalidPathError: The system cannot hold the name; the bytes can still be streamed.

    Source:
        Microsoft, "Naming Files, Paths, and Namespaces".
    """
    if windows and (_WINDOWS_CHARS.search(path) or _WINDOWS_DEVICES.search(path)):
        raise InvalidPathError(
            f"Windows cannot hold a file named {shown(path)}; read it with get_file_bytes() instead of caching it"
        )
    return path


def fold_path(path: str) -> str:
    """Reduce ``path`` to what file systems that ignore case or Unicode form (macOS, Windows) tell apart."""
    if path.isascii():  # most are, and there this says the same in a tenth of the time
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
