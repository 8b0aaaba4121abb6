"""``python -m dsx.cli`` is ``dsx``, for those who start it by the interpreter that it is installed for."""

from dsx.cli import main

main()
