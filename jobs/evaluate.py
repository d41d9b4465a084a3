"""Score predictions against annotations, as the published evaluators do and more strictly."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import pyarrow as pa
import typer
from rich.table import Table

from jobs._cli import AsJson, Command, emit, job
from jobs._tables import console, plain, show_tables
from parsers.annotations import AnnotationError, Anomalies, music_avqa, nextgqa, read_annotations
from settings.messages import first_few, plural, printable
from trainers.cra import Interval
from trainers.errors import EvaluationError
from trainers.metrics import AvqaScores, GroundingScores, MomentScores, NumberScores, grounding_files
from trainers.metrics import avqa as avqa_metric
from trainers.metrics import grounding as grounding_metric
from trainers.metrics import moments as moments_metric
from trainers.metrics import videoqa as videoqa_metric
from trainers.metrics.tables import accuracy_table, grounding_table, numbers_table

app = job(__doc__)

Format = Annotated[
    str, typer.Option("--format", help="Format of the annotations, as of jobs/parse.py.", show_default=False)
]
AnnotationFile = Annotated[Path, typer.Option(help="The annotation file, or a folder that holds it.")]
Split = Annotated[str, typer.Option(help="The split.")]

_CSV_ALONE = "test-without-spans"
"""A split whose answers may be hidden, and that has no file of spans: they are in ``--annotations``."""
_SHOWN = 5
_MOMENTS = {"miou": "mIoU", "r1_30": "R1@.3", "r1_50": "R1@.5", "r1_70": "R1@.7"}


@app.command(cls=Command)
def grounding(
    annotations: Annotated[Path, typer.Option(help="JSON {video: {duration, location: {question: true spans}}}.")],
    questions: Annotated[Path, typer.Option(help="CSV of the same split, as jobs/parse.py reads it.")],
    answers: Annotated[Path, typer.Option(help='JSON {"<video>_<qid>": {"prediction": i, "answer": j}}.')],
    spans: Annotated[Path | None, typer.Option(help='JSON {"<video>_<qid>": [start, end]} in seconds.')] = None,
    fractions: Annotated[bool, typer.Option("--fractions", help="Spans are fractions of the video.")] = False,
    attention: Annotated[Path | None, typer.Option(help='JSON {"<video>_<qid>": [weights]} instead of spans.')] = None,
    times: Annotated[Path | None, typer.Option(help='JSON {"<video>": [seconds]} of the weighted frames.')] = None,
    interval: Annotated[Interval, typer.Option(help="The rule that reads a span from attention.")] = "posthoc",
    official: Annotated[
        bool,
        typer.Option(
            "--official",
            help="Score as the published evaluator: its rounding; missing answers are left out, not wrong.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Acc@VQA, Acc@GQA, IoP and IoU of grounded answers, beside spans that need no model."""
    if (spans is None) == (attention is None):
        raise EvaluationError("name one of --spans and --attention")
    if attention is None and times is not None:
        raise EvaluationError("--times goes with --attention")
    if spans is None and fractions:
        raise EvaluationError("--fractions goes with --spans")
    annotated = grounding_files.read_questions(annotations, question_rows(questions, official), questions, official)
    predicted = grounding_files.read_answers(answers, annotated, official)
    if spans is not None:
        predicted_spans = grounding_files.read_spans(spans, annotated, fractions, official)
    else:
        assert attention is not None
        predicted_spans = grounding_files.read_attention(attention, times, interval, annotated, official)
    try:
        scores = grounding_metric.score(annotated, predicted, predicted_spans, official)
    except ValueError as error:
        raise EvaluationError(f"{answers if official else questions}: {error}") from error
    if as_json:
        emit(scores.to_json())
    else:
        _show_grounding(scores)


def question_rows(path: Path, official: bool = False) -> dict[str, grounding_files.QuestionRow]:
    """Read the csv of a split as ``jobs/parse.py`` does, by ``<video>_<qid>``.

    Parameters
    ----------
    path
        A csv as of NExT-GQA, NExT-QA or STAR's derived files; answers may be texts or indices, and hidden.
    official
        Leave out a row that cannot be read; otherwise it is an error.

    Raises
    ------
    EvaluationError
        If the file has another form, or a row cannot be read.
    AnnotationError
        If the file cannot be read.
    """
    anomalies = Anomalies()
    read = nextgqa.read_csv(path, "nextgqa", _CSV_ALONE, anomalies)
    errors = anomalies.errors
    if errors and not (official and read):
        others = f" (and {plural(len(errors) - 1, 'more error')})" if len(errors) > 1 else ""
        raise EvaluationError(f"{errors[0]}{others}")
    return {
        question.question_id: grounding_files.QuestionRow(
            question.type or "?", question.answer_index, len(question.options)
        )
        for question in read
    }


def _show_grounding(scores: GroundingScores) -> None:
    show_tables([grounding_table(scores)])
    for name in ("missing_answers", "missing_spans", "zero_length", "reversed", "outside_video"):
        _show_keys(name.replace("_", " "), getattr(scores, name))


