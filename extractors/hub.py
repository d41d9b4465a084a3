"""Files from a model hub: from its cache without a request, else downloaded, else one line that says what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from extractors.base import WeightsError


def download(what: str, address: str, transfer: Callable[[], object]) -> None:
    """Run `transfer`, which downloads from `address`.

    Parameters
    ----------
    what:
        Names the weights in the error.

    Raises
    ------
    WeightsError:
        The host cannot be reached or refuses.
    """
    try:
        _reach(address)
        transfer()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "where there is a network, run jobs/weights.py fetch, then set weights to the file it wrote"
        raise WeightsError(f"{what} cannot be downloaded ({reason}); {advice}") from error


def hugging_face_file(what: str, repository: str, filename: str) -> Path:
    """A file of a repository in the hub cache; no request is sent if it is there already.

    Raises
    ------
    WeightsError:
        The hub cannot be reached or refuses.
    """
    import huggingface_hub

    def cached() -> Path | None:
        found = huggingface_hub.try_to_load_from_cache(repository, filename)
        return Path(found) if isinstance(found, str) else None

    path = cached()
    if path is None:
        endpoint = huggingface_hub.constants.ENDPOINT
        download(what, endpoint, lambda: huggingface_hub.hf_hub_download(repository, filename))
        path = cached()
    if path is None:
        raise WeightsError(f"{what}: the hub sent no {filename} of {repository}")
    return path


def _reach(address: str) -> None:
    """Raise OSError at once where the host cannot be reached: a hub's client would retry for half a minute."""
    parts = urlsplit(address)
    if parts.hostname and not getproxies():
        socket.create_connection((parts.hostname, parts.port or 443), timeout=10).close()
