"""The form that all benches share: what is shown, what is kept, and when a target is missed."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from bench.circumstances import Circumstances, command_line, commit
from bench.report import Column, Report, Result, Table, Target, bench_parser, plain, prose
from bench.tables import WIDTH, wrapped
from tests.conftest import ROOT

REPORT = Report(
    "Copying",
    "Ours against **theirs**.",
    [
        Table(
            "seconds",
            ["layout", Column("ours, s", ".2f"), *(Column(f"peer {number}, µs") for number in range(9)), "same"],
            [
                ["a | b " * 20, 0.8049, *range(8), None, True],
                ["short", None, *(1234.5 for _ in range(8)), 0.000123, "no: " + "other frames " * 9],
            ],
        )
    ],
    [Target("ratio", 0.8004, 0.8, form=".2f"), Target("rate", 3.0, 2.5, at_most=False, unit="GB/s")],
    ["A note that is longer than one line, so that it has to be wrapped at the width of a narrow terminal."],
    {"runs": [1, 2.5], "none": float("nan")},
    ("numpy", "no-such-package"),
)


def parse(*arguments: str) -> argparse.Namespace:
    return bench_parser("Measure.").parse_args(arguments)


def finish(report: Report, path: Path, *arguments: str) -> tuple[int, Result]:
    code = report.finish(parse("--json", str(path), *arguments))
    return code, Result.read(path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    code, result = finish(REPORT, tmp_path / "new" / "a.json")
    result.write(tmp_path / "b.json")
    assert code == result.exit_code == 1
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert list(result.taken.packages) == ["numpy"] and len(result.taken.load) == 2
    assert result.report.figures == {"runs": [1, 2.5], "none": None}
    assert result.markdown() == Result(REPORT, result.taken).markdown()


def test_every_line_is_at_most_as_wide_as_a_narrow_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, result = finish(REPORT, tmp_path / "a.json")
    for text in (result.markdown(), capsys.readouterr().out):
        assert max(map(len, text.splitlines())) <= WIDTH == 80
        for column in REPORT.tables[0].columns:
            assert (column if isinstance(column, str) else column.name) in text


def test_a_table_that_is_too_wide_comes_in_parts_that_begin_with_the_same_column() -> None:
    parts = list(REPORT.tables[0].parts())
    assert len(parts) > 2 and {part.headings[0] for part in parts} == {"layout"}
    assert [heading for part in parts for heading in part.headings[1:]] == [
        column if isinstance(column, str) else column.name for column in REPORT.tables[0].columns[1:]
    ]
    for part in parts:
        lines = part.markdown().splitlines()
        assert len({len(line) for line in lines}) == 1 and lines[2].startswith("| a \\| b a")
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(part.headings) + 1}
    assert parts[0].rows[0][0].endswith("…")


def test_numbers_go_to_the_right_and_are_rounded_only_when_shown() -> None:
    table = Table("", ["", Column("a", ".1f"), Column("b"), Column("c", ".0%")], [["x", 1.25, 123456.7, 0.456]])
    assert next(table.parts()).markdown() == (
        "|     |   a |       b |   c |\n| --- | --: | ------: | --: |\n| x   | 1.2 | 123,457 | 46% |"
    )
    small = Table("", [Column("a"), Column("b"), Column("c")], [[0.00012345, 12.345, 7]])
    assert next(small.parts()).rows == [["0.000123", "12.3", "7"]]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="times: 1 cells in a row of 2 columns"):
        Table("times", ["a", "b"], [["x"]])


@pytest.mark.parametrize(
    ("target", "met", "measured"),
    [
        (Target("a", 0.8, 0.8), True, "0.8"),
        (Target("a", 0.8004, 0.8, form=".2f"), False, "0.8004"),
        (Target("a", 0.9, 0.8, form=".2f"), False, "0.90"),
        (Target("a", 2.0, 2.5, at_most=False, unit="s"), False, "2 s"),
        (Target("a", 2.5, 2.5, at_most=False, unit="s"), True, "2.5 s"),
        (Target("a", None, 1.0), None, ""),
        (Target("a", float("nan"), 1.0), None, ""),
    ],
)
def test_a_target_is_met_at_its_bound_and_one_that_is_missed_is_not_rounded_to_it(
    target: Target, met: bool | None, measured: str
) -> None:
    assert (target.met, target.measured) == (met, measured)


def test_what_is_missed_decides_the_exit_code_but_not_of_a_quick_run(tmp_path: Path) -> None:
    met = Report("a", targets=[Target("one", 1, 2), Target("not measured", None, 2)])
    assert finish(met, tmp_path / "a.json")[0] == 0
    assert finish(Report("a", failures=["a clip"]), tmp_path / "b.json", "--quick")[0] == 1
    code, result = finish(REPORT, tmp_path / "c.json", "--quick")
    assert (code, result.targets) == (0, ()) and "quick: no targets" in result.markdown()
    code, result = finish(Report("a", skipped="lmdb is not installed"), tmp_path / "d.json")
    assert code == 0 and "Skipped: lmdb is not installed." in result.markdown()


def test_a_missed_target_is_said() -> None:
    text = Result(REPORT, Circumstances("", "", "", {}, {})).markdown()
    assert "| ratio  | 0.8004   | ≤ 0.80     | MISSED |" in text
    assert "| rate   | 3 GB/s   | ≥ 2.5 GB/s | met    |" in text


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, message in (
        ('{"schema": 99}', "has the number 99, not 1"),
        ("[]", "not a result"),
        ("{", "not a result"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"a.json: .*{message}"):
            Result.read(path)


def test_the_command_names_no_folder_outside_the_checkout() -> None:
    words = [str(ROOT / "bench" / "x.py"), "val", "--csv=/data/me/val.csv", "--json", "/tmp/x", "--dir", "/data/clips"]
    assert command_line(words) == "python bench/x.py val --csv=val.csv --dir clips"


def test_the_commit_is_the_one_of_the_checkout() -> None:
    found = commit()
    if not (ROOT / ".git").exists():
        assert found is None
    else:
        assert found is not None and re.fullmatch(r"[0-9a-f]{40}\+?", found)


def test_the_prose_of_a_docstring_leaves_out_commands_and_options() -> None:
    doc = """Measure.

    Usage:

        python bench/x.py

    It counts
    seconds.

    --one   an option
            of two lines
    """
    assert prose(doc) == "Measure.\n\nUsage:\n\nIt counts\nseconds."


def test_lists_are_wrapped_item_by_item() -> None:
    text = wrapped("First\nline.\n\n- one " + "word " * 20 + "\n- two")
    assert text.startswith("First line.\n\n- one word") and "\n  word" in text and text.endswith("\n- two")


def test_what_is_not_finite_becomes_null() -> None:
    assert json.dumps(plain({4: float("inf"), "a": (Column("x"), None)})) == (
        '{"4": null, "a": [{"name": "x", "form": ""}, null]}'
    )
