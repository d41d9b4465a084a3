"""Folders of finished runs without a training: what ``jobs/report.py`` reads, made of given answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests._helpers.cra_worlds import settings
from trainers.metrics.grounding import best_overlap
from trainers.predictions import Prediction, SplitPredictions, write_predictions


def answered(number: int, right: bool | None = True, **changes: Any) -> Prediction:
    """Return a question about one of three videos with three options, of which the first is right."""
    span = changes.pop("span", (1.0, 3.0))
    true_spans = changes.pop("true_spans", [(2.0, 4.0)])
    iou, iop = best_overlap(true_spans, span) if span is not None and true_spans else (None, None)
    given: dict[str, Any] = {
        "question_id": f"q{number}",
        "video_id": f"v{number % 3}",
        "type": "CW" if number % 2 else "TN",
        "question": f"what happens in it ({number})?",
        "options": ["this", "that", "nothing"],
        "prediction": "that" if right is False else "this",
        "prediction_index": 1 if right is False else 0,
        "answer": None if right is None else "this",
        "answer_index": None if right is None else 0,
        "right": right,
        "confidence": 0.5 + number % 5 / 10,
        "duration": 8.0,
        "span": span,
        "true_spans": true_spans,
        "iou": iou,
        "iop": iop,
    }
    return Prediction(**{**given, **changes})


def finished_run(folder: Path, splits: Mapping[str, Sequence[Prediction]], dataset: str = "toy") -> Path:
    """Make the folder of a finished run of ``cra``, of which the store is gone."""
    folder.mkdir(parents=True)
    described = settings(data={"dataset": dataset, "tests": list(splits)[1:]}).describe()
    task = {"method": "cra", "store_version": 1, "settings": described}
    (folder / "settings.json").write_text(json.dumps({"loop": {"epochs": 2}, "world": 1, "task": task}))
    results = {
        "method": "cra",
        "store": str(folder / "store"),
        "store_version": 1,
        "out": str(folder),
        "steps": 4,
        "best_epoch": 2,
        "metrics": {split: {} for split in splits},
        "files": [],
        "stopped_by": None,
    }
    (folder / "results.json").write_text(json.dumps(results))
    lines = [{"step": step, "epoch": 1 + step // 3, "kind": "train", "total": 2 / step} for step in range(1, 5)]
    lines += [{"step": 2 * epoch, "epoch": epoch, "kind": "val", "n": 4, "acc_vqa": 20.0 * epoch} for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, rows in splits.items():
        write_predictions(folder, SplitPredictions(dataset, split, tuple(rows)))
    return folder
