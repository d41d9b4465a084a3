"""Official files against the counts that were published about them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from parsers.annotations import QUESTIONS, Anomalies
from parsers.annotations.music_avqa import ANSWERS, TYPES
from tests._helpers.annotation_files import NEXT_HEADER, read
from tests._helpers.media import SHARED

Annotations = tuple[pa.Table, Anomalies]


@pytest.fixture(scope="module")
def nextgqa(shared: Path) -> Annotations:
    return read("nextgqa", shared / "data/annotations/nextgqa")


@pytest.fixture(scope="module")
def music(shared: Path) -> Annotations:
    return read("music_avqa", shared / "data/annotations/music_avqa")


def test_nextgqa_rows_videos_and_types(nextgqa: Annotations) -> None:
    table, anomalies = nextgqa
    assert table.schema == QUESTIONS
    assert anomalies.errors == []
    assert table.num_rows == 3358
    assert len(table["video_id"].unique()) == 567
    assert len(table["question_id"].unique()) == 3358
    assert Counter(table["type"].to_pylist()) == {"CW": 1474, "TN": 879, "CH": 481, "TC": 472, "TP": 52}
    assert Counter(table["answer_index"].to_pylist()) == {0: 675, 1: 654, 2: 682, 3: 656, 4: 691}
    assert {len(options) for options in table["options"].to_pylist()} == {5}
    assert table["row"].to_pylist() == list(range(3358))


def test_nextgqa_texts(nextgqa: Annotations) -> None:
    table, _ = nextgqa
    words = [len(question.split()) for question in table["question"].to_pylist()]
    assert (round(sum(words) / len(words), 2), max(words)) == (13.07, 26)
    assert max(len(answer.split()) for answer in table["answer"].to_pylist()) == 8
    assert not any(question.endswith("?") for question in table["question"].to_pylist())


def test_nextgqa_spans(nextgqa: Annotations) -> None:
    spans = nextgqa[0]["spans"].to_pylist()
    per_question = Counter(map(len, spans))
    assert per_question == {1: 3019, 2: 211, 3: 75, 4: 29, 5: 10, 6: 7, 7: 4, 9: 2, 11: 1}
    lengths = [end - start for question_spans in spans for start, end in question_spans]
    assert len(lengths) == 3931
    assert round(sum(lengths) / len(lengths), 2) == 7.31
    assert round(min(lengths), 1) == 0.1


def test_nextgqa_durations_are_frames_by_rate(nextgqa: Annotations) -> None:
    table, _ = nextgqa
    columns = (table[name].to_pylist() for name in ("duration", "frame_count", "fps"))
    assert all(duration == round(frames / fps) for duration, frames, fps in zip(*columns, strict=True))


def test_nextgqa_anomalies(nextgqa: Annotations) -> None:
    table, anomalies = nextgqa
    by_code: dict[str, list[str]] = {}
    for note in anomalies.notes:
        by_code.setdefault(note.code, []).append(note.key)
    assert sorted(by_code["span_after_duration"]) == ["2482028659_2", "2482028659_5", "6413546609_1"]
    assert len(by_code["empty_location"]) == 3
    assert len(by_code["upper_case"]) == 1
    assert "unused_span" not in by_code  # the csv's keys are the spans' keys
    flagged = table.filter(pa.compute.equal(table["question_id"], "6413546609_1")).to_pylist()[0]
    assert flagged["flags"] == ["span_after_duration"]
    assert flagged["spans"][0][1] == 47.3
    assert flagged["duration"] == 47


TEST_SPANS = {1: 4962, 2: 362, 3: 125, 4: 65, 5: 15, 6: 9, 7: 5, 8: 3, 9: 1, 11: 2, 14: 2, 16: 2}
"""Number of spans → questions of the test split that have as many."""
BEFORE_START = 36


def made_test_split(folder: Path) -> Path:
    """Write a test split with the published numbers of videos, questions and spans, 36 of which start before 0."""
    counts = [spans for spans, questions in TEST_SPANS.items() for _ in range(questions)]
    spans_of: dict[str, dict[str, list[list[float]]]] = {str(video): {} for video in range(999)}
    lines = [",".join(NEXT_HEADER)]
    for number, spans in enumerate(counts):
        video, qid = str(number % 990), str(number // 990)
        first = -0.1 if number % 2 else -0.2
        starts = [first if number < BEFORE_START and not span else 5 * span for span in range(spans)]
        spans_of[video][qid] = [[start, start + 1.5] for start in starts]
        lines.append(f"{video},900,640,480,why did he go,to eat,{qid},CW,to eat,to run,to sit,to play,to cry")
    (folder / "test.csv").write_text("\n".join(lines) + "\n")
    videos = {video: {"duration": 90, "location": location, "fps": 29.97} for video, location in spans_of.items()}
    (folder / "gsub_test.json").write_text(json.dumps(videos))
    return folder


@pytest.fixture(scope="module")
def nextgqa_test(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    """The official files where they are at hand, otherwise made ones of the same numbers."""
    official = SHARED / "data/annotations/nextgqa"
    if (official / "test.csv").is_file() and (official / "gsub_test.json").is_file():
        return read("nextgqa", official, "test")
    return read("nextgqa", made_test_split(tmp_path_factory.mktemp("nextgqa")), "test")


def test_no_question_of_the_test_split_is_refused(nextgqa_test: Annotations) -> None:
    table, anomalies = nextgqa_test
    assert anomalies.errors == []
    assert table.num_rows == 5553
    assert len(table["video_id"].unique()) == 990
    spans = table["spans"].to_pylist()
    assert sum(map(len, spans)) == 6600
    assert Counter(map(len, spans)) == TEST_SPANS


def test_spans_of_the_test_split_that_start_before_0_are_raw_and_noted(nextgqa_test: Annotations) -> None:
    table, anomalies = nextgqa_test
    early = [start for spans in table["spans"].to_pylist() for start, _ in spans if start < 0]
    assert len(early) == BEFORE_START
    assert set(early) == {-0.1, -0.2}
    assert [note.code for note in anomalies.notes].count("span_before_start") == BEFORE_START
    assert sum("span_before_start" in flags for flags in table["flags"].to_pylist()) == BEFORE_START


def test_music_avqa_rows_videos_and_types(music: Annotations) -> None:
    table, anomalies = music
    assert table.schema == QUESTIONS
    assert anomalies.errors == []
    assert table.num_rows == 4568
    videos = Counter(table["video_id"].to_pylist())
    assert len(videos) == 3815
    assert Counter(videos.values()) == {1: 3127, 2: 624, 3: 63, 4: 1}
    assert Counter(table["type"].to_pylist()) == {
        "Audio Counting": 511,
        "Audio Comparative": 295,
        "Visual Counting": 600,
        "Visual Location": 613,
        "Audio-Visual Existential": 495,
        "Audio-Visual Counting": 633,
        "Audio-Visual Location": 461,
        "Audio-Visual Comparative": 549,
        "Audio-Visual Temporal": 411,
    }
    assert set(table["type"].to_pylist()) == {f"{modality} {kind}" for modality in TYPES for kind in TYPES[modality]}


def test_music_avqa_answers(music: Annotations) -> None:
    answers = music[0]["answer"].to_pylist()
    assert len(set(answers)) == 41
    assert set(ANSWERS) - set(answers) == {"ten"}  # occurs in the training questions only
    assert music[0]["answer_index"].to_pylist() == [ANSWERS.index(answer) for answer in answers]


def test_music_avqa_questions_are_filled_and_clean(music: Annotations) -> None:
    table, anomalies = music
    questions = table["question"].to_pylist()
    assert all(question.endswith("?") and "<" not in question for question in questions)
    assert {4, 14} == {min(len(q.split()) for q in questions), max(len(q.split()) for q in questions)}
    assert len(table["template"].unique()) <= 33
    assert {note.code for note in anomalies.notes} == {"full_width_mark", "trailing_blank"}
    assert {note.field for note in anomalies.notes} == {"question_content"}
    words = {word for question in questions for word in question[:-1].split()}
    assert len(words) <= 92


def test_published_answer_order() -> None:
    assert len(ANSWERS) == len(set(ANSWERS)) == 42
    some = {
        0: "two",
        7: "yes",
        20: "more than ten",
        30: "acoustic_guitar",
        33: "ten",
        36: "simultaneously",
        41: "suona",
    }
    assert {index: ANSWERS[index] for index in some} == some
