"""Open the pictures of a dataset without writing any to disk. Needs Pillow, DSX_URL and DSX_API_KEY."""

import io
import sys

from PIL import Image

from dsx import DatasetHubClient

PICTURES = (".jpg", ".jpeg", ".png")


def main(dataset: str) -> None:
    """Print size and mode of every picture of ``dataset``."""
    hub = DatasetHubClient(cache_dir=None)
    for row in hub.get_manifest(dataset):
        if row["path"].lower().endswith(PICTURES):
            picture = Image.open(io.BytesIO(hub.get_file_bytes(dataset, row["path"])))
            print(row["path"], picture.size, picture.mode)


if __name__ == "__main__":
    main(sys.argv[1])
