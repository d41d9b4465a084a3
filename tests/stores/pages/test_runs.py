"""What the event logs tell of runs, and the command that tries failed rows again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stores import Store
from stores.describe import history
from stores.pages import runs
from tests._helpers.building import commit_rows, row, store_with
from tests._helpers.pages import pages_of


def log(root: Path, name: str, *events: dict[str, Any], tail: str = "") -> None:
    lines = [json.dumps({"time": 1000.0 + number, **event}) for number, event in enumerate(events)]
    (root / "events" / f"{name}.jsonl").write_text("\n".join(lines) + "\n" + tail)


PLAN = {"event": "plan", "source": "/data/my videos", "version": 0, "features": {}}


def test_a_run_tells_its_throughput(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    summary = {"videos_done": 50, "compute_s": 90.0, "bytes_written": 3_000_000, "decode_s": 60.5, "wall_s": 95.0}
    log(
        root,
        "20260101T000000-aa",
        PLAN,
        {"event": "commit", "version": 1, "rows": 40, "failures": 0, "time": 1010.0},
        {"event": "failure", "feature": "demo"},
        {"event": "commit", "version": 1, "rows": 60, "failures": 1, "time": 1030.0},
        {"event": "summary", "version": 1, "stopped_by": "SIGTERM", **summary},
    )
    log(root, "20260101T000000-00", {**PLAN, "time": 2000.0}, {"event": "commit", "version": 9}, tail='{"event": "su')
    log(root, "20260102T000000-bb", {"event": "parse_plan", "part": "n/val", "time": 900.0})
    with (root / "events" / "20260101T000000-aa.jsonl").open("a") as file:  # logs are not sealed
        file.write('[]\n{"event": "summary", "time": 1e400}\n{"event": "commit", "time": 1040, "rows": "many"}\n\xff\n')
    with Store.open(root, lease=False) as store:
        found, count = runs.read_runs(store)
    assert count == 3 and [run.started for run in found] == [2000.0, 1000.0, 900.0]
    killed, stopped, _ = found
    assert killed.end.startswith("has no end") and killed.chart() is None and killed.commits == []
    facts = dict(stopped.facts())
    assert facts["videos per hour"] == "2,000" and facts["MB written per hour"] == "120.0"
    assert facts["rows committed"] == "100" and facts["s of decoding"] == "60.5"
    assert (stopped.end, stopped.seconds, stopped.failures) == ("stopped by SIGTERM", 95.0, 1)
    assert "0 to 15 s: 3.667 rows per second" in str(stopped.chart())
    shown = pages_of(root)["runs"]
    assert "Rows per second over 30 s, at most 3.67; 100 rows in all" in shown.values("aria-label")
    assert ["1970-01-01 00:15:00", "parse", "n/val", "0.0"] in [cells[:4] for cells in shown.rows]
    assert "All 3 logs" in shown.text and "/data/my videos" in shown.text


def test_failed_rows_are_tried_again_by_the_command_that_computed_them(tmp_path: Path) -> None:
    root = store_with(tmp_path / "my store")
    log(root, "20260101T000000-aa", PLAN)
    with Store.open(root, lease=False) as store:
        again = f"python jobs/extract.py '/data/my videos' --store '{root}' --config SETTINGS --retry-failed"
        assert runs.retry_command(store, ["refresh.py x.yaml"]) == runs.Retry(again, lacks_settings=True)
        last = "extract.py 'my videos' --store s --only a --only --limit --limit=5 --retry-failed --preset demo --json"
        commands = ["parse.py x", "no 'end", last, "extract.py other"]
        assert runs.retry_command(store, commands) == runs.Retry(
            "python jobs/extract.py 'my videos' --store s --preset demo --retry-failed"
        )


def test_the_latest_versions_alone(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    for key in "abcd":
        commit_rows(root, [row(key)])
    assert [(each.version, each.changes) for each in history(root, latest=2)] == [
        (3, ["demo: +1 row"]),
        (4, ["demo: +1 row"]),
    ]
    assert [each.version for each in history(root, until=2)] == [0, 1, 2]
    assert [each.version for each in history(root, latest=1, until=3)] == [3]
    (root / "versions" / "0000000002.json").write_text("damaged")
    assert history(root, latest=2)[0].changes == ["since version 1: demo: +2 rows"]
