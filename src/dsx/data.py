"""`HubDataset`: a dataset of the hub as a sequence of samples with labels, for any framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index as as_index
from typing import Any

from dsx._images import decode_image, has_pillow
from dsx._labels import Labels, Target
from dsx._source import SampleSource
from dsx._state import Choice
from dsx.client import DatasetHubClient
from dsx.errors import InvalidRequestError
from dsx.protocol.globs import Patterns
from dsx.protocol.text import shown


class HubDataset:
    """The samples of a dataset, by number: ``(transform(data), label)`` each.

    One request for the manifest when it is made; then one for every item, or for every list of items of `__getitems__`.
    Threads may share it, and it pickles. All samples are of one revision.

    Attributes:
        dataset: Name of the dataset.

    Args:
        hub: The client to read with.
        dataset: Name of the dataset.
        include: Patterns of which a path has to match one, as for `Manifest.select`.
        exclude: Patterns of which a path must match none.
        revision: State of the dataset that is meant; left out, the newest.
        transform: What is made of the data of each sample: of a PIL image in RGB where the file is an image and Pillow
            is installed, else of bytes; left out, the data itself.
        target: What the label is: ``"folder"`` the number of its innermost folder among `classes`, a function that
            is given the path, or None for data alone.
        decode: Whether images are decoded.
        cache: Whether samples are kept in the cache of ``hub``, and taken from there.

    Raises:
        DatasetNotFoundError: The hub has no such dataset.
        RevisionNotFoundError: The dataset has no such revision.
        InvalidRequestError: An argument cannot be right, or a sample lies in no folder that could be its label.
    """

    def __init__(
        self,
        hub: DatasetHubClient,
        dataset: str,
        *,
        include: Patterns | None = None,
        exclude: Patterns | None = None,
        revision: str | None = None,
        transform: Callable[[Any], Any] | None = None,
        target: Target = "folder",
        decode: bool = True,
        cache: bool = False,
    ) -> None:
        if not (transform is None or callable(transform)):
            raise InvalidRequestError(f"transform is a function of the data, not {shown(transform)}")
        self.dataset = dataset
        self.transform = transform
        self._decodes = decode and has_pillow()
        choice = Choice.make(dataset, include, exclude, revision)
        self._use(SampleSource.open(hub._access, choice, is_kept=cache), target)

    def _use(self, source: SampleSource, target: Target) -> None:
        """Read from a source from now on."""
        self._labels = Labels(target, source.iter_paths() if target == "folder" else ())
        self._source = source

    @property
    def revision(self) -> str:
        """The revision that the samples are of."""
        return self._source.revision

    @property
    def classes(self) -> list[str]:
        """Names of the classes, sorted, where labels are the numbers of folders."""
        if self._labels.classes is None:
            raise AttributeError("there are no classes: target is not 'folder'")
        return self._labels.classes

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Label of each class."""
        return {name: number for number, name in enumerate(self.classes)}

    @property
    def targets(self) -> list[Any]:
        """Label of each sample."""
        if self._labels.target is None:
            raise AttributeError("there are no labels: target is None")
        return [self._labels.find(path) for path in self._source.iter_paths()]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of some numbers, which may repeat, by one request for up to some thousand.

        Args:
            indices: Their numbers; those below 0 count from the end.

        Raises:
            IndexError: There is no such sample.
            ConflictError: A sample has changed on the hub since the revision.
            DsxError: What else is wrong with the first that did not come, or with all of them.
        """
        numbers = [self._check_index(index) for index in indices]
        return self._make_items(numbers, self._source.read_all(numbers))

    def __repr__(self) -> str:
        labels = "no labels" if self._labels.target is None else "labels of a function"
        labels = labels if self._labels.classes is None else f"{len(self._labels.classes)} classes"
        name = f"{type(self).__module__}.{type(self).__name__}"
        return f"<{name} of {shown(self.dataset)}: {len(self)} samples, {labels}, revision {self.revision}>"

    def _check_index(self, index: int) -> int:
        number = as_index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)} of dataset {shown(self.dataset)}")
        return number % len(self)

    def _make_items(self, numbers: Sequence[int], contents: Sequence[bytes]) -> list[Any]:
        return [self._make_item(number, data) for number, data in zip(numbers, contents, strict=True)]

    def _make_item(self, number: int, data: bytes) -> Any:
        path = self._source.read_path(number)
        value = decode_image(path, data) if self._decodes else data
        if self.transform is not None:
            value = self.transform(value)
        return value if self._labels.target is None else (value, self._labels.find(path))
