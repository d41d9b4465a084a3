"""Files from a model hub: taken from its cache without a request, otherwise downloaded."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from extractors.base import WeightsError
from settings.messages import one_line

_T = TypeVar("_T")


def download(title: str, address: str, transfer: Callable[[], _T]) -> _T:
    """Return what ``transfer`` returns, which downloads from ``address``.

    Parameters
    ----------
    title
        Names the weights in the error.
    address
        URL of the file or of its host, to see first whether the host can be reached.
    transfer
        The download.

    Raises
    ------
    WeightsError
        If the host cannot be reached or refuses; the message says what to do.
    """
    try:
        _reach(address)
        return transfer()
    except (OSError, RuntimeError) as error:
        advice = "run jobs/weights.py fetch where there is a network, then set weights to the file that it writes"
        raise WeightsError(f"{title} cannot be downloaded ({one_line(error)}); {advice}") from error


def hugging_face_file(title: str, repository: str, filename: str) -> Path:
    """Return a file of a repository in the hub cache; no request is sent if it is there already.

    Raises
    ------
    WeightsError
        If the hub cannot be reached or refuses.
    """
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    endpoint = huggingface_hub.constants.ENDPOINT
    return Path(download(title, endpoint, lambda: huggingface_hub.hf_hub_download(repository, filename)))


def _reach(address: str) -> None:
    """Raise OSError at once if the host cannot be reached: a hub's client would retry for half a minute."""
    parts = urlsplit(address)
    if parts.hostname and not getproxies():
        socket.create_connection((parts.hostname, parts.port or 443), timeout=10).close()
