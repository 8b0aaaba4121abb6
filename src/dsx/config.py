"""Where the hub is and which key opens it: arguments, else ``DSX_URL`` and ``DSX_API_KEY``, else the login.

This is the only module of the SDK that reads the environment, and it does so when a client is made.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

from dsx._logins import Login, find_config_folder, read_logins
from dsx.errors import InvalidRequestError

_SWITCHES = {"": False, "0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}

NO_HUB = "http://offline.invalid"
"""Stands for the hub of a client that must not ask one and was told none; a name that no machine has (RFC 6761)."""


@dataclass(frozen=True)
class HubAddress:
    """One hub, and the key for it.

    Attributes:
        url: Scheme, host, port and perhaps a path prefix; no slash at the end.
        api_key: The key; in no ``repr``.
        is_offline: Whether it must not be asked for anything.
    """

    url: str
    api_key: str = field(repr=False)
    is_offline: bool = False


def resolve_address(base_url: str | None, api_key: str | None) -> HubAddress:
    """Fill what was left out from the environment, else from the logins, and check both.

    The key of a login is used with the URL of that login only. With ``DSX_OFFLINE=1`` both may be missing.

    Raises:
        InvalidRequestError: One is missing or cannot be right; the message names it and never shows the key.
    """
    is_offline = _read_switch("DSX_OFFLINE")
    url = base_url if base_url is not None else os.environ.get("DSX_URL")
    key = api_key if api_key is not None else os.environ.get("DSX_API_KEY")
    if url is not None and not isinstance(url, str):
        raise InvalidRequestError("base_url must be text, like 'http://192.168.1.5:8000'")
    url = _check_url(url.strip()) if url else None
    if not url or not key:
        login = _find_login(url)
        if login is not None:
            url, key = url or login.url, key or login.api_key
    if is_offline:
        url, key = url or NO_HUB, key or "none"
    if not url:
        raise InvalidRequestError(
            "no hub given: pass base_url='http://<hub>:8000', set the variable DSX_URL, or run: dsx login http://<hub>:8000"
        )
    if not key:
        raise InvalidRequestError(
            "no API key given: pass api_key=..., set the variable DSX_API_KEY to the hub's key, or run: dsx login "
            f"{url}"
        )
    return HubAddress(url, check_key(key), is_offline)


def check_key(key: str) -> str:
    """Return a key that can be one.

    Raises:
        InvalidRequestError: It cannot; the message does not show it.
    """
    if not (isinstance(key, str) and key.isascii() and key.isprintable() and key == key.strip()):
        raise InvalidRequestError(
            "api_key must be printable ASCII without spaces around it, as the hub's DSX_API_KEY is"
        )
    return key


def resolve_url(url: str) -> str:
    """Return the base URL of a hub as it is kept, without a slash at the end.

    Raises:
        InvalidRequestError: It is none.
    """
    return _check_url(url.strip())


def get_config_folder() -> Path:
    """Return the folder with the logins: ``DSX_CONFIG_DIR``, else where this system keeps a user's settings."""
    env = os.environ
    return find_config_folder(env.get("DSX_CONFIG_DIR"), env.get("APPDATA"), env.get("XDG_CONFIG_HOME"))


def get_unit_folder() -> Path:
    """Return where systemd looks for the units of a user (systemd.unit(5))."""
    xdg = os.environ.get("XDG_CONFIG_HOME")
    return (Path(xdg) if xdg else Path.home() / ".config") / "systemd" / "user"


def _find_login(url: str | None) -> Login | None:
    """Return the login of a hub; without a URL that of the last one."""
    logins = read_logins(get_config_folder())
    if url is not None:
        return logins.find(url)
    return logins.hubs[0] if logins.hubs else None


def resolve_cache_limit(limit_bytes: int | None) -> int | None:
    """Return how many bytes the entries in a cache may have: the argument, else ``DSX_CACHE_LIMIT``, else any number.

    Raises:
        InvalidRequestError: It is no such number.
    """
    if limit_bytes is None:
        said = os.environ.get("DSX_CACHE_LIMIT", "").strip()
        return parse_bytes(said, "DSX_CACHE_LIMIT") if said else None
    if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int) or limit_bytes < 0:
        raise InvalidRequestError("cache_limit_bytes must be a whole number of bytes, like 50_000_000_000")
    return limit_bytes


def parse_bytes(text: str, name: str) -> int:
    """Read a number of bytes as people write it: ``50GB`` is 50 x 10^9, ``50GiB`` 50 x 2^30, a bare number bytes.

    Raises:
        InvalidRequestError: It is no such number; the message begins with ``name``.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([kmgt])(i?))?b?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None:
        raise InvalidRequestError(f"{name} must be a number of bytes, like 50GB, 500MB or 20GiB")
    number, unit, binary = match.groups()
    power = 0 if unit is None else "kmgt".index(unit.lower()) + 1
    return int(Fraction(number) * (1024 if binary else 1000) ** power)


def _read_switch(name: str) -> bool:
    said = os.environ.get(name, "").strip().lower()
    if said not in _SWITCHES:
        raise InvalidRequestError(f"{name} is 1 or 0, not {said!r}")
    return _SWITCHES[said]


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequestError("base_url is not a URL; write it like http://192.168.1.5:8000") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        # Without the value: it may be the key, given in the wrong place.
        raise InvalidRequestError("base_url must begin with http:// or https://, like http://192.168.1.5:8000")
    if parts.username is not None or parts.query or parts.fragment or port == 0:
        raise InvalidRequestError("base_url is scheme, host, port and path only, like http://192.168.1.5:8000")
    return url.rstrip("/")
