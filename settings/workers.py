"""What the processes of a Ray cluster need, to run this code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def runtime_environment() -> dict[str, Any]:
    """Workers import this checkout; those of a submitted job have its upload already."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(dict.fromkeys(part for part in (root, os.environ.get("PYTHONPATH", "")) if part))
    return {"env_vars": {"PYTHONPATH": path}} if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ else {}
