"""Launch the hub from the variables DSX_API_KEY, DSX_DATASET_PATH and DSX_PORT, or a .env file that sets them."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Run the hub to its end; return the exit status: 2 when it cannot start as configured."""
    try:
        from dsx_server import Settings, SettingsError, end_process, serve
    except ImportError as error:
        cure = f"In {Path(__file__).resolve().parent.parent} run: pip install -e '.[server]'"
        print(f"The hub's packages are not installed ({error}). {cure}", file=sys.stderr)  # noqa: T201 -- a launcher talks to its user
        return 2
    try:
        end_process(serve(Settings.load(env_folders=[Path.cwd(), Path(__file__).resolve().parent.parent])))
    except SettingsError as error:
        print(f"The hub cannot start: {error}", file=sys.stderr)  # noqa: T201 -- a launcher talks to its user
        return 2


if __name__ == "__main__":
    sys.exit(main())
