"""RESULTS.md is what the kept results say, and nothing else."""

from __future__ import annotations

from bench.all import BENCHES
from bench.circumstances import Circumstances
from bench.page import KEPT, PAGE, read_results, render
from bench.report import Column, Report, Result, Table, Target
from bench.tables import WIDTH


def test_the_page_is_rendered_from_the_kept_results() -> None:
    """Written by ``python bench/all.py``, or anew by ``python bench/all.py --from-json bench/results``."""
    assert PAGE.read_bytes() == render(read_results(KEPT, BENCHES)).encode()


def test_the_page_can_be_read_on_a_narrow_terminal() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) > 50 and max(map(len, tables)) <= WIDTH
    for line in lines:
        assert len(line) <= WIDTH or " " not in line.strip(), line


def test_no_kept_result_is_of_a_quick_run() -> None:
    results = read_results(KEPT, BENCHES)
    assert len(results) > 10
    for name, result in results.items():
        assert not result.quick and not result.report.skipped, name
        assert result.taken.date and (result.taken.commit or result.taken.taken_from), name


def test_what_is_missed_stands_first_and_an_explanation_is_given_once() -> None:
    taken = Circumstances("python bench/x.py", "2026-11-27 10:00:00", "0123456789+", {}, {}, (0.1, 0.2), 3.0)
    targets = [Target("time", 2.0, 1.0, unit="s"), Target("memory", 1.0, 1.0), Target("rate", None, 1.0)]
    first = Report("First", "How it was done.", [Table("t", ["a", Column("b")], [["x", 1]])], targets, ["Why."])
    second = Report("Second", "How it was done.", targets=targets[1:2], notes=["Why.", "Why not."])
    page = render({"first": Result(first, taken), "second": Result(second, taken)})
    assert page.count("How it was done.") == page.count("Why.\n") == page.count("Why not.\n") == 1
    assert page.index("| First: time | 2 s      | ≤ 1 s  |") < page.index("## First") < page.index("## Second")
    assert "| First  |   1 |      1 |            1 | 2026-11-27 |" in page
    assert "2026-11-27 10:00:00 UTC; commit 0123456+; load 0.1 before and 0.2 after; 3 s." in page
