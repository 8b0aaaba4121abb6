"""See how large the cache is and clear it, one dataset or all. Needs DSX_URL and DSX_API_KEY."""

import sys

from dsx import DatasetHubClient


def main(dataset: str | None = None) -> None:
    """Clear the cache of one dataset, or the whole cache."""
    hub = DatasetHubClient()
    print(f"the cache holds {hub.get_cache_size(dataset) / 1024**2:.2f} MiB")
    print(f"freed {hub.clear_cache(dataset) / 1024**2:.2f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:2])
