"""Names that operating systems and NAS boxes leave behind. They are neither listed nor served, by any route."""

from __future__ import annotations

from collections.abc import Iterable

_JUNK_NAMES = {".ds_store", "thumbs.db", "desktop.ini", "@eadir"}
_NO_DATASETS = {"lost+found", "$recycle.bin", "system volume information"}


def is_junk(name: str) -> bool:
    """Tell whether a path segment is ``.DS_Store``, ``._*``, ``Thumbs.db``, ``desktop.ini`` or ``@eaDir``."""
    return name.startswith("._") or name.lower() in _JUNK_NAMES


def has_junk(names: Iterable[str]) -> bool:
    """Tell quickly whether there may be junk among many names: False is certain."""
    text = "\0" + "\0".join(names).lower()
    return "\0._" in text or any(junk in text for junk in _JUNK_NAMES)


def is_dataset_name(name: str) -> bool:
    """Tell whether a folder of this name at the top of the served folder is a dataset."""
    return not (name.startswith(".") or is_junk(name) or name.lower() in _NO_DATASETS)
