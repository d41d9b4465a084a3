"""Whether a Ray cluster answers at the address that ``RAY_ADDRESS`` names.

Ray itself tries for two minutes, prints a page of warnings and ends the process; this takes three seconds at most and
needs no Ray.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from settings import SettingsError
from settings.files import read_text

VARIABLE = "RAY_ADDRESS"
TIMEOUT_S = 3.0
_ADDRESS_BYTES = 1 << 16

_CLIENT_PORT = 10001
_REMEDY = f"start the cluster, correct {VARIABLE}, or unset it to use Ray on this machine"
_REMEDY_FOR_NOTED = f"start it again, or set {VARIABLE}=local to use Ray on this machine"
# How every HTTP/2 conversation begins (RFC 9113, section 3.4), and the type of the frame by which a server answers.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER, _SETTINGS_FRAME = 9, 4


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a cluster should be: ``named`` is how the user knows it."""

    named: str
    host: str
    port: int


def check_ray_address(environment: Mapping[str, str] = os.environ, timeout_s: float = TIMEOUT_S) -> None:
    """Check that something that may be a Ray cluster answers where ``RAY_ADDRESS`` says.

    It may say ``host:port``, ``ray://host:port``, ``auto`` or ``local``. With ``auto``, and if it is not set, Ray takes
    the cluster that ``ray start`` noted on this machine, so that one is checked.

    Parameters
    ----------
    environment
        Environment variables.
    timeout_s
        How long to wait for an answer.

    Raises
    ------
    SettingsError
        If nothing answers, something that is not Ray does, or the address has another form; one line that says what was
        tried and what to do.
    """
    place = _place(environment)
    if place is None:
        return
    problem: list[str] = []
    asking = threading.Thread(target=lambda: problem.extend(_problem(place, environment, timeout_s)), daemon=True)
    asking.start()
    asking.join(timeout_s)  # a name server may keep it longer
    if asking.is_alive():
        problem.append(f"no answer within {timeout_s:g} s")
    if problem:
        remedy = _REMEDY if place.named.startswith(VARIABLE) else _REMEDY_FOR_NOTED
        raise SettingsError(f"{place.named}: no Ray cluster there ({problem[0]}); {remedy}")


def _place(environment: Mapping[str, str]) -> _Place | None:
    """Return where to look; None if Ray starts a cluster of its own or reports quickly by itself."""
    address = environment.get(VARIABLE, "").strip()
    named = f"{VARIABLE}={address}"
    if address == "local":
        return None
    if address in ("", "auto"):
        noted = _noted(environment)
        if noted is None:
            return None
        file, address = noted
        named = f"{file} says {address}"
    elif address.startswith(("http://", "https://")):
        raise SettingsError(
            f"{named}: is where jobs are submitted to, and nothing to connect to; give it to ray job submit as "
            f"RAY_API_SERVER_ADDRESS, and set {VARIABLE} to host:6379 or ray://host:{_CLIENT_PORT}"
        )
    is_client = address.startswith("ray://")
    parts = urlsplit(address if is_client else f"//{address}")
    try:
        host, port = parts.hostname, parts.port or (_CLIENT_PORT if is_client else None)
    except ValueError:  # a port that is no number
        host = port = None
    if not host or port is None or parts.path not in ("", "/"):
        raise SettingsError(f"{named}: not an address; use host:port, ray://host:port, auto or local")
    return _Place(named, host, port)


def _noted(environment: Mapping[str, str]) -> tuple[Path, str] | None:
    """Return the file in which ``ray start`` notes the cluster of this machine, and the address in it."""
    folder = environment.get("RAY_TMPDIR", environment.get("TMPDIR", "/tmp"))  # where Ray looks, on Linux
    file = Path(folder) / "ray" / "ray_current_cluster"
    try:
        address = read_text(file, _ADDRESS_BYTES).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return (file, address) if address else None


def _problem(place: _Place, environment: Mapping[str, str], timeout_s: float) -> list[str]:
    """Return what is wrong with a place, or nothing."""
    try:
        with socket.create_connection((place.host, place.port), timeout_s) as connection:
            if environment.get("RAY_USE_TLS", "0") not in ("", "0"):
                return []  # it speaks only to those who have its certificates
            connection.sendall(_PREFACE)
            said = b""
            while len(said) < _FRAME_HEADER and (more := connection.recv(_FRAME_HEADER - len(said))):
                said += more
    except socket.gaierror:
        return [f"host {place.host!r} is unknown"]
    except TimeoutError:
        return [f"no answer within {timeout_s:g} s"]
    except (OSError, UnicodeError) as error:
        return [(getattr(error, "strerror", None) or str(error)).lower()]
    if len(said) < _FRAME_HEADER or said[3] != _SETTINGS_FRAME:
        return [f"what listens on port {place.port} does not speak gRPC, as Ray does"]
    return []
