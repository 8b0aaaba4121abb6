"""The ``dsx`` command. click is an optional extra, so nothing is imported here before `main` is called."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the ``dsx`` command and exit with its status."""
    try:
        from dsx.cli.commands import dsx
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print(
            'dsx: the command needs click; install it with: pip install "dsx-hub[cli]"  '
            '(in a checkout: pip install -e ".[cli]")',
            file=sys.stderr,
        )
        sys.exit(2)
    dsx()
