"""Everything that keeps a run from starting, told at once: each part of a task's data fails on its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from stores import StoreError
from trainers.errors import TrainingError


class ObstaclesError(TrainingError):
    """Raised when a run cannot start; the message is one line.

    Attributes
    ----------
    lines
        One line per obstacle, in the order in which they were met.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        several = f"{len(self.lines)} obstacles, which --check lists: " if len(self.lines) > 1 else ""
        super().__init__(several + "; ".join(self.lines))  # may be too long for one line


class Obstacles:
    """Collects what fails, so that one failing part does not hide the next.

    Each part is read within ``with obstacles.part():``, and ``require()`` ends the reading.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def part(self) -> Iterator[None]:
        """Read one part; an expected error of it becomes an obstacle."""
        try:
            yield
        except ObstaclesError as error:
            self._add(error.lines)
        except (TrainingError, StoreError) as error:
            self._add([str(error)])

    def error(self) -> ObstaclesError:
        """Return the error that names all obstacles."""
        return ObstaclesError(self._lines)

    def require(self) -> None:
        """Raise ObstaclesError if there was an obstacle."""
        if self._lines:
            raise self.error()

    def _add(self, lines: Iterable[str]) -> None:
        self._lines += [line for line in lines if line not in self._lines]
