"""The driver of a run on a cluster, without a cluster."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.extract.config import RunConfig
from pipeline.extract.on_ray import flow
from pipeline.extract.on_ray.placement import Node
from pipeline.extract.on_ray.pool import Member, Pool
from pipeline.extract.plan import Unit
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


@pytest.mark.parametrize(("unit_bytes", "fits"), [(0, True), (49, True), (50, False)])
def test_before_the_first_unit_is_there_its_expected_size_bounds_how_many_are_decoded(
    unit_bytes: int, fits: bool
) -> None:
    """Eight units are on their way; 0.4 of the object store's 1,000 bytes may hold frames."""
    with StopSignals() as signals:
        run = flow.Flow([], [], Pool({}, print), RunConfig(), "cpu", [], print, signals.critical, unit_bytes)
    run._pool = SimpleNamespace(of=lambda kind: ["actor"] * 4)  # type: ignore[assignment]  # that is all of it here
    run._nodes = {"1": Node("1", "one", 4, 0, 1.0, 1000)}
    unit = flow._Work(Unit("a.mp4", ("a",), ("rgb",), None, 0, ""))
    run._calls["reference"] = flow._Call(Member("decode", run._nodes["1"], None), [unit] * 8)
    assert run._fits is fits
