"""Real images as JPEG files in class folders, made of the PNG files that `payloads` has copied."""

from __future__ import annotations

import json
import random
import struct
from itertools import islice
from pathlib import Path

from payloads import SEED, Payload, Payloads

MOST = 2000
SIDE = 320
QUALITY = 88
MOST_PIXELS = 16_000_000
"""Drawings of more are left out; Pillow would take the largest for an attack."""


def add_photos(payloads: Payloads, folder: Path) -> Payloads:
    """Return the datasets with one more, ``photos``, which is made unless it is there, if it can be."""
    clipart = payloads.datasets.get("clipart")
    try:
        from PIL import Image
    except ImportError:
        return payloads._replace(notes=[*payloads.notes, "JPEG files: Pillow is not installed"])
    if clipart is None:
        return payloads
    root, order = payloads.served / "photos", folder / "orders" / "photos.json"
    if not order.exists():
        drawings = filter(_is_drawable, (clipart.root / path for path in clipart.read_order()))
        for number, drawing in enumerate(islice(drawings, MOST)):
            target = root / f"class_{number % 10}" / f"img_{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(drawing) as image:
                drawn = image.convert("RGBA").resize((SIDE, SIDE))
                plain = Image.new("RGB", drawn.size, "white")
                plain.paste(drawn, mask=drawn)
                plain.save(target, quality=QUALITY)
        paths = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.jpg"))
        random.Random(SEED).shuffle(paths)
        order.write_text(json.dumps(paths), encoding="utf-8")
    paths = json.loads(order.read_text(encoding="utf-8"))
    total = sum((root / path).stat().st_size for path in paths)
    return payloads._replace(datasets=payloads.datasets | {"photos": Payload("photos", root, order, len(paths), total)})


def _is_drawable(drawing: Path) -> bool:
    """Tell from the header of a PNG file (ISO/IEC 15948, 11.2.2) whether it has no more pixels than are wanted."""
    with open(drawing, "rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return bool(width * height <= MOST_PIXELS)