@app.command(cls=Command)
def avqa(
    annotations: Annotated[
        Path,
        typer.Option(help="avqa-<split>.json of MUSIC-AVQA, or a table (.csv, .jsonl or .parquet)."),
    ],
    answers: Annotated[Path, typer.Option(help='JSON {"<question_id>": "<answer>"}.')],
    split: Annotated[
        str | None, typer.Option(help="Which split of a table to score (default: the name of the file).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy of open answers: overall, by modality and by question type."""
    musical = annotations.suffix == ".json"
    if musical and split is not None:
        raise EvaluationError("--split goes with a table; a .json file is one split of MUSIC-AVQA")
    try:
        # A table may hold several splits.
        table = read_annotations("music_avqa" if musical else "table", annotations, split or annotations.stem)
    except AnnotationError as error:
        hint = "; --split names the split of a table" if split is None and "split" in str(error) else ""
        raise EvaluationError(f"{error}{hint}") from error
    questions = avqa_metric.questions_of(table, annotations)
    if not questions:
        raise EvaluationError(f"{annotations}: has no question")
    possible = music_avqa.ANSWERS if musical else None
    scores = avqa_metric.score(questions, avqa_metric.read_predictions(answers), possible)
    if as_json:
        emit(scores.to_json())
    else:
        _show_avqa(scores)


@app.command(cls=Command)
def videoqa(
    format_: Format,
    annotations: AnnotationFile,
    answers: Annotated[Path, typer.Option(help='JSON {"<question_id>": answer}: a text, an option, or a number.')],
    split: Split = "test",
    as_json: AsJson = False,
) -> None:
    """Answers to the questions of any dataset, by the rule of its own evaluator, which is named.

    Rows of the annotations that cannot be read are left out and listed, and the exit code is 3.
    """
    table, refused = _read_what_can_be(format_, annotations, split)
    scores = videoqa_metric.score(table, answers, format_, annotations)
    if as_json:
        emit({**scores.to_json(), "refused_rows": refused})
    elif isinstance(scores, NumberScores):
        _show_numbers(scores)
    else:
        _show_avqa(scores)
    _end_with(refused)


@app.command(cls=Command)
def moments(
    format_: Format,
    annotations: AnnotationFile,
    spans: Annotated[Path | None, typer.Option(help='JSON {"<question_id>": [start, end]} in seconds.')] = None,
    split: Split = "test",
    fractions: Annotated[bool, typer.Option("--fractions", help="Spans are fractions of the video.")] = False,
    as_json: AsJson = False,
) -> None:
    """IoU of predicted spans with those that queries describe, beside spans that need no model.

    Rows of the annotations that cannot be read are left out, as 2D-TAN leaves out spans that end before they start.
    They are listed, and the exit code is 3.
    """
    table, refused = _read_what_can_be(format_, annotations, split)
    queries = moments_metric.queries_of(table, str(annotations))
    predicted = None if spans is None else grounding_files.read_spans(spans, queries, fractions)
    scores = moments_metric.score(queries, predicted)
    if as_json:
        emit({**scores.to_json(), "refused_rows": refused})
    else:
        _show_moments(scores)
    _end_with(refused)


def _read_what_can_be(format_: str, annotations: Path, split: str) -> tuple[pa.Table, list[str]]:
    """Return the questions of a file, and a line for each of its rows that cannot be read."""
    anomalies = Anomalies()
    table = read_annotations(format_, annotations, split, anomalies)
    if whole := next((error for error in anomalies.errors if error.ends_file), None):
        raise EvaluationError(str(whole))
    return table, [str(error) for error in anomalies.errors]


def _end_with(refused: Sequence[str]) -> None:
    """List the rows that were left out, and end with exit code 3 if there is one."""
    for line in refused[:_SHOWN]:
        print(f"left out: {printable(line)}", file=sys.stderr)
    if refused:
        print(f"{plural(len(refused), 'row')} of the annotations left out", file=sys.stderr)
        raise typer.Exit(3)


@app.command(cls=Command)
def together(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of jobs/train.py coqo.")],
    questions_per_video: Annotated[
        list[int], typer.Option(min=1, help="Answer so many questions of a video together; may be given several times.")
    ],
    split: Split = "test",
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Answers to several questions of a video together, beside those to each question alone."""
    from trainers.coqo.together import compare  # only here: torch takes seconds to import
    from trainers.panels import open_run

    scores = compare(open_run(run), split, questions_per_video, device)
    if as_json:
        emit(scores.to_json())
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("questions together", *map(str, scores.groups)):
        table.add_column(title, justify="right" if title.isdecimal() else "left")
    groups = scores.groups.values()
    for name in scores.groups[1].metrics:
        table.add_row(plain(name), *(f"{group.metrics[name]:.2f}" for group in groups))
    table.add_row("other answers than alone", *(str(group.changed) for group in groups))
    table.add_row("left alone", *(str(group.left_alone) for group in groups))
    console.print(table)
    asked = f"{plural(scores.n, 'question')} of {plural(scores.videos, 'video')}"
    console.print(f"{asked} that have two or more in {split}", markup=False)


def _show_moments(scores: MomentScores) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("%", no_wrap=True)
    for title in (*_MOMENTS.values(), "n"):
        table.add_column(title, justify="right", no_wrap=True)
    lines = {f"({name})": rates for name, rates in scores.baselines.items()}
    for label, rates in {**({"all": scores.overall} if scores.overall else {}), **lines}.items():
        table.add_row(plain(label), *(f"{rates[name]:.2f}" for name in _MOMENTS), str(rates["n"]))
    console.print(table)
    console.print("in brackets: spans that need no model", markup=False)
    _show_keys("missing", scores.missing)


def _show_numbers(scores: NumberScores) -> None:
    show_tables([numbers_table(scores)])
    _show_keys("unknown", scores.unknown)


def _show_avqa(scores: AvqaScores) -> None:
    show_tables([accuracy_table(scores)])
    for name in ("missing", "unknown", "repeated"):
        _show_keys(name, getattr(scores, name))
    _show_keys("no possible answer", scores.outside)
    if scores.right_but_for_spelling:
        count = plural(len(scores.right_but_for_spelling), "answer")
        console.print(f"{count} of these would be right without regard to case and blanks", markup=False)


def _show_keys(label: str, keys: Sequence[str]) -> None:
    if keys:
        console.print(plain(f"{label}: {len(keys)}: {first_few(keys, 10)}"))


if __name__ == "__main__":
    app()
