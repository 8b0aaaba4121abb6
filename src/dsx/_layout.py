"""Where the entries of datasets lie below a folder, and which names cannot lie there.

A cache holds many datasets, each in a folder of its name; a folder of somebody's own holds entries directly::

    <cache>/cats/train/1.png         <dest>/train/1.png
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dsx._disk import make_folders
from dsx._manifest_files import MANIFEST_SUFFIX, PINNED_SUFFIX, list_named_files
from dsx.errors import CacheError, InvalidPathError
from dsx.protocol.paths import check_dataset, check_local, check_path, fold_path
from dsx.protocol.text import shown

PRIVATE = ".dsx"
"""Name of the folder in which the SDK keeps what is not an entry."""

OF_CACHE, OF_DEST = "manifests", "dest"
"""Folders in it: a cache has the first, a folder of somebody's own the second, which is empty."""


class CacheLayout:
    """``<root>/<dataset>/<path>``.

    Attributes:
        option: What a caller names the folder by.
        is_shared: Whether entries of several datasets may have one name.
    """

    option = "cache_dir"
    is_shared = False

    def claim(self, private: Path) -> None:
        """Make the SDK's own folder, with what shows whether it is a cache's or that of a folder of somebody's own.

        Raises:
            CacheError: It is the other.
        """
        if (private / OF_DEST).exists():
            raise CacheError(
                f"{private.parent} is a folder that download_dataset() fills as dest: its files do not lie as they do "
                "in a cache; use another cache_dir"
            )
        make_folders(private / OF_CACHE)

    def check_dataset(self, dataset: str) -> str:
        """Return ``dataset`` unchanged when it can be put here.

        Raises:
            InvalidPathError: It cannot.
        """
        return check_cacheable(dataset)

    def check_path(self, path: str) -> str:
        """Return ``path`` unchanged when an entry of this path can be put here.

        Raises:
            InvalidPathError: The gate does not admit it, or this system or this folder cannot hold it.
        """
        return check_local(check_path(path), windows=os.name == "nt")

    def find_folder(self, root: Path, dataset: str) -> Path:
        """Return the folder that the paths of ``dataset`` are relative to."""
        return root / self.check_dataset(dataset)

    def find_prefix(self, root: Path, dataset: str) -> str:
        """Return what a path of ``dataset`` has to be put behind, as a string."""
        return str(self.find_folder(root, dataset)).rstrip(os.sep) + os.sep

    def list_seeds(self, root: Path, manifests: Path) -> Iterable[tuple[str, str]]:
        """Name the files, as dataset and path, that a new ledger takes for the SDK's own: what manifests name."""
        return list_named_files(root, manifests)


class FolderLayout(CacheLayout):
    """``<root>/<path>``."""

    option = "dest"
    is_shared = True

    def claim(self, private: Path) -> None:
        """Make the SDK's own folder; a cache has been refused before (`_folders`)."""
        make_folders(private / OF_DEST)

    def check_dataset(self, dataset: str) -> str:
        """Return ``dataset`` unchanged when it is a name: no folder has it."""
        return check_dataset(dataset)

    def check_path(self, path: str) -> str:
        """Return ``path`` unchanged unless it cannot be put here, or would lie in the SDK's own folder."""
        first = super().check_path(path).partition("/")[0]
        if first.startswith(".") and fold_path(first) == PRIVATE:
            raise InvalidPathError(
                f"{shown(path)} cannot be put into a folder of your own: {PRIVATE} in it is where the SDK keeps its "
                "ledger; leave it out with exclude='/.dsx/', or read it with get_file_bytes()"
            )
        return path

    def find_folder(self, root: Path, dataset: str) -> Path:
        """Return the folder itself."""
        self.check_dataset(dataset)
        return root

    def list_seeds(self, root: Path, manifests: Path) -> Iterable[tuple[str, str]]:  # noqa: ARG002 -- as above
        """Name nothing: no manifest is kept here, and what looks like one is an entry."""
        return ()


def check_cacheable(dataset: str) -> str:
    """Return ``dataset`` unchanged when its folder in the cache cannot be taken for anything else.

    Raises:
        InvalidPathError: It is no dataset name, this system cannot hold it, or it looks like another's manifest.
    """
    check_local(check_dataset(dataset), windows=os.name == "nt")
    if dataset.endswith(MANIFEST_SUFFIX):
        raise InvalidPathError(
            f"dataset {shown(dataset)} cannot be cached: its folder would have the name of another dataset's manifest; "
            "read it with get_file_bytes()"
        )
    if PINNED_SUFFIX.search(dataset):
        raise InvalidPathError(
            f"dataset {shown(dataset)} cannot be cached: its name looks like a revision of another dataset; "
            "read it with get_file_bytes()"
        )
    return dataset
