"""What every connection to Ray needs: an environment in which its processes find this code, and less noise."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any


def runtime_environment() -> dict[str, Any]:
    """Return the ``runtime_env`` for Ray that puts this checkout on ``PYTHONPATH``.

    It is empty inside a submitted Ray job, whose workers have the code already: uploaded, or in their image.
    """
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(dict.fromkeys(part for part in (root, os.environ.get("PYTHONPATH", "")) if part))
    return {"env_vars": {"PYTHONPATH": path}} if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ else {}


def hush_ray() -> None:
    """Keep a remark of Ray off stderr that every run would print: that it protects its own cluster by a token."""
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
