"""What a sample is, as its path tells: the folder that it lies in, or what a function of the path returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from dsx.errors import InvalidRequestError
from dsx.protocol.text import shown

Target = Literal["folder"] | Callable[[str], Any] | None


class Labels:
    """Labels of samples by their paths.

    Attributes:
        classes: Names of the innermost folders, sorted, where the label is the number of one; else None.

    Args:
        target: ``"folder"``, a function of the path, or None for no labels.
        paths: The paths of all samples.

    Raises:
        InvalidRequestError: It is none of these, or a sample lies in no folder.
    """

    def __init__(self, target: Target, paths: Iterable[str]) -> None:
        if not (target in ("folder", None) or callable(target)):
            raise InvalidRequestError(f"target is 'folder', a function of the path, or None; not {shown(target)}")
        self.target = target
        self.classes = _list_folders(paths) if target == "folder" else None
        self.class_to_idx = {} if self.classes is None else {name: at for at, name in enumerate(self.classes)}

    def find(self, path: str) -> Any:
        """Return the label of a sample, where there are any."""
        if callable(self.target):
            return self.target(path)
        return self.class_to_idx[_name_folder(path)]


def _name_folder(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]


def _list_folders(paths: Iterable[str]) -> list[str]:
    folders: dict[str, str] = {}
    for path in paths:
        folders.setdefault(_name_folder(path), path)
    if "" in folders:
        raise InvalidRequestError(
            f"{shown(folders[''])} lies in no folder that could be its label; pass include='*/**' to leave such files "
            "out, target=None for data alone, or target=a function of the path"
        )
    return sorted(folders)
