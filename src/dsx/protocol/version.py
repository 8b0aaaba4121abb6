"""The version of this package, for both programs: User-Agent, ``/health``, the wheel."""

__version__ = "0.1.0"
