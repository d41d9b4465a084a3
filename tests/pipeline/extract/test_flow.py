"""The driver of a run on a cluster, without a cluster."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from pipeline.extract.config import RunConfig
from pipeline.extract.on_ray import flow
from pipeline.extract.on_ray.placement import Node
from pipeline.extract.on_ray.pool import Member, Pool
from pipeline.shared import StopRequestedError, StopSignals


def test_a_stop_never_comes_inside_a_call_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised in there, it would come out as ``SystemError``: a traceback and code 1 in place of a commit and 143."""
    returned: list[Any] = []

    def wait(references: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        signal.raise_signal(signal.SIGTERM)
        returned.append(references)
        return [], references

    monkeypatch.setattr(flow.ray, "wait", wait)
    with StopSignals() as signals:
        run = flow.Flow([], [], Pool({}, print), RunConfig(), "cpu", [], print, signals.critical)
        member = Member("decode", Node("1", "one", 1, 0, 1.0, 1), None)
        run._calls["reference"] = flow._Call(member)
        with pytest.raises(StopRequestedError, match="SIGTERM"):
            list(run._answers(1.0))
    assert returned == [["reference"]]
