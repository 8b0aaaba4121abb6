"""The one place that holds the version; hatch, the hub and the SDK's User-Agent read it."""

__version__ = "0.1.0"
