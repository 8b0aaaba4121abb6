"""The hub: the program on the storage PC that serves folders as datasets. Needs the extra ``server``."""

from dsx_server.app import create_app
from dsx_server.process import end_process
from dsx_server.run import BackgroundHub, serve, serve_background
from dsx_server.settings import Settings, SettingsError

__all__ = ["BackgroundHub", "Settings", "SettingsError", "create_app", "end_process", "serve", "serve_background"]
