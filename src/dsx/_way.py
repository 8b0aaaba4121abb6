"""The way to one hub: proxies, certificates, the key's header, and a pool of connections.

requests makes it, once per process. Then the pool of urllib3 that it has made is asked without a session, which would
cost 200 us more per request. The key is put into the header by an object, because requests would otherwise let a
``.netrc`` replace it; that is where the key is, and nowhere else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from dsx.config import HubAddress
from dsx.protocol.version import __version__

CONNECT_TIMEOUT_S = 4.0
POOL_CONNECTIONS = 32


class Way:
    """This process's way to one hub: a pool of connections, and what every request says."""

    def __init__(self, address: HubAddress) -> None:
        found = find_settings(address)
        proxies, verify, cert = found["proxies"], found["verify"], found["cert"]
        auth = _BearerAuth(address.api_key)
        agent = {"User-Agent": f"dsx/{__version__}"}
        with requests.Session() as session:
            session.trust_env = False
            first = session.prepare_request(requests.Request("GET", f"{address.url}/", headers=agent, auth=auth))
        self._headers = dict(first.headers)
        self._adapter = HTTPAdapter(pool_connections=4, pool_maxsize=POOL_CONNECTIONS)
        # An adapter makes pools of HTTP connections only, whatever the base class says that requests declares.
        pool = self._adapter.get_connection_with_tls_context(first, verify, proxies=proxies, cert=cert)
        self._pool = cast("urllib3.HTTPConnectionPool", pool)
        self._adapter.cert_verify(pool, address.url, verify, cert)  # type: ignore[no-untyped-call]  # -- has no types
        self._target = self._adapter.request_url(first, proxies).removesuffix("/")  # a proxy is told the whole URL

    def send(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and return its answer once its headers are there.

        No redirect is followed, and nothing is tried again.

        Args:
            method: HTTP method.
            path: Path and query below the base URL, percent-encoded.
            headers: More request headers.
            body: Body of the request.
            timeout_s: Longest silence, in seconds.
        """
        return self._pool.urlopen(
            method,
            self._target + path,
            body=body,
            headers={**self._headers, **headers},
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        """Close the connections that nobody uses; the others are closed when their answers are."""
        self._adapter.close()


def find_settings(address: HubAddress) -> Mapping[str, Any]:
    """Return the proxies and certificates that the environment names, as requests understands it."""
    with requests.Session() as session:
        found = session.merge_environment_settings(address.url, {}, None, None, None)
    if is_loopback(address.url):
        found["proxies"] = {}  # another machine's way to this address is no way to this machine
    return found


class _BearerAuth(requests.auth.AuthBase):
    """Puts the key into the header; shows it nowhere else."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


def is_loopback(url: str) -> bool:
    """Tell whether ``url`` names this very machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
