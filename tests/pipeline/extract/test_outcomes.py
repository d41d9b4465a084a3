"""A stop reaches an executor once, and what the executor has finished is still accepted."""

from __future__ import annotations

import signal
from collections.abc import Generator

from pipeline.extract.outcomes import Outcome, UnitDone, consume
from pipeline.shared import StopRequestedError


class Run:
    """An executor of two videos that finishes two more when it is stopped, and the run that consumes it.

    Each stop is raised at one step of the run: ``compute`` in the generator, ``accept 1`` at the first outcome, and
    so on.
    """

    def __init__(self, **stops: StopRequestedError) -> None:
        self.stops = {name.replace("_", " "): stop for name, stop in stops.items()}
        self.steps: list[str] = []

    def step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.stops:
            raise self.stops[name]

    def outcomes(self) -> Generator[Outcome, None, None]:
        try:
            yield UnitDone(1)
            self.step("compute")
            yield UnitDone(2)
        except StopRequestedError:
            self.steps.append("finish")
            yield UnitDone(3)
            yield UnitDone(4)
            raise

    def accept(self, outcome: Outcome) -> None:
        assert isinstance(outcome, UnitDone)
        self.step(f"accept {outcome.units}")

    def consume(self) -> StopRequestedError | None:
        return consume(self.outcomes(), self.accept, on_stop=lambda: self.steps.append("save"))


def stop(signum: int = signal.SIGTERM) -> StopRequestedError:
    return StopRequestedError(signum)


def test_without_a_stop_every_outcome_is_accepted() -> None:
    run = Run()
    assert run.consume() is None
    assert run.steps == ["accept 1", "compute", "accept 2"]


def test_a_stop_raised_in_the_generator_is_returned_after_what_it_finishes() -> None:
    first = stop()
    run = Run(compute=first)
    assert run.consume() is first
    assert run.steps == ["accept 1", "compute", "finish", "accept 3", "accept 4", "save"]


def test_a_stop_raised_in_accept_is_saved_then_thrown_into_the_generator() -> None:
    first = stop(signal.SIGINT)
    run = Run(accept_1=first)
    assert run.consume() is first
    assert run.steps == ["accept 1", "save", "finish", "accept 3", "accept 4"]


def test_a_second_stop_ends_the_run_with_the_first() -> None:
    first = stop(signal.SIGINT)
    run = Run(accept_1=first, accept_3=stop(signal.SIGTERM))
    assert run.consume() is first
    assert run.steps == ["accept 1", "save", "finish", "accept 3"]
