"""The page of a run: what it holds, that texts stay texts, and how bad input ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.report import app
from tests._helpers.run_folders import answered, finished_run
from trainers.report import questions, write_report

HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(1)>\u2028 é'


def rows_of(page: Path, name: str) -> list[list[Any]]:
    """Return the rows that a table loads, as the script reads them."""
    config = re.search(r'<script type="application/json" id="table">(.*?)</script>', (page / name).read_text(), re.S)
    assert config is not None
    table = json.loads(config[1])
    found: list[list[Any]] = []
    for file in table["files"]:
        text = (page / file).read_text()
        assert text.startswith("addRows([") and text.endswith("]);\n")
        found += json.loads(text.removeprefix("addRows(").removesuffix(");\n"))
    assert len(found) == table["count"] and all(len(row) == len(table["columns"]) + 1 for row in found)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs on the same questions: the second one is right where the first is wrong, and once the other way."""
    root = tmp_path_factory.mktemp("runs")
    val = [answered(i, right=i > 3, question=HOSTILE if i == 0 else f"question {i}") for i in range(12)]
    other = [answered(i, right=i != 7, question=HOSTILE if i == 0 else f"question {i}") for i in range(12)]
    hidden = [answered(i, right=None) for i in range(3)]
    return {
        "a": finished_run(root / "a", {"val": val, "test": hidden}),
        "b": finished_run(root / "b", {"val": other}),
    }


