"""The environment in which the processes of a Ray cluster find this code."""

from __future__ import annotations

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
