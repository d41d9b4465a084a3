"""What the completeness check finds, and what it lets pass."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from stores import Store, StoreError
from stores.commit import Changes, commit, create_store
from stores.loading import Completeness, IncompleteError, check
from tests._helpers.building import NUMERICS, SPEC, commit_rows, row, store_with
from tests._helpers.question_worlds import put_questions, put_table, question, world


def findings(report: Completeness) -> dict[tuple[str, str], tuple[int, int, tuple[str, ...]]]:
    return {(finding.name, finding.kind): (finding.count, finding.total, finding.keys) for finding in report.findings}


def printed(report: Completeness, **how: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(report.table(**how))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]  # the fixture's StringIO


def test_a_complete_store_passes(tmp_path: Path) -> None:
    root = world(tmp_path / "store")
    report = check(Store.open(root), ["maps", "sound"], "train", deep=True)
    report.require()
    assert report.findings == [] and report.rows == {"maps": 4, "sound": 4}
    assert printed(report).count("complete") == 2
    shallow = check(Store.open(root), ["maps"], "train")
    assert "values not checked" in printed(shallow)


@pytest.fixture
def bad(tmp_path: Path) -> Store:
    """A feature ``demo`` (T = 3) with one row for each fault, and one that is merely silent."""
    root = create_store(tmp_path / "store")
    rows = {key: row(key) for key in ("good", "nan", "inf", "zero", "silent")}

    def with_value(key: str, value: float) -> None:
        values = rows[key].values.copy()
        values[1, 2] = value
        rows[key] = replace(rows[key], values=values)

    with_value("nan", np.nan)
    with_value("inf", -np.inf)
    rows["zero"] = replace(rows["zero"], values=np.zeros((3, 4), np.float16))
    rows["silent"] = replace(rows["silent"], values=np.zeros((3, 4), np.float16), valid=np.zeros(3, bool))
    commit_rows(root, [*rows.values(), row("long", steps=5)])
    commit_rows(root, [row("short", steps=1)], numerics={**NUMERICS, "micro_batch": 9})
    put_questions(root, "star", "train", [question(key, 0) for key in [*rows, "long", "short", "absent", "gone"]])
    put_questions(root, "star", "val", [question("good", 1)])
    return Store.open(root)


def test_each_fault_is_found_with_its_keys(bad: Store) -> None:
    assert findings(check(bad, ["demo"], "train", deep=True)) == {
        ("demo", "missing"): (2, 9, ("absent", "gone")),
        ("demo", "steps"): (2, 9, ("long", "short")),
        ("demo", "not_finite"): (2, 9, ("inf", "nan")),
        ("demo", "all_zero"): (1, 9, ("zero",)),
        ("demo", "mixed_numerics"): (7, 9, ()),
    }
    shallow = findings(check(bad, ["demo"], "train"))
    assert {kind for _, kind in shallow} == {"missing", "steps", "mixed_numerics"}
    assert findings(check(bad, ["demo"], "val", deep=True)).keys() == {("demo", "mixed_numerics")}
    assert findings(check(bad, ["demo"], "val", expected_steps={"demo": 60}))["demo", "steps"] == (1, 1, ("good",))


def test_what_is_not_allowed_stops_training_in_one_line(bad: Store) -> None:
    report = check(bad, ["demo"], "train", deep=True)
    with pytest.raises(IncompleteError) as raised:
        report.require(allow=["mixed_numerics", "all_zero"])
    message = str(raised.value)
    assert "\n" not in message and "'demo': 2 of 9 videos without a row ('absent', 'gone')" in message
    assert "T is 1, 5, not 3" in message and message.endswith("allow: missing, steps, not_finite")
    assert "mixed" not in message
    report.require(allow=["missing", "steps", "not_finite", "all_zero", "mixed_numerics"])
    with pytest.raises(StoreError, match=r"allow='nan': unknown kind of finding \(available: missing, steps"):
        report.require(allow=["nan"])
    shown = printed(report, allow=["missing"])
    assert "'absent', 'gone'" in shown and "rows with NaN or Inf" in shown


def test_random_weights_and_stale_dictionaries(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store")
    commit_rows(root, [row("a")], spec={**SPEC, "random_weights": True})
    put_questions(root, "star", "train", [question("a", 0)])
    report = check(Store.open(root), ["demo"], "train")
    assert findings(report).keys() == {("demo", "random_weights")}
    with pytest.raises(IncompleteError, match="'demo': made with random weights"):
        report.require()
    with pytest.raises(StoreError, match="no table 'visual_dictionary'"):
        check(Store.open(root), ["demo"], "train", dictionaries=["visual_dictionary"])
    put_table(root, "visual_dictionary", pa.table({"cluster": [0]}))
    assert findings(check(Store.open(root), ["demo"], "train", dictionaries=["visual_dictionary"])).keys() == {
        ("demo", "random_weights")
    }
    commit(root, Changes(stale={("visual_dictionary", ""): ("video a", "video b")}))
    report = check(Store.open(root), ["demo"], "train", dictionaries=["visual_dictionary"])
    with pytest.raises(IncompleteError, match=r"'visual_dictionary': made from data .* \(video a, video b\)"):
        report.require(allow=["random_weights"])


def test_unknown_features_and_splits_are_refused(bad: Store) -> None:
    with pytest.raises(StoreError, match="no feature 'clip'"):
        check(bad, ["clip"], "train")
    with pytest.raises(StoreError, match="no questions of 'test'"):
        check(bad, ["demo"], "test")
