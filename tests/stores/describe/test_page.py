"""The page about a store: correct numbers, and dataset texts that are shown as text."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from stores import Store
from stores.commit import Changes, Failure, commit, create_store, write_table
from stores.describe import page as report
from stores.describe.page import render_page
from tests._helpers.building import NUMERICS, SPEC, commit_rows, files_under, row, store_with
from tests.conftest import ROOT

HOSTILE = "<script>alert('&')</script>"


class Page(HTMLParser):
    """The rows of all tables of a page, cell by cell, and the names of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.elements: set[str] = set()
        self.text = ""
        self._in_table = False
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self._in_table = self._in_table or tag == "table"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_table = self._in_table and tag != "table"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_table and self.rows and self.rows[-1]:
            self.rows[-1][-1] = (self.rows[-1][-1] + data).strip()


def page(root: Path) -> Page:
    with Store.open(root, lease=False) as store:
        return Page(render_page(store))


def failure(root: Path, key: str) -> Failure:
    with Store.open(root, lease=False) as store:
        spec_digest = store.features["demo"].spec_digest
    return Failure(key, "demo", spec_digest, "corrupt", True, HOSTILE, f"/videos/{key}.mp4", "", 1)


def test_features_missing_rows_and_tables(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a", "b", HOSTILE)
    commit_rows(root, [row("d")], numerics={**NUMERICS, "micro_batch": 2})
    commit(root, Changes(failures=[failure(root, "bad")]))
    question_table = pa.table(
        {"dataset": ["n"] * 3, "split": ["val"] * 3, "video_id": ["a", "a", "b"], "type": ["TC", "TN", "TC"]}
    )
    anomaly_table = pa.table({"kind": ["note", "note"], "code": [HOSTILE, HOSTILE]})
    questions = write_table(root, "questions", {"kind": "q"}, question_table)
    anomalies = write_table(root, "annotation_report", {"kind": "r"}, anomaly_table)
    commit(root, Changes(tables={"questions": {"": questions}, "annotation_report": {"": anomalies}}))
    commit(root, Changes(stale={("questions", ""): (HOSTILE,)}))
    shown = page(root)
    assert ["demo", "4", "1", "not planned", "3×4", "float16"] in [cells[:6] for cells in shown.rows]
    assert ["n/val", "3 of 3 (100 %)"] in shown.rows
    assert ["bad", "demo", "corrupt", HOSTILE] in shown.rows
    assert ["n", "val", "3", "2", "TC 2, TN 1"] in shown.rows
    assert ["note", HOSTILE, "2"] in shown.rows
    assert [f"stale: {HOSTILE}"] == [cells[3] for cells in shown.rows if cells[:2] == ["questions", "3"]]
    assert "computed under 2 numerics" in shown.text
    assert "Durations of 4 of 4 rows: 1.0 to 1.0 s" in shown.text and "33.33 % of their steps" in shown.text
    assert "script" not in shown.elements


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    shown = page(create_store(tmp_path / "store"))
    assert "0 features, 0.0 MB" in shown.text and shown.rows == []


def test_random_weights_are_pointed_out(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    commit_rows(root, [row("a")], spec={**SPEC, "random_weights": True})
    shown = page(root)
    assert "Random weights: these rows are placeholders" in shown.text
    assert [cells[8] for cells in shown.rows if cells[0] == "demo"] == ["random"]


def test_a_long_list_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "SHOWN_FAILURES", 2)
    root = store_with(tmp_path / "store", "a")
    commit(root, Changes(failures=[failure(root, f"bad{number}") for number in range(3)]))
    shown = page(root)
    assert "The first 2 of 3" in shown.text
    assert [cells[0] for cells in shown.rows if cells[2:3] == ["corrupt"]] == ["bad0", "bad1"]


def test_the_command_writes_one_file(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    before = files_under(root)
    command = [sys.executable, ROOT / "jobs" / "store.py", "report", root]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(root / "report.html")
    assert files_under(root) - before == {"report.html"}
    failed = subprocess.run([*command, "--out", tmp_path / "no" / "where.html"], capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
