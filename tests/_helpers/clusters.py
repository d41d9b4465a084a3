"""Clusters of several nodes on this machine, with GPUs that are only declared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

STORE_BYTES = 80 << 20


class Job:
    """A running ``jobs/extract.py``."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._errors = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 (lives as long as the job)
        self._process = subprocess.Popen(
            [sys.executable, "jobs/extract.py", *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    @property
    def said(self) -> str:
        """What it has written to stderr so far."""
        return Path(self._errors.name).read_text()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, seconds: float = 150) -> tuple[int, dict[str, Any], str]:
        """Wait for its end; return exit code, summary and stderr."""
        out, _ = self._process.communicate(timeout=seconds)
        assert "Traceback" not in self.said, self.said
        return self._process.returncode, json.loads(out.splitlines()[-1]) if out.strip() else {}, self.said


class Nodes:
    """A cluster whose nodes come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()

    def add(self, cpus: int, gpus: int = 0) -> Any:
        """Start a node; the first is the head."""
        return self._cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=STORE_BYTES)

    def lose(self, node: Any) -> None:
        """Have a node vanish, with all that runs there."""
        self._cluster.remove_node(node, allow_graceful=False)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a driver of this cluster."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return others | {"RAY_ADDRESS": self._cluster.address, "RAY_AUTH_MODE": "disabled"}

    def start(self, *arguments: str) -> Job:
        """Start ``jobs/extract.py`` on the cluster."""
        return Job([*arguments, "--executor", "ray", "--json"], self.environment)

    def close(self) -> None:
        """End every node."""
        self._cluster.shutdown()


@contextmanager
def nodes(*sizes: tuple[int, int]) -> Iterator[Nodes]:
    """Start nodes of (CPUs, GPUs); the first is the head.

    Yields
    ------
    Nodes
        They end with the block.
    """
    before = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    started = Nodes()
    try:
        for cpus, gpus in sizes:
            started.add(cpus, gpus)
        yield started
    finally:
        started.close()
        if before is None:
            del os.environ["RAY_AUTH_MODE"]
        else:
            os.environ["RAY_AUTH_MODE"] = before


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def has_rows(store: Path) -> bool:
    """Whether a shard of a run is published."""
    return any((store / "features").rglob("*.json"))
