"""Where the hub is and which key opens it: arguments, else ``DSX_URL`` and ``DSX_API_KEY``.

This is the only module of the SDK that reads the environment, and it does so when a client is made.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from dsx.errors import InvalidRequestError


@dataclass(frozen=True)
class HubAddress:
    """One hub, and the key for it.

    Attributes:
        url: Scheme, host, port and perhaps a path prefix; no slash at the end.
        api_key: The key; in no ``repr``.
    """

    url: str
    api_key: str = field(repr=False)


def resolve_address(base_url: str | None, api_key: str | None) -> HubAddress:
    """Fill what was left out from the environment, and check both.

    Raises:
        InvalidRequestError: One is missing or cannot be right; the message names it and never shows the key.
    """
    url = base_url if base_url is not None else os.environ.get("DSX_URL")
    key = api_key if api_key is not None else os.environ.get("DSX_API_KEY")
    if not url:
        raise InvalidRequestError("no hub given: pass base_url='http://<hub>:8000' or set the variable DSX_URL")
    if not isinstance(url, str):
        raise InvalidRequestError("base_url must be text, like 'http://192.168.1.5:8000'")
    if not key:
        raise InvalidRequestError("no API key given: pass api_key=... or set the variable DSX_API_KEY to the hub's key")
    if not (isinstance(key, str) and key.isascii() and key.isprintable() and key == key.strip()):
        raise InvalidRequestError(
            "api_key must be printable ASCII without spaces around it, as the hub's DSX_API_KEY is"
        )
    return HubAddress(_check_url(url.strip()), key)


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
