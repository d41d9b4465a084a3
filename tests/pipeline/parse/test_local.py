"""The pool of parsing processes: what it gives, and what becomes of processes that die."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from parsers import ParserError, StanzaParser, parses_table
from parsers.parse import refused_from_table
from pipeline.parse import local
from pipeline.parse.local import choose_processes, parse_in_processes
from pipeline.parse.work import PROBE, Task, Work
from tests._helpers.deadly_parser import DeadlyParser
from tests.conftest import ROOT


@pytest.fixture
def parser(tmp_path: Path) -> DeadlyParser:
    return DeadlyParser(tmp_path)


def batches_of(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def run(parser: DeadlyParser, texts: Sequence[str], size: int, processes: int) -> pa.Table:
    return pa.concat_tables(parse_in_processes(parser, batches_of(texts, size), processes))


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rows_come_in_the_order_of_the_texts(parser: DeadlyParser, processes: int) -> None:
    texts = [f"text {number}" for number in range(60)]
    table = run(parser, texts, 4, processes)
    assert table["text"].to_pylist() == texts
    calls = parser.calls()
    assert len(calls) <= processes
    assert sorted(call for own in calls.values() for call in own) == sorted(map(list, batches_of(texts, 4)))
    assert not any(map(alive, calls))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_is_killed_loses_nothing(parser: DeadlyParser, processes: int) -> None:
    texts = [f"text {number}" for number in range(20)]
    texts[9] = "once killed"
    table = run(parser, texts, 4, processes)
    assert table["text"].to_pylist() == texts
    assert not refused_from_table(table)
    alone = [call for own in parser.calls().values() for call in own if len(call) == 1]
    assert sorted(alone) == [["once killed"], ["text 10"], ["text 11"], ["text 8"]]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_text_that_kills_every_process_is_refused_alone(parser: DeadlyParser, processes: int) -> None:
    texts = [f"text {number}" for number in range(20)]
    texts[5], texts[6], texts[18] = "kill me", "kill me too", "kill them all"
    table = run(parser, texts, 4, processes)
    assert table["text"].to_pylist() == texts
    refused = refused_from_table(table)
    assert list(refused) == [texts[5], texts[6], texts[18]]
    reason = "parser_failed: the parsing process ended on this text every time (ended by SIGKILL)"
    assert {one.reason for one in refused.values()} == {reason}
    alone = [call for own in parser.calls().values() for call in own if call == ["kill me"]]
    assert len(alone) == 2


def test_a_machine_on_which_every_process_dies_ends_the_run(parser: DeadlyParser) -> None:
    texts = [f"kill {number}" for number in range(12)]

    class Hopeless(Work):
        """No text helps, not even that which only shows whether processes work."""

        def take(self) -> Task | None:
            task = super().take()
            return Task(None, ("kill the probe",)) if task == PROBE else task

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ParserError, match=r"^4 parsing processes in a row ended"),
    ):
        patch.setattr(local, "Work", Hopeless)
        run(parser, texts, 4, 1)
    assert len(parser.calls()) == 4


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("error in the models", ParserError, "the models do not load"),
        ("disk is full", OSError, "No space left on device"),
        ("odd mistake", ParserError, "the parser fails: by nought"),
    ],
)
def test_what_a_parser_raises_ends_the_run(
    parser: DeadlyParser, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(parser, ["text", text, "wait for ever"], 1, 2)
    assert not any(map(alive, parser.calls()))


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_the_traceback_of_a_mistake_is_for_those_who_debug(
    parser: DeadlyParser, level: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(level, "reelstore")
    with pytest.raises(ParserError, match="by nought"):
        run(parser, ["odd mistake"], 1, 1)
    assert ("ZeroDivisionError: by nought" in capfd.readouterr().err) is (level == logging.DEBUG)


def test_few_batches_are_held(parser: DeadlyParser, tmp_path: Path) -> None:
    """The first batch never ends, so nothing can be yielded; the other process must not run away."""
    work = Work([("a",), *((str(number),) for number in range(100))], processes=2)
    first = work.take()
    assert first is not None
    taken = 0
    while (task := work.take()) is not None:
        work.answered(task, parses_table([]))
        taken += 1
    assert (taken, list(work.ready())) == (7, [])
    work.answered(first, parses_table([]))
    assert len(list(work.ready())) == 8


def test_a_small_input_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "available_cpus", lambda: 8)
    monkeypatch.setattr(local, "available_memory_gb", lambda: 9.0)
    monkeypatch.setattr(local, "visible_gpus", lambda: 0)
    few = [choose_processes(texts, None, "auto", 1) for texts in (1, 2000, 2001, 6169, 10**6)]
    assert few == [1, 1, 2, 4, 6]  # 9 GiB hold six
    assert [choose_processes(10**6, asked, "cpu", 1) for asked in (1, 3, 20)] == [1, 3, 20]
    assert [choose_processes(texts, 20, "cpu", 1) for texts in (500, 6169)] == [1, 4]
    assert choose_processes(10**6, None, "cpu", 4) == 2
    assert choose_processes(10**6, None, "cuda", 1) == 1
    monkeypatch.setattr(local, "visible_gpus", lambda: 1)
    assert choose_processes(10**6, None, "auto", 1) == 1


PARENT = """
import sys
from pathlib import Path
from pipeline.parse.local import parse_in_processes
from tests._helpers.deadly_parser import DeadlyParser
for table in parse_in_processes(DeadlyParser(Path(sys.argv[1])), [("text",), ("wait a",), ("wait b",)], 2):
    print(table["text"].to_pylist(), flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_parent(parser: DeadlyParser, signum: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(parser.folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "['text']\n"
    deadline = time.monotonic() + 60
    while sum(map(len, parser.calls().values())) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    children = list(parser.calls())
    assert len(children) == 2
    parent.send_signal(signum)
    parent.wait(20)
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, children))


@pytest.mark.parametrize("seed", ["0", "77"])
def test_stanza_in_processes_gives_what_it_gives_here(shared: Path, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    parser = StanzaParser(shared / "models/stanza")
    texts = [f"why did the {colour} dog number {n} not chase it" for n in range(8) for colour in ("red", "small")]
    here = pa.concat_tables(parses_table(parser.parse(batch)) for batch in batches_of(texts, 4))
    pool = pa.concat_tables(parse_in_processes(parser, batches_of(texts, 4), 1 if seed == "0" else 2))
    assert pool.equals(here)
