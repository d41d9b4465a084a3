"""Official VideoQA and grounding files against ``docs/facts/videoqa.md``.

They are not ours to ship. Each test skips by name unless ``data/annotations/<format>`` of the shared test data holds
the files under their official names.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from parsers.annotations import AnnotationError, annotation_file
from parsers.annotations.evidence import OFFICIAL
from tests._helpers.annotation_files import read
from trainers.coqo.answers import AnswerVocabulary
from trainers.metrics import AvqaScores, videoqa
from trainers.metrics.avqa import questions_of
from trainers.metrics.numbers import score as score_numbers

ELSEWHERE = ("nextgqa", "star", "music_avqa")  # test_official.py
SPLITS = [(format, split) for format in OFFICIAL if format not in ELSEWHERE for split in OFFICIAL[format]]
VIDEOS = {
    ("msvd_qa", "train"): 1161,
    ("msvd_qa", "val"): 245,
    ("msvd_qa", "test"): 504,
    ("msrvtt_qa", "val"): 497,
    ("msrvtt_qa", "test"): 2990,
    ("activitynet_qa", "train"): 3200,
    ("activitynet_qa", "val"): 1800,
    ("activitynet_qa", "test"): 800,
    ("nextqa", "val"): 570,
    ("nextqa", "test"): 1000,
    ("intentqa", "val"): 524,
    ("intentqa", "test"): 567,
    ("qvhighlights", "train"): 7100,
    ("qvhighlights", "val"): 1519,
    ("qvhighlights", "test"): 1529,
    ("charades_sta", "test"): 1334,
    ("activitynet_captions", "train"): 10009,
    ("activitynet_captions", "val"): 4917,
    ("activitynet_captions", "test"): 4885,
    ("tacos", "train"): 75,
    ("tacos", "val"): 27,
    ("tacos", "test"): 25,
    ("rextime", "val"): 696,
}
TYPES = {
    ("msvd_qa", "test"): {"what": 8149, "who": 4552, "how": 370, "when": 58, "where": 28},
    ("msrvtt_qa", "test"): {"what": 49869, "who": 20385, "how": 1640, "when": 677, "where": 250},
    ("tgif_frameqa", "test"): {"object": 5586, "number": 3148, "color": 3904, "location": 1053},
    ("activitynet_qa", "test"): {
        "Motion": 800,
        "Spatial Relation": 800,
        "Temporal Relation": 800,
        "Yes/No": 2094,
        "Color": 697,
        "Object": 318,
        "Location": 386,
        "Number": 606,
        "Other": 1499,
    },
}


def official(shared: Path, format: str, split: str) -> pa.Table:
    folder = shared / "data/annotations" / format
    try:
        annotation_file(format, folder, split)
    except AnnotationError:
        pytest.skip(f"needs the {split} split of {format} in {folder}")
    table, anomalies = read(format, folder, split)
    refused = {error.code for error in anomalies.errors}
    assert refused <= {"reversed_span"}  # what 2D-TAN leaves out, too
    return table


@pytest.mark.parametrize(("format", "split"), SPLITS)
def test_rows_videos_and_types(shared: Path, format: str, split: str) -> None:
    table = official(shared, format, split)
    assert OFFICIAL[format][split] - 20 <= table.num_rows <= OFFICIAL[format][split]
    if format not in ("charades_sta", "activitynet_captions", "tacos"):
        assert table.num_rows == OFFICIAL[format][split]
    if (videos := VIDEOS.get((format, split))) is not None:
        assert len(table["video_id"].unique()) == videos
    if (types := TYPES.get((format, split))) is not None:
        assert Counter(table["type"].to_pylist()) == types


def test_classes_of_activitynet(shared: Path) -> None:
    """``docs/facts/videoqa.md`` section 3: 5,199 answers, of which 1,654 occur twice and cover 80.74 % of test."""
    train = official(shared, "activitynet_qa", "train")["answer"].to_pylist()
    test = official(shared, "activitynet_qa", "test")["answer"].to_pylist()
    assert len(AnswerVocabulary.of("activitynet_qa", train)) == 5199
    classes = AnswerVocabulary.of("activitynet_qa", train, minimum=2)
    assert len(classes) == 1654
    assert round(100 * sum(answer in classes.answers for answer in test) / len(test), 2) == 80.74


def test_published_predictions_on_msvd(shared: Path, tmp_path: Path) -> None:
    """``docs/facts/videoqa.md`` section 1: HQGA's committed predictions are right for 5,414 of 13,157 = 41.149 %."""
    table = official(shared, "msvd_qa", "test")
    folder = shared / "data/annotations/msvd_qa"
    predicted, words = folder / "HQGA-bert-8c10b-2L05GCN-FCV-AC-VM-test.json", folder / "ans_word.json"
    if not (predicted.is_file() and words.is_file()):
        pytest.skip(f"needs {predicted.name} and {words.name} of HQGA in {folder}")
    answers = ["<not in the vocabulary>", *json.loads(words.read_text())]
    texts = {name: answers[value["prediction"]] for name, value in json.loads(predicted.read_text()).items()}
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(texts))
    scores = videoqa.score(table, path, "msvd_qa")
    assert isinstance(scores, AvqaScores) and scores.overall.accuracy == pytest.approx(100 * 5414 / 13157)
    rounded = {name: rate.accuracy and round(rate.accuracy, 2) for name, rate in scores.types.items()}
    assert rounded == {"how": 76.22, "what": 30.4, "when": 75.86, "where": 32.14, "who": 57.16}


def test_published_predictions_on_nextqa(shared: Path) -> None:
    """``docs/facts/videoqa.md`` section 5: HQGA's committed predictions, 51.7515 % of 8,564."""
    table = official(shared, "nextqa", "test")
    path = shared / "data/annotations/nextqa/HQGA-bert-16c20b-2L05GCN-FCV-AC-VM-test.json"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of HQGA in {path.parent}")
    scores = videoqa.score(table, path, "nextqa")
    assert isinstance(scores, AvqaScores) and scores.overall.accuracy == pytest.approx(51.7515, abs=1e-4)


def test_constants_on_tgif_count(shared: Path) -> None:
    """``docs/facts/videoqa.md`` section 4: 3 has 5.63 under HCRN's rule and 6.92 raw; 2 has 7.78 raw."""
    questions = questions_of(official(shared, "tgif_count", "test"))
    truth = {question.question_id: float(question.answer) for question in questions}
    three, two = (score_numbers(truth, dict.fromkeys(truth, constant)) for constant in (3.0, 2.0))
    assert [round(three.mse[rule], 2) for rule in ("hcrn", "raw", "tgif_qa")] == [5.63, 6.92, 6.92]
    assert round(two.mse["raw"], 2) == 7.78
