"""Parses on this machine, in a pool of processes that hold the models.

Each process has one parser with one thread (``stanza.threads``): networks as small as these gain nothing from more
threads, while a second process does twice the work.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import wait
from typing import Any

import pyarrow as pa

from pipeline.parse.work import PROBE, Task, Work
from pipeline.shared.children import start_child
from pipeline.shared.sizing import available_cpus, available_memory_gb, visible_gpus

_DEPTH = 2  # tasks per process: one is parsed, the next is there when it is done
_WAIT_S = 0.5
_TEXTS_PER_PROCESS = 2000  # parsed in about the time that one more process takes to load its models
_PROCESS_GB = 1.5


def choose_processes(texts: int, asked: int | None, device: str, threads: int) -> int:
    """Return the number of processes for some texts.

    Parameters
    ----------
    texts
        Number of texts; few texts are not worth another process.
    asked
        The most processes; as many as CPUs and memory allow if None, and one if the models run on a GPU.
    device, threads
        ``auto``, ``cpu`` or ``cuda``, and CPU threads of a process.
    """
    if asked is None:
        on_gpu = device == "cuda" or (device == "auto" and visible_gpus() > 0)
        fit = min(available_cpus() // threads, int(available_memory_gb() // _PROCESS_GB))
        asked = 1 if on_gpu else max(1, fit)
    return max(1, min(asked, -(-texts // _TEXTS_PER_PROCESS)))


def parse_in_processes(
    parser: Any, batches: Sequence[Sequence[str]], processes: int
) -> Generator[pa.Table, None, None]:
    """Parse all batches in a pool of processes that ends with the generator; see ``Pool.parse``."""
    with Pool(parser, processes) as pool:
        yield from pool.parse(batches)


class Pool:
    """Parsing processes, which end with the block.

    Parameters
    ----------
    parser
        What each process gets a copy of; its method ``parse`` takes texts.
    processes
        Most processes. They are started when there is work for them, and again when they die.
    """

    def __init__(self, parser: Any, processes: int) -> None:
        self._parser = parser
        self._most = processes
        self._pool: list[_Process] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._pool:
            process.end()
        self._pool.clear()

    def start(self) -> None:
        """Start all processes now, and wait until each has parsed a text, so that its models are loaded.

        Raises
        ------
        ParserError, OSError
            As ``parse`` does.
        """
        work = Work([], self._most)
        while len(self._pool) < self._most:
            self._add()
            self._pool[-1].send(PROBE)
        while any(process.tasks for process in self._pool):
            self._listen(work)

    def parse(self, batches: Sequence[Sequence[str]]) -> Generator[pa.Table, None, None]:
        """Parse all batches.

        Parameters
        ----------
        batches
            The texts, in the batches in which they are parsed.

        Yields
        ------
        pyarrow.Table
            Rows of the ``parses`` table, batch after batch, in their order.

        Raises
        ------
        ParserError, OSError
            As the parser raises them; ParserError if processes end again and again without an answer.
        """
        work = Work(batches, self._most)
        while not work.is_over:
            while len(self._pool) < min(self._most, work.left + sum(bool(process.tasks) for process in self._pool)):
                self._add()
            for process in self._pool:
                process.feed(work, 1)
            if work.left > self._most:  # towards the end a task is for the first process that is idle
                for process in self._pool:
                    process.feed(work, _DEPTH)
            self._listen(work)
            yield from work.ready()

    def _add(self) -> None:
        level = logging.getLogger("reelstore").getEffectiveLevel()
        if self._pool and level > logging.DEBUG:
            level = logging.ERROR  # the first process warns for all
        self._pool.append(_Process(self._parser, level))

    def _listen(self, work: Work) -> None:
        """Wait for answers, and take those that are there."""
        for connection in wait([process.connection for process in self._pool], _WAIT_S):
            process = next(process for process in self._pool if process.connection is connection)
            if not process.answer(work):
                self._pool.remove(process)


class _Process:
    """One parsing process, and the tasks that it has not answered."""

    def __init__(self, parser: Any, level: int) -> None:
        self._process, self.connection = start_child("pipeline.parse.child")
        self.tasks: deque[Task] = deque()
        self._tell((parser, level))

    def _tell(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended: ``answer`` finds that out
            self.connection.send(message)

    def feed(self, work: Work, depth: int) -> None:
        """Send tasks up to ``depth``; a text on which a process died comes alone, with nothing behind it."""
        while len(self.tasks) < depth and not (self.tasks and work.is_alone(self.tasks[-1])):
            task = work.take()
            if task is None:
                return
            if self.tasks and work.is_alone(task):
                work.give_back(task)
                return
            self.send(task)

    def send(self, task: Task) -> None:
        """Send a task."""
        self.tasks.append(task)
        self._tell(task.texts)

    def answer(self, work: Work) -> bool:
        """Take an answer; return whether the process lives on."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            how = self._ended()
            first = self.tasks.popleft() if self.tasks else None
            for task in reversed(self.tasks):  # it has not begun with these
                work.give_back(task)
            work.died(first, how)
            return False
        if isinstance(answer, Exception):
            raise answer
        work.answered(self.tasks.popleft(), answer)
        return True

    def _ended(self) -> str:
        """Collect the process, and return how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT_S)
        self.end()
        code = self._process.returncode
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"

    def end(self) -> None:
        """End the process at once: it holds nothing that is not parsed again."""
        self.connection.close()
        self._process.kill()
        self._process.wait()
