"""What a run tells people where there is no terminal: lines at an interval, from a clock that the test moves."""

from __future__ import annotations

import io
import re
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests._helpers.toy_task import Clouds
from trainers.config import LoopConfig
from trainers.distributed import Ranks
from trainers.loop import train
from trainers.progress import Progress
from trainers.relay import append_line, following
from trainers.stopping import asking_to_stop, hearing


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_the_interval_with_speed_and_time_left() -> None:
    clock, lines = Clock(), list[str]()
    with Progress(30, say=lines.append, clock=clock) as progress:
        for done in range(1, 401):
            clock.now += 0.25
            progress.step(3, 20, 120 + done, 800, 1.23456 if done > 1 else None)
            if done == 119:
                assert lines == []  # 29.75 s
    # 30 s are 120 steps; 18 * 800 - 240 steps are left, at four per second.
    assert lines[0] == "epoch 3/20 step 240/800 loss 1.2346, 4.0 steps/s, 59 min 0 s left"
    assert lines[1] == "epoch 3/20 step 360/800 loss 1.2346, 4.0 steps/s, 58 min 30 s left"
    assert len(lines) == 3


def test_speed_is_that_of_steps_and_the_time_left_counts_validation() -> None:
    clock, lines = Clock(), list[str]()
    with Progress(60, say=lines.append, clock=clock) as progress:
        for epoch in (1, 2):
            for done in range(1, 11):
                clock.now += 2
                progress.step(epoch, 3, done, 10, None)
            clock.now += 30  # validation
    # 20 + 30 + 10 s for 15 steps, of which those that validation lies before are not timed; 15 steps are left.
    assert lines == ["epoch 2/3 step 5/10, 2.0 s/step, 1 min 0 s left"]


def test_a_run_that_resumes_counts_its_own_steps() -> None:
    clock, lines = Clock(), list[str]()
    with Progress(10, say=lines.append, clock=clock) as progress:
        for done in (801, 802):
            clock.now += 5
            progress.step(1, 1, done, 1000, 2.0)
    assert lines == ["epoch 1/1 step 802/1000 loss 2.0000, 5.0 s/step, 16 min 30 s left"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_has_a_bar_and_no_such_lines(is_terminal: bool) -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=100)
    with Progress(1, console, clock=clock) as progress:
        for done in (1, 2, 3):
            clock.now += 5
            progress.step(1, 2, done, 3, 0.5)
    assert ("steps" in out.getvalue() or "s/step" in out.getvalue()) != is_terminal
    assert "epoch 1/2" in out.getvalue()
    assert is_terminal or re.match(r"\d\d:\d\d:\d\d epoch 1/2 step 1/3 ", out.getvalue())


def test_the_loop_tells_every_step_and_the_latest_loss(tmp_path: Path) -> None:
    clock, lines = Clock(), list[str]()

    class Slow(Clouds):
        def loss(self, batch: object) -> dict[str, torch.Tensor]:
            clock.now += 3
            return super().loss(batch)

    config = LoopConfig(epochs=2, lr=0.01, log_steps=4, threads=1, tensorboard=False)
    progress = Progress(9, say=lines.append, clock=clock)
    train(Slow(), config, tmp_path, Ranks(0, 1, torch.device("cpu")), progress)
    told = [line for line in lines if " step " in line]
    assert [re.split(" loss|, ", line)[0] for line in told] == [
        f"epoch {e}/2 step {s}/5" for e, s in ((1, 3), (2, 1), (2, 4))
    ]
    assert "loss" not in told[0] and re.search(r"step 1/5 loss \d\.\d{4}, 3\.0 s/step, 12 s left", told[1])


def wait_until(lines: list[str], count: int, more: threading.Event) -> None:
    while len(lines) < count:
        assert more.wait(60)
        more.clear()


def test_lines_of_another_process_are_passed_on_while_it_writes(tmp_path: Path) -> None:
    path, lines, more = tmp_path / "progress.log", list[str](), threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        more.set()

    append_line(path, "of an earlier run")
    with following(path, say, poll_s=0.01):
        append_line(path, "first")
        wait_until(lines, 1, more)  # live, before the block ends
        with path.open("a", encoding="utf-8") as file:
            file.write("half ")
        append_line(path, "a line é")
        append_line(path, "two\nlines")
    assert lines == ["first", "half a line é", "two lines"]


def test_what_a_worker_wrote_before_it_died_is_passed_on(tmp_path: Path) -> None:
    path, lines = tmp_path / "progress.log", list[str]()
    with pytest.raises(RuntimeError), following(path, lines.append, poll_s=60):
        append_line(path, "the last words")
        raise RuntimeError
    assert lines == ["the last words"]


def test_a_line_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    append_line(tmp_path / "nowhere" / "progress.log", "lost")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_of_one_process_reaches_another(tmp_path: Path) -> None:
    path, before = tmp_path / "stop", signal.getsignal(signal.SIGTERM)
    path.write_text("SIGINT")  # a killed run left it
    with hearing(path, poll_s=60) as late, asking_to_stop(path):
        assert not path.exists() and late == []
        signal.raise_signal(signal.SIGTERM)
        assert path.read_text() == "SIGTERM"
        with hearing(path, poll_s=0.01) as received:
            deadline = time.monotonic() + 60
            while not received and time.monotonic() < deadline:
                pass
            assert received == [signal.SIGTERM]
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGINT)
        assert ended.value.code == 130
    assert not path.exists() and signal.getsignal(signal.SIGTERM) is before
