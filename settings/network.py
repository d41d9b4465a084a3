"""Whether a host can be reached, known before a client that would try for long."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_SECONDS = 10


def reach(address: str) -> None:
    """Connect to the host of a URL, or to the proxy that leads to it, and close the connection.

    Raises
    ------
    OSError
        At once if nobody answers there.
    """
    parts = urlsplit(address)
    proxy = None if parts.hostname is None or proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)
    if proxy is not None:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if parts.hostname:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=_SECONDS).close()
