"""Hands batches of texts to parsing processes and puts their answers in order, on this machine and on Ray alike.

Batches are what a parser sees together, so they are the same whatever the number of processes. Texts whose process died
are tried again, each alone; a text that ends two processes more is refused, once another text has shown that processes
work at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from parsers import ParserError, Refused, parses_table
from parsers.parse import PARSES
from pipeline.shared.retries import MOST_RESTARTS, Retries

_AHEAD = 4  # batches per process between the oldest that is not finished and the newest that is handed out


@dataclass(frozen=True, slots=True)
class Task:
    """Texts that are parsed together.

    Attributes
    ----------
    batch
        Number of the batch to which they belong; None for a text that only shows whether processes work.
    texts
        The texts: a whole batch, or one text.
    """

    batch: int | None
    texts: tuple[str, ...]


PROBE = Task(None, ("who ran",))
"""Only shows whether processes work."""


class Work:
    """The batches of a run.

    Parameters
    ----------
    batches
        The texts, in the batches in which they are parsed.
    processes
        Number of processes at work at the same time; few batches per process are handed out before the oldest is done,
        which bounds what is held.
    """

    def __init__(self, batches: Sequence[Sequence[str]], processes: int) -> None:
        self._batches = [tuple(batch) for batch in batches]
        self._window = _AHEAD * processes
        self._next = 0  # to be handed out
        self._oldest = 0  # to be yielded
        self._again: deque[Task] = deque()
        self._alone: dict[int, dict[str, pa.Table]] = {}
        self._finished: dict[int, pa.Table] = {}
        self._retries: Retries[str] = Retries(lambda text: text)
        self._deaths = 0  # in a row, without an answer

    @property
    def is_over(self) -> bool:
        """Whether all batches are yielded."""
        return self._oldest == len(self._batches)

    @property
    def left(self) -> int:
        """Number of tasks that are not handed out."""
        return len(self._again) + len(self._batches) - self._next

    def take(self) -> Task | None:
        """Return what is to be parsed next; None if that must wait, or there is nothing more."""
        if self._again:
            return self._again.popleft()
        if self._next == len(self._batches) or self._next >= self._oldest + self._window:
            return None
        self._next += 1
        return Task(self._next - 1, self._batches[self._next - 1])

    def is_alone(self, task: Task) -> bool:
        """Return whether a process must get nothing beside a task, so that if it dies, it died on this task."""
        return task.batch is None or self._retries.must_be_alone(task.texts[0])

    def give_back(self, task: Task) -> None:
        """Take back a task on which no process has worked."""
        self._again.appendleft(task)

    def answered(self, task: Task, table: pa.Table) -> None:
        """Take the rows of the table ``parses`` of a task."""
        self._deaths = 0
        if task.batch is None:
            return
        if task.texts == self._batches[task.batch] and task.batch not in self._alone:
            self._finished[task.batch] = table
        else:
            self._alone[task.batch][task.texts[0]] = table
            self._gather(task.batch)

    def died(self, task: Task | None, how: str) -> None:
        """Note that a process ended by itself, on a task or before it had one.

        Parameters
        ----------
        how
            How it ended, for a message.

        Raises
        ------
        ParserError
            If too many processes ended in a row without an answer: then the machine is at fault, not a text.
        """
        self._deaths += 1
        if self._deaths > MOST_RESTARTS:
            raise ParserError(
                f"{self._deaths} parsing processes in a row ended without an answer ({how}); what is parsed is kept, "
                "so run again with more memory, or with fewer processes (run.actors)"
            )
        if task is None or task.batch is None:
            if task is not None:
                self._again.appendleft(task)
            return
        batch = task.batch
        at_fault = self._retries.died(task.texts)
        self._alone.setdefault(batch, {})
        if at_fault:
            message = f"the parsing process ended on this text every time ({how})"
            self._alone[batch][task.texts[0]] = parses_table([Refused(task.texts[0], "parser_failed", message)])
            self._again.appendleft(PROBE)
            self._gather(batch)
        else:
            self._again.extendleft(Task(batch, (text,)) for text in reversed(task.texts))

    def _gather(self, batch: int) -> None:
        """Finish a batch whose texts were parsed one by one, when the last one is there."""
        tables = self._alone[batch]
        if len(tables) == len(self._batches[batch]):
            self._finished[batch] = pa.concat_tables([tables[text].cast(PARSES) for text in self._batches[batch]])

    def ready(self) -> Iterator[pa.Table]:
        """Yield the finished batches, in their order, up to the first that is not finished."""
        while self._oldest in self._finished:
            table = self._finished.pop(self._oldest)
            self._alone.pop(self._oldest, None)
            self._oldest += 1
            yield table
