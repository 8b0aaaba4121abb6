"""Bytes of image files as images, where Pillow is installed."""

from __future__ import annotations

import io
from typing import Any

from dsx.errors import UnreadableError
from dsx.protocol.text import shown

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What image files are known by, in any case."""


def has_pillow() -> bool:
    """Tell whether images can be decoded."""
    try:
        import PIL.Image
    except ImportError:
        return False
    return PIL.Image is not None


def decode_image(path: str, data: bytes) -> Any:
    """Return an image as Pillow's, in RGB, of the bytes of an image file; other bytes as they are.

    Raises:
        UnreadableError: The file is named as an image and is none that Pillow knows.
    """
    if not path.lower().endswith(SUFFIXES):
        return data
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableError(
            f"{shown(path)} is no image that Pillow can read: {error}; leave it out with exclude, or pass decode=False "
            "and get its bytes"
        ) from error
