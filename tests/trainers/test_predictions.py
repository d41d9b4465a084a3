"""The rows that a run leaves of every question."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests._helpers.run_folders import answered
from trainers.errors import TrainingError
from trainers.folder import remove_staged
from trainers.predictions import SCHEMA, SplitPredictions, confidence, read_predictions, write_predictions

ROWS = (
    answered(0),
    answered(1, right=False, question='<b>"é"</b>'),
    answered(2, right=None, true_spans=[], modality="Audio", subset="tail"),
    answered(3, options=[], prediction_index=None, answer_index=None, span=None, confidence=None, duration=None),
)


def test_what_is_written_is_read_and_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    given = SplitPredictions("toy", "val", ROWS)
    path = write_predictions(tmp_path, given)
    first = path.read_bytes()
    assert path.name == "predictions_val.parquet"
    found = read_predictions(tmp_path, "val")
    assert (found.dataset, found.split, len(found.rows)) == ("toy", "val", 4)
    for row, expected in zip(found.rows, ROWS, strict=True):
        assert (row.span, list(row.true_spans)) == (expected.span, list(expected.true_spans))
        assert (row.question, row.right, row.answer_index) == (expected.question, expected.right, expected.answer_index)
        assert (row.iou, row.confidence, row.subset) == (expected.iou, expected.confidence, expected.subset)
    assert write_predictions(tmp_path, given).read_bytes() == first
    assert pq.read_schema(path).remove_metadata() == SCHEMA


def test_what_a_killed_writer_left_is_removed_by_the_next_owner(tmp_path: Path) -> None:
    (tmp_path / ".predictions_val.parquet.4711").write_text("half")
    remove_staged(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_missing_damaged_or_of_another_form_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"predictions_val\.parquet: no such file; .*jobs/train\.py again"):
        read_predictions(tmp_path, "val")
    path = write_predictions(tmp_path, SplitPredictions("toy", "val", ROWS))
    pq.write_table(pq.read_table(path).drop_columns(["confidence"]), path)
    with pytest.raises(TrainingError, match=r"parquet: has no column 'confidence'"):
        read_predictions(tmp_path, "val")
    write_predictions(tmp_path, SplitPredictions("toy", "val", (answered(0, confidence=math.nan),)))
    with pytest.raises(TrainingError, match=r"parquet: question 'q0': confidence nan is not from 0 to 1"):
        read_predictions(tmp_path, "val")
    whole = pq.read_table(write_predictions(tmp_path, SplitPredictions("toy", "val", ROWS)))
    for name, value in (("options", None), ("options", [None]), ("true_spans", [None]), ("span", [1.0, None])):
        rows = whole.to_pylist()
        rows[1][name] = value
        lax = pa.schema([field.with_nullable(True) for field in whole.schema])
        pq.write_table(pa.Table.from_pylist(rows, schema=lax), path)
        with pytest.raises(TrainingError, match=r"question 'q1': a value is missing|parquet: not readable"):
            read_predictions(tmp_path, "val")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TrainingError, match=r"parquet: not readable") as refused:
        read_predictions(tmp_path, "val")
    assert "\n" not in str(refused.value)


def test_confidence_is_the_greatest_softmax() -> None:
    assert confidence([2.0, 1.0, -3.0]) == pytest.approx(math.exp(2) / (math.exp(2) + math.e + math.exp(-3)))
    assert confidence([1000.0, 0.0]) == 1.0
    assert confidence([]) is None and confidence([math.nan, 1.0]) is None
