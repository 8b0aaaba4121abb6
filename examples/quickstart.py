"""List, look, read one file into memory, download the rest. Needs DSX_URL and DSX_API_KEY; takes a dataset."""

import sys

from dsx import DatasetHubClient


def main(dataset: str | None = None) -> None:
    """Read one dataset of a hub, the first one unless it is named."""
    with DatasetHubClient() as hub:
        names = hub.list_datasets()
        print("datasets:", ", ".join(names))
        dataset = dataset or names[0]
        manifest = hub.get_manifest(dataset)
        print(f"{dataset} has {len(manifest)} files, {sum(row['size'] for row in manifest)} bytes")
        first = manifest[0]["path"]
        print(f"{first} begins with", hub.get_file_bytes(dataset, first)[:16])
        paths = hub.download_dataset(dataset)
        print(f"{len(paths)} files in the cache, {hub.get_cache_size(dataset)} bytes, the first at {paths[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
