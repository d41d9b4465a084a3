"""What a session on a cluster makes of errors."""

from __future__ import annotations

import signal

import pytest

from pipeline.shared import StopRequestedError, StopSignals
from pipeline.shared.ray_session import ray, session


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has connected to a cluster."""
    monkeypatch.setattr(ray, "is_initialized", lambda: True)


@pytest.mark.usefixtures("connected")
def test_a_stop_inside_a_call_of_ray_is_a_stop() -> None:
    """Ray turns what is raised in there into ``SystemError``."""
    with pytest.raises(StopRequestedError, match="SIGTERM"), StopSignals() as signals, session(signals):
        try:
            raise StopRequestedError(signal.SIGTERM)
        except StopRequestedError as stop:
            raise SystemError("returned a result with an exception set") from stop


@pytest.mark.usefixtures("connected")
def test_another_system_error_stays_one() -> None:
    with pytest.raises(SystemError, match="bad argument"), StopSignals() as signals, session(signals):
        raise SystemError("bad argument to internal function")
