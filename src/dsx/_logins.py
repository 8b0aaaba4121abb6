"""The hubs that a person has logged in to, with their keys: one file that only its owner can read.

``logins.json`` lies where the system keeps a user's settings. Its keys are sent to the hub they were given for, and to
no other: address and key are looked up together.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dsx.errors import InvalidRequestError

FILE_NAME = "logins.json"


class Login(BaseModel):
    """One hub.

    Attributes:
        url: Its base URL.
        api_key: The key for it; in no ``repr``.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    api_key: str = Field(repr=False)


class Logins(BaseModel):
    """All of them; the first is the one that is meant when none is named.

    Attributes:
        hubs: The hubs, the last login first.
    """

    hubs: list[Login] = []

    def find(self, url: str) -> Login | None:
        """Return the login of a hub."""
        return next((login for login in self.hubs if login.url == url), None)

    def with_login(self, login: Login) -> Logins:
        """Return these and another one, which is the first from now on."""
        return Logins(hubs=[login, *self.without(login.url).hubs])

    def without(self, url: str) -> Logins:
        """Return these without that of a hub."""
        return Logins(hubs=[login for login in self.hubs if login.url != url])


def find_config_folder(named: str | None, appdata: str | None, xdg: str | None) -> Path:
    """Return the folder of a user's settings of this program.

    Args:
        named: What ``DSX_CONFIG_DIR`` says.
        appdata: What ``APPDATA`` says, on Windows.
        xdg: What ``XDG_CONFIG_HOME`` says.
    """
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(appdata) / "dsx" if appdata else Path.home() / "dsx"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "dsx"
    return (Path(xdg) if xdg else Path.home() / ".config") / "dsx"


def read_logins(folder: Path) -> Logins:
    """Read the file; none when there is none.

    Raises:
        InvalidRequestError: It cannot be read, is damaged, or others than its owner can read it; the message names it.
    """
    file = folder / FILE_NAME
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            data = opened.read()
    except FileNotFoundError:
        return Logins()
    except OSError as error:
        raise InvalidRequestError(f"the logins in {file} cannot be read: {error.strerror}") from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise InvalidRequestError(f"others can read the keys in {file}; run: chmod 600 '{file}'")
    try:
        return Logins.model_validate_json(data)
    except ValidationError:
        # Without what is wrong with it: that might show a key.
        raise InvalidRequestError(f"{file} is damaged; delete it and log in again with: dsx login URL") from None


def write_logins(folder: Path, logins: Logins) -> Path:
    """Write the file in one atomic step, for its owner alone; return it.

    Raises:
        InvalidRequestError: It cannot be written.
    """
    file = folder / FILE_NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=FILE_NAME)  # made with mode 0600
        try:
            with open(descriptor, "wb") as opened:
                opened.write(logins.model_dump_json(indent=2).encode() + b"\n")
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InvalidRequestError(f"the login cannot be kept in {file}: {error.strerror}") from None
    return file
