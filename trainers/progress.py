"""What a run shows to people: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich import progress as bars
from rich.console import Console

from stores.command import clock_time, progress_console

EVERY_S = 30.0
"""Seconds between two lines, unless the settings say otherwise (``loop.progress_s``)."""


class Progress:
    """One live bar per epoch on a terminal; elsewhere a line with speed and time left at an interval.

    Parameters
    ----------
    every_s
        Seconds between two lines; the first comes when so many have passed.
    console
        Where to write; stderr if not given.
    say
        Takes each line in place of the console; there is no bar then.
    clock
        Returns seconds.
    """

    def __init__(
        self,
        every_s: float = EVERY_S,
        console: Console | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or progress_console()
        self._every_s, self._say, self._clock = every_s, say, clock
        self._bar: bars.Progress | None = None
        self._start()

    def __enter__(self) -> Progress:
        self._start()
        if self._say is None and self._console.is_terminal:
            columns = (
                bars.TextColumn("{task.description}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(),
            )
            self._bar = bars.Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self) -> None:
        self._begun_s = self._line_s = self._step_s = self._clock()
        self._steps_before: int | None = None  # a run that resumes did them in an earlier process
        self._epoch = 0
        self._window = 0, 0.0  # steps since the last line, and seconds that they took

    def step(self, epoch: int, epochs: int, done: int, steps: int, loss: float | None) -> None:
        """Tell that a step is done: the ``done``-th of the ``steps`` of an epoch, all counted from 1.

        Parameters
        ----------
        epoch, epochs
            The epoch, and how many there are.
        done, steps
            The step in the epoch, and how many each has.
        loss
            The latest loss that is known; None before the first. To know that of each step would stop the device.
        """
        shown = "" if loss is None else f" loss {loss:.4f}"
        if self._bar is not None:
            description = f"epoch {epoch}/{epochs}{shown}"
            if not self._bar.tasks:
                self._bar.add_task(description, total=steps)
            self._bar.update(self._bar.task_ids[0], description=description, completed=done, total=steps)
            return
        now, count = self._clock(), (epoch - 1) * steps + done
        if self._steps_before is None:
            self._steps_before = count - 1
        if epoch == self._epoch or not self._epoch:  # else validation lies between this step and the one before
            self._window = self._window[0] + 1, self._window[1] + now - self._step_s
        self._epoch, self._step_s = epoch, now
        counted, took = self._window
        if now - self._line_s < self._every_s or not counted:
            return
        left = (epochs * steps - count) * (now - self._begun_s) / (count - self._steps_before)
        self._line_s, self._window = now, (0, 0.0)
        where = f"epoch {epoch}/{epochs} step {done}/{steps}{shown}"
        self.line(f"{where}, {_speed(counted, took)}, {_duration(left)} left")

    def line(self, text: str) -> None:
        """Print one line; where stderr is no terminal, with the time of day."""
        if self._say is not None:
            self._say(text)
        else:
            self._console.print(text if self._console.is_terminal else f"{clock_time()} {text}", markup=False)


def shown_metrics(metrics: Mapping[str, float]) -> str:
    """Return metrics in one line; those that count something are ints."""
    return ", ".join(
        f"{name} {value}" if isinstance(value, int) else f"{name} {value:.2f}" for name, value in metrics.items()
    )


def _speed(steps: int, seconds: float) -> str:
    return f"{steps / seconds:.1f} steps/s" if steps >= seconds else f"{seconds / steps:.1f} s/step"


def _duration(seconds: float) -> str:
    """Return seconds as a person reads them: ``41 s``, ``3 min 5 s``, ``2 h 10 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
