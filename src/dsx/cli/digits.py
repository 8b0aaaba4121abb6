"""The demo's data: scikit-learn's handwritten digits, as PNG files in class folders::

    train/3/0042.png        digit number 42, a three
    test/3/0007.png

What the training process makes of the files is in `training`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dsx.errors import MissingExtraError

TEST_SHARE = 0.25
SPLIT_SEED = 0


def load_digits() -> dict[str, Any]:
    """Load the digits that come with scikit-learn, as Pillow images, and split them for training and test.

    Returns:
        Each 8 by 8 grey image by the path it shall have; every class has the same share of its images in ``test``.

    Raises:
        MissingExtraError: scikit-learn or Pillow is not installed.
    """
    try:
        from PIL import Image
        from sklearn import datasets
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise missing_extra(error) from error
    digits = datasets.load_digits()
    pictures = (digits.images * (255 / 16)).round().astype("uint8")  # they come as 0..16
    numbers = range(len(pictures))
    train, test = train_test_split(numbers, test_size=TEST_SHARE, stratify=digits.target, random_state=SPLIT_SEED)
    return {
        f"{part}/{digits.target[number]}/{number:04}.png": Image.fromarray(pictures[number])
        for part, members in (("train", train), ("test", test))
        for number in members
    }


def write_digits(folder: Path, pictures: Mapping[str, Any]) -> Iterator[Path]:
    """Write pictures below ``folder``, one with each step of the iterator, and give the path of each."""
    for name, picture in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        yield path


def missing_extra(error: ImportError) -> MissingExtraError:
    """Word what to install when something that the demo needs cannot be imported."""
    return MissingExtraError(
        f'the demo needs more than is installed ({error}); install it with: pip install "dsx-hub[demo]"  '
        '(in a checkout: pip install -e ".[demo]")'
    )
