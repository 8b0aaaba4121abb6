"""Real images as JPEG files in class folders, made of the PNG files that `payloads` has copied."""

from __future__ import annotations

import json
import random
from pathlib import Path

from payloads import SEED, Payload, Payloads

MOST = 2000
SIDE = 320
QUALITY = 88


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
        for number, path in enumerate(clipart.read_order()[:MOST]):
            target = root / f"class_{number % 10}" / f"img_{number:05d}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(clipart.root / path) as image:
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
