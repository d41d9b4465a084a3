"""``jobs/evaluate.py grounding`` as a user runs it: files in, numbers or one line out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.evaluate import app

CSV = """video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2
YSKX3,300,10,10,what is it,the shoe,Interaction_T1_1,T1,the shoe,a bed,a box
YSKX3,300,10,10,what next,a box,Sequence_T2_4,T2,the shoe,a bed,a box
77,300,10,10,why,fun,0,CW,fun,"no, never",a box
"""
GSUB = {
    "YSKX3": {"duration": 30.0, "location": {"Interaction_T1_1": [[11.8, 17.3]], "Sequence_T2_4": [[2, 4]]}, "fps": 10},
    "77": {"duration": 10, "location": {"0": [[0, 5], [6, 7]]}, "fps": 30},
    "88": {"duration": 10, "location": {}, "fps": 30},
}
PREDS = {
    "YSKX3_Interaction_T1_1": {"prediction": 0, "answer": 0},
    "YSKX3_Sequence_T2_4": {"prediction": 1, "answer": 2},
    "77_0": {"prediction": 0, "answer": 0},
}
SPANS = {"YSKX3_Interaction_T1_1": [11.8, 17.3], "YSKX3_Sequence_T2_4": [2, 6], "77_0": [8, 9]}


class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("val.csv", CSV)
        self.write("gsub.json", GSUB)
        self.write("preds.json", PREDS)
        self.write("spans.json", SPANS)

    def write(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(value if isinstance(value, str) else json.dumps(value))

    def run(self, *options: str, spans: bool = True) -> Any:
        paths = {"annotations": "gsub.json", "questions": "val.csv", "answers": "preds.json"}
        if spans:
            paths["spans"] = "spans.json"
        named = [part for option, name in paths.items() for part in (f"--{option}", str(self.folder / name))]
        return CliRunner().invoke(app, ["grounding", *named, *options])

    def rates(self, *options: str, spans: bool = True) -> dict[str, Any]:
        done = self.run("--json", *options, spans=spans)
        assert done.exit_code == 0, done.output
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    def refused(self, *options: str, spans: bool = True) -> str:
        done = self.run(*options, spans=spans)
        assert done.exit_code == 2
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.output
        return str(lines[0])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_star_ids_with_underscores_and_several_segments(files: Files) -> None:
    report = files.rates()
    assert report["n"] == 3
    assert report["acc_vqa"] == pytest.approx(200 / 3)
    assert report["acc_gqa"] == pytest.approx(100 / 3)
    assert report["miop"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert report["types"]["T2"]["acc_vqa"] == 0
    assert report["baselines"]["full_video"]["acc_gqa"] == pytest.approx(100 / 3)  # 77_0: 5 s of 10 s


def test_fractions_are_rounded_only_as_the_published_evaluator_does(files: Files) -> None:
    files.write("spans.json", {"YSKX3_Interaction_T1_1": [0.3951, 0.5766]})
    report = files.rates("--fractions", "--official")
    assert report["n"] == 1
    assert report["miop"] == 100 * (17.3 - 11.9) / (17.3 - 11.9)
    strict = files.rates("--fractions")
    assert strict["types"]["T1"]["miou"] == pytest.approx(100 * 30 * (0.5766 - 0.3951) / 5.5)
    assert strict["missing_spans"] == ["YSKX3_Sequence_T2_4", "77_0"]


def test_spans_from_attention(files: Files) -> None:
    one_hot = [float(t == 10) for t in range(32)]
    files.write("att.json", {"YSKX3_Interaction_T1_1": one_hot, "YSKX3_Sequence_T2_4": one_hot, "77_0": one_hot})
    times = {video: [round((1 + 3 * c) / 6, 1) for c in range(32)] for video in GSUB}
    files.write("times.json", times)
    given = ("--attention", str(files.folder / "att.json"), "--times", str(files.folder / "times.json"))
    posthoc = files.rates(*given, spans=False)
    assert len(posthoc["zero_length"]) == 3  # 5.2 s, a point
    assert posthoc["miop"] == 0  # in no true span: 77_0 shows [0, 5] and [6, 7]
    files.write("att.json", {"77_0": [0.02 + (t == 10) for t in range(32)]})
    window = files.rates(*given, "--interval", "window", "--official", spans=False)
    assert window["n"] == 1
    assert window["miop"] == pytest.approx(100 * (3.5 - 1.9) / (3.5 - 1.9))  # 6/31 and 11/31 of 10 s
    merged = files.rates(*given, "--interval", "merge", "--official", spans=False)
    assert merged["zero_length"] == ["77_0"]  # the window ends before 5.2 s, so the point stays


def test_the_table_names_what_is_missing_and_shows_baselines(files: Files) -> None:
    files.write("spans.json", {"77_0": [3, 3]})
    done = files.run()
    assert done.exit_code == 0
    for text in ("(midpoint)", "(full_video)", "missing spans: 2: YSKX3_Interaction_T1_1", "zero length: 1: 77_0"):
        assert text in done.stdout


def test_names_that_look_like_markup_are_shown_as_they_are(files: Files) -> None:
    files.write("val.csv", CSV.replace("CW", "[/CW]"))
    done = files.run()
    assert done.exit_code == 0 and "[/CW]" in done.stdout


@pytest.mark.parametrize(
    ("file", "value", "says"),
    [
        ("preds.json", "{", "preds.json: not valid JSON"),
        ("preds.json", "[]", "must be a JSON object"),
        ("preds.json", '{"77_0": {"prediction": 0}, "77_0": {"prediction": 1}}', "'77_0' is given twice"),
        ("preds.json", {"77_0": {"prediction": 1.5, "answer": 0}}, "'77_0'"),
        ("preds.json", {"77_0": {"prediction": 3, "answer": 0}}, "prediction 3 of 3 options"),
        ("preds.json", {"99_0": {"prediction": 0, "answer": 0}}, "'99_0': not in the annotations"),
        ("spans.json", {"77_0": [1, 2, 3]}, "'77_0': a span must be [start, end], has 3 numbers"),
        ("spans.json", {"77_0": [[1, 2]]}, "'77_0'"),
        ("spans.json", '{"77_0": [1, NaN]}', "finite"),
        ("spans.json", '{"77_0": [0, 1' + "0" * 400 + "]}", "finite"),
        ("spans.json", {"77_0": None}, "'77_0'"),
        ("gsub.json", {"77": {"location": {"0": [[1, 2]]}}}, "duration"),
        ("gsub.json", {"77": {"duration": 5, "location": {"9": [[1, 2]]}}}, "question '77_9' is not in"),
        ("gsub.json", {"77": {"duration": 5, "location": {"0": []}}}, "'77_0'"),
        ("val.csv", "video,qid\n1,2\n", "val.csv: line 1: field 'question': column 'question' is missing"),
        (
            "val.csv",
            CSV + CSV.splitlines()[-1] + "\n",
            "line 5: '77_0': field 'qid': '77_0' is already given in line 4",
        ),
        (
            "val.csv",
            CSV.replace("what next,a box", "what next,a cat"),
            "val.csv: line 3: 'YSKX3_Sequence_T2_4': field 'answer'",
        ),
        ("val.csv", "", "val.csv: has neither a header nor rows"),
        ("val.csv", CSV.replace("why,fun", "why,"), "val.csv: question '77_0': its right answer is not known"),
    ],
)
def test_a_bad_file_is_one_line(files: Files, file: str, value: Any, says: str) -> None:
    files.write(file, value)
    assert says in files.refused()


def test_a_missing_file_and_options_that_exclude_each_other(files: Files) -> None:
    (files.folder / "spans.json").unlink()
    assert "spans.json: not readable (No such file" in files.refused()
    assert "one of --spans and --attention" in files.refused(spans=False)
    files.write("att.json", {"77_0": [0.1, 0.2]})
    given = ("--attention", str(files.folder / "att.json"))
    assert "needs --times" in files.refused(*given, spans=False)
    unknown = files.refused(*given, "--interval", "middle", spans=False)
    assert "'middle' is not one of 'posthoc', 'window', 'merge'" in unknown


def test_official_ignores_strangers_and_reads_the_ends_of_long_spans(files: Files) -> None:
    files.write("preds.json", {**PREDS, "99_0": {"prediction": 0, "answer": 0}})
    files.write("spans.json", {**SPANS, "99_1": [0, 1], "77_0": [0, 9, 4, 5]})
    report = files.rates("--official")
    assert report["n"] == 3
    assert report["types"]["CW"]["miou"] == 100


def test_what_parse_reads_is_scored_the_same(files: Files) -> None:
    """Answers as indices in a column ``video``, trailing blanks, a byte order mark in every file."""
    expected = files.rates()
    rows = [line.split(",") for line in CSV.replace('"no, never"', "no").splitlines()]
    options = [row[8:] for row in rows[1:]]
    indices = [[*row[:5], str(choice.index(row[5])), *row[6:]] for row, choice in zip(rows[1:], options, strict=True)]
    files.write("val.csv", "\n".join(",".join(row) for row in [["video", *rows[0][1:]], *indices]) + "\n")
    assert files.rates() == expected
    files.write(
        "val.csv", "\ufeff" + CSV.replace("what next,a box,", "what next,a box ,").replace(",fun,0", ",fun  ,0")
    )
    for name in ("gsub.json", "preds.json", "spans.json"):
        files.write(name, "\ufeff" + (files.folder / name).read_text())
    assert files.rates() == expected


def test_seconds_are_no_fractions(files: Files) -> None:
    """Neither in the official form; what a float32 rounds to a hair above 1 is."""
    says = f"{files.folder / 'spans.json'}: question 'YSKX3_Interaction_T1_1': 17.3 is no fraction of a video; leave"
    for more in ((), ("--official",)):
        assert says in files.refused("--fractions", *more)
    files.write("spans.json", {"77_0": [0.5, 1.0000001192]})
    assert files.rates("--fractions")["types"]["CW"]["miou"] == pytest.approx(100 * 2 / 10)  # [6, 7] or [0, 5]: hull


def test_fractions_that_are_called_seconds_are_warned_of(files: Files) -> None:
    files.write("spans.json", {"YSKX3_Interaction_T1_1": [0.39, 0.57], "77_0": [0, 0.5]})
    done = files.run()
    assert done.exit_code == 0
    assert "spans.json: no span goes beyond second 1; fractions of a video need --fractions" in done.stderr
    files.write("spans.json", {"YSKX3_Interaction_T1_1": [0.39, 0.57], "77_0": [0, 1.5]})
    assert "fractions" not in files.run().stderr


def test_spans_outside_their_video_are_counted(files: Files) -> None:
    """Scored as they are: 500 s of a video of 30 s meets no truth."""
    files.write("spans.json", {"YSKX3_Interaction_T1_1": [500, 900], "YSKX3_Sequence_T2_4": [-1, 3], "77_0": [8, 10]})
    report = files.rates()
    assert report["outside_video"] == ["YSKX3_Interaction_T1_1", "YSKX3_Sequence_T2_4"]
    assert report["types"]["T1"]["miop"] == 0
    shown = files.run().stdout
    assert "outside video: 2: YSKX3_Interaction_T1_1, YSKX3_Sequence_T2_4" in shown
