"""A stop is raised once, and never inside a critical section."""

from __future__ import annotations

import os
import signal

import pytest

from pipeline.shared.signals import StopRequestedError, StopSignals
from stores.command import signal_code


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_is_raised_at_once_outside_critical_sections(signum: int, code: int) -> None:
    with StopSignals(), pytest.raises(StopRequestedError) as caught:
        send(signum)
    assert signal_code(str(caught.value)) == code


def test_a_stop_waits_for_the_end_of_a_critical_section() -> None:
    finished = []
    with StopSignals() as signals, pytest.raises(StopRequestedError):
        with signals.critical():
            send(signal.SIGTERM)
            with signals.critical():
                finished.append("inner")
            finished.append("outer")
        finished.append("never")
    assert finished == ["inner", "outer"]


def test_a_second_signal_does_not_disturb_the_stop() -> None:
    with StopSignals() as signals:
        with pytest.raises(StopRequestedError):
            send(signal.SIGTERM)
        with signals.critical():
            send(signal.SIGTERM)


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_install_takes_the_handlers_back_from_a_library() -> None:
    with StopSignals() as signals:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signals.install()
        with pytest.raises(StopRequestedError):
            send(signal.SIGTERM)