def test_a_page_tells_of_every_question(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SHARD_ROWS", 5)
    said: list[str] = []
    index = write_report(runs["a"], out=tmp_path / "page", say=said.append)
    page = index.parent
    assert {path.name for path in page.glob("*.html")} == {"index.html", "1-val.html", "2-test.html"}
    rows = rows_of(page, "1-val.html")
    assert len(list(page.glob("1-val-rows-*.js"))) == 3
    assert [row[0] for row in rows] == [f"q{i}" for i in range(12)]
    assert [row[6] for row in rows] == ["wrong"] * 4 + ["right"] * 8
    assert rows[0][3] == HOSTILE and rows[0][8:11] == ["1.0–3.0\u00a0s", "2.0–4.0\u00a0s", 0.3333]
    assert [row[6] for row in rows_of(page, "2-test.html")] == ["not scored"] * 3
    text = (page / "1-val.html").read_text()
    assert "66.7 [" in text and "Expected calibration error" in text and "IoP.5" in text and "(full_video)" in text
    assert "the answers of 3 are hidden" in (page / "2-test.html").read_text()
    assert "acc_vqa" in index.read_text() and 'aria-label="total by step"' in index.read_text()
    assert said == ["val: 12 questions", "val: drawing 4 panels", "test: 3 questions"]
    assert text.count("store: no store here") == 1  # it is gone, the page is there, and says so once
    assert text.count("<article") == 4  # the right ones have IoP 0.5


def test_texts_stay_texts_and_nothing_comes_from_a_network(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_report(runs["a"], runs["b"], tmp_path / "page").parent
    for path in (*page.glob("*.html"), *page.glob("*-rows-*.js")):
        text = path.read_text()
        assert ("<script>alert" not in text and "<img src=x" not in text) or path.suffix == ".js", path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text), path
    assert "&lt;img src=x" in (page / "1-val.html").read_text()
    assert all(line.isascii() for line in (page / "1-val-rows-1.js").read_text().splitlines())


def test_two_runs_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    page = write_report(runs["a"], runs["b"], tmp_path / "page").parent
    outcomes = [row[7] for row in rows_of(page, "1-val-compared.html")]
    assert (
        outcomes == ["only the second right"] * 4 + ["both right"] * 3 + ["only the first right"] + ["both right"] * 4
    )
    text = (page / "1-val-compared.html").read_text()
    assert "4 that only b got right" in text and "1 that only a got right" in text
    assert "p = <strong>0.38</strong>" in text  # 2 * (1 + 5) / 2^5
    assert "<strong>25.0 [" in text
    assert not (page / "2-test-compared.html").exists()  # b has no such split
    assert 'class="line b"' in (page / "index.html").read_text()


def test_equal_runs_give_equal_pages_and_a_page_is_replaced_as_a_whole(runs: dict[str, Path], tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    out = tmp_path / "page"
    first = files(write_report(runs["a"], runs["b"], out).parent)
    (out / "left.html").write_text("of an earlier page")
    assert files(write_report(runs["a"], runs["b"], out).parent) == first
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_the_folder_of_the_run_is_the_default(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["b"], run)
    done = CliRunner().invoke(app, [str(run), "--worst", "0"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{run / 'report' / 'index.html'}\n" and "val: 12 questions" in done.stderr
    assert "<article" not in (run / "report" / "1-val.html").read_text()


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("nothing", "nowhere: no such folder; name the --out of a run of jobs/train.py"),
        ("older", "predictions_val.parquet: no such file; the run was finished before predictions were kept"),
        ("journal", "metrics.jsonl: no such file"),
        ("fifo", "predictions_val.parquet: not readable (not a regular file but a FIFO"),
        ("deep", "metrics.jsonl: line 7 does not belong to a training journal"),
        ("line", "metrics.jsonl: line 7 does not belong to a training journal"),
        ("file", "exists and holds no report; name another --out"),
        ("folder", "exists and holds no report; name another --out"),
        ("other dataset", "has no scored question in common with"),
        ("other questions", "has no scored question in common with"),
        ("other answers", "split 'val': 1 question with another text or answer than in"),
    ],
)
def test_bad_input_is_one_line(runs: dict[str, Path], tmp_path: Path, case: str, says: str) -> None:
    words = [str(runs["b"]), "--out", str(tmp_path / "page")]
    if case == "nothing":
        words[0] = str(tmp_path / "nowhere")
    elif case in ("older", "journal"):
        shutil.copytree(runs["b"], tmp_path / "run")
        (tmp_path / "run" / ("predictions_val.parquet" if case == "older" else "metrics.jsonl")).unlink()
        words[0] = str(tmp_path / "run")
    elif case == "fifo":
        shutil.copytree(runs["b"], tmp_path / "run")
        (tmp_path / "run" / "predictions_val.parquet").unlink()
        os.mkfifo(tmp_path / "run" / "predictions_val.parquet")
        words[0] = str(tmp_path / "run")
    elif case in ("line", "deep"):
        shutil.copytree(runs["b"], tmp_path / "run")
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"step": ' * 20_000 + "\n" if case == "deep" else '{"step": 9, "epoch": "two"}\n')
        words[0] = str(tmp_path / "run")
    elif case == "file":
        (tmp_path / "page").write_text("mine")
    elif case == "folder":
        (tmp_path / "page").mkdir()
        (tmp_path / "page" / "thesis.tex").write_text("mine")
    elif case == "other dataset":
        words += ["--compare", str(finished_run(tmp_path / "o", {"val": [answered(0)]}, dataset="star"))]
    elif case == "other questions":
        words += ["--compare", str(finished_run(tmp_path / "o", {"val": [answered(99)]}))]
    else:
        words += ["--compare", str(finished_run(tmp_path / "o", {"val": [answered(5, answer="that")]}))]
    kept = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == kept


BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
MEASURED = """
<script>addEventListener("load", () => setTimeout(() => parent.postMessage(
  [document.documentElement.scrollWidth, document.querySelectorAll("#rows tbody tr").length,
   document.getElementById("status").textContent, document.querySelectorAll("#controls option").length], "*"), 400));
</script></body>"""
FRAME = """<!doctype html><title>waiting</title>
<iframe src="{page}" style="width:{width}px;height:800px;border:0"></iframe>
<script>addEventListener("message", (event) => {{ document.title = JSON.stringify(event.data); }});</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize(("width", "name"), [(390, "1-val.html"), (1280, "1-val-compared.html")])
def test_a_browser_shows_the_table_and_scrolls_nothing_sideways(
    runs: dict[str, Path], tmp_path: Path, width: int, name: str
) -> None:
    page = write_report(runs["a"], runs["b"], tmp_path / "page").parent
    path = page / name
    path.write_text(path.read_text().replace("</body>", MEASURED))
    (page / "frame.html").write_text(FRAME.format(page=name, width=width))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*map(str, command), f"--window-size={width + 40},900", (page / "frame.html").as_uri()],
        text=True,
        capture_output=True,
        check=True,
        timeout=120,
    )
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None and title[1].startswith("["), done.stdout
    scrolled, shown, status, choices = json.loads(title[1].replace("&quot;", '"'))
    assert scrolled <= width
    assert (shown, status) == (12, "12 of 12 questions")
    assert choices >= 1 + 2 + 1 + 2  # "all" and the types, "all" and the verdicts
