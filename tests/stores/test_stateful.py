"""``stores.testing.StoreMachine`` run against the reader, and against one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from stores import Store
from stores.testing import StoreMachine

SETTINGS = settings(
    max_examples=12,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a failing run of this length is clear enough unshrunk
    deadline=None,
)
StoreMachine.TestCase.settings = SETTINGS
TestStore = StoreMachine.TestCase


class Forgetful(Store):
    """A reader that does not show the last key of a feature with three."""

    def keys(self, name: str) -> list[str]:
        keys = super().keys(name)
        return keys if len(keys) < 3 else keys[:-1]


class ForgetfulMachine(StoreMachine):
    def open_reader(self, path: Path) -> Forgetful:
        return Forgetful.open(path, lease=False)


def test_a_reader_that_forgets_a_key_is_noticed() -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(ForgetfulMachine, settings=settings(SETTINGS, database=None))
