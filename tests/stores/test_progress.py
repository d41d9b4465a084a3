"""Long operations tell how far they are, and the command line shows it with rate and time left."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.shared import Terminal
from stores import Store
from stores.command import Bars, bars, duration
from stores.exchange import export, import_files
from stores.progress import followed
from stores.upkeep import compact, verify
from tests._helpers.building import commit_rows, row, store_with
from trainers.progress import Progress


class Told:
    """What was told, by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, list[tuple[int, int]]] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stages.setdefault(stage, []).append((done, total))

    def check(self, stage: str, total: int) -> None:
        told = self.stages[stage]
        assert told == sorted(told) and told[0] == (0, total) and told[-1] == (total, total)


def test_every_long_operation_tells(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    for number in range(3):
        commit_rows(root, [row(f"v{number}")])
    told = Told()
    spec = next(iter(Store.open(root, lease=False).manifest.features["demo"].specs))
    assert verify(root, deep=True, progress=told).ok
    told.check(f"demo@{spec[:8]}", 3)
    compact(root, progress=told)
    told.check("demo", 3)
    with Store.open(root) as store:
        export(store, "demo", "nextgqa", tmp_path / "out", progress=told)
    told.check("rows", 3)
    told.check("all.h5", 3)
    (tmp_path / "npy").mkdir()
    for name in "ab":
        np.save(tmp_path / "npy" / f"{name}.npy", np.zeros((2, 3), np.float32))
    told = Told()
    import_files(root, [tmp_path / "npy"], "other", progress=told)
    told.check("rows", 2)


def test_items_are_told_one_by_one() -> None:
    told = Told()
    assert list(followed("abc", "letters", told)) == list("abc")
    assert told.stages == {"letters": [(0, 3), (1, 3), (2, 3), (3, 3)]}


def test_rate_and_time_left_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bars.time, "strftime", lambda form: f"at {form}")
    text = io.StringIO()
    with Bars(Console(file=text, width=200, highlight=False, soft_wrap=True)) as shown:
        for done in range(0, 61, 10):
            shown.stage("[rows]", done, 120)
            now[0] += 5.0
    assert text.getvalue().splitlines() == [
        "at %H:%M:%S [rows]: 20/120 · 2.0/s, 50.0 s left",
        "at %H:%M:%S [rows]: 40/120 · 2.0/s, 40.0 s left",
        "at %H:%M:%S [rows]: 60/120 · 2.0/s, 30.0 s left",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(41, "41.0 s"), (65, "1 min 5 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_colours_that_are_forced_make_no_bars(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Jupyter and continuous integration set ``FORCE_COLOR``, and have no terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for shown in (Bars(), Terminal()):
        shown.stage("hash", 1, 2)
        shown.close()
    with Progress() as progress:
        progress.step(1, 1, 1, 2, None)
    assert capsys.readouterr() == ("", "")
