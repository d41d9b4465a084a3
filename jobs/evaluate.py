"""Score predictions against annotations, as the published evaluators do and more strictly."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, get_args

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parsers.annotations import AnnotationError, read_annotations
from trainers.cra.spans import Interval
from trainers.metrics import avqa as avqa_metric
from trainers.metrics.files import EvaluationError
from trainers.metrics.grounding import Report, score
from trainers.metrics.grounding_files import read_answers, read_attention, read_questions, read_spans

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__, no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True, emoji=False)


_COLUMNS = {
    "acc_vqa": "VQA",
    "acc_gqa": "GQA",
    "miop": "mIoP",
    "iop_30": "IoP.3",
    "iop_50": "IoP.5",
    "miou": "mIoU",
    "iou_30": "IoU.3",
    "iou_50": "IoU.5",
    "unfaithful": "UF",
    "bias_errors": "Err",
}


@contextmanager
def _errors() -> Iterator[None]:
    """One line and exit code 2 for what a user must change."""
    try:
        yield
    except (EvaluationError, AnnotationError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


@app.callback()
def main() -> None:
    """Keep the metric's name on the command line, however many metrics there are."""


@app.command()
def grounding(
    annotations: Annotated[Path, typer.Option(help="True spans: {video: {duration, location: {question: spans}}}.")],
    questions: Annotated[Path, typer.Option(help="csv of the same split: video_id, qid, type, answer, a0 … aN.")],
    answers: Annotated[Path, typer.Option(help='JSON {"<video>_<qid>": {"prediction": i, "answer": j}}.')],
    spans: Annotated[Path | None, typer.Option(help='JSON {"<video>_<qid>": [start, end]} in seconds.')] = None,
    fractions: Annotated[bool, typer.Option("--fractions", help="Spans are fractions of the video.")] = False,
    attention: Annotated[Path | None, typer.Option(help='JSON {"<video>_<qid>": [weights]} instead of spans.')] = None,
    times: Annotated[Path | None, typer.Option(help='JSON {"<video>": [seconds]} of the weighted frames.')] = None,
    interval: Annotated[
        str, typer.Option(help=f"How attention becomes a span: {', '.join(get_args(Interval))}.")
    ] = "posthoc",
    official: Annotated[
        bool, typer.Option("--official", help="As the published evaluator: its rounding, gaps left out, not wrong.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Acc@VQA, Acc@GQA, IoP and IoU of grounded answers, beside spans that need no model."""
    with _errors():
        if (spans is None) == (attention is None):
            raise EvaluationError("name one of --spans and --attention")
        if attention is None and times is not None:
            raise EvaluationError("--times goes with --attention")
        if spans is None and fractions:
            raise EvaluationError("--fractions goes with --spans")
        asked = read_questions(annotations, questions, official)
        answered = read_answers(answers, asked, official)
        if spans is not None:
            grounded = read_spans(spans, asked, fractions, official)
        else:
            assert attention is not None
            grounded = read_attention(attention, times, _interval(interval), asked, official)
        try:
            report = score(asked, answered, grounded, official)
        except ValueError as error:
            raise EvaluationError(str(error)) from error
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        _show(report)


def _interval(name: str) -> Interval:
    for known in get_args(Interval):
        if name == known:
            chosen: Interval = known
            return chosen
    raise EvaluationError(f"--interval {name!r}: unknown; there is {', '.join(get_args(Interval))}")


def _printable(text: str) -> Text:
    """Names from files as they are: nothing in them is markup, and half a surrogate pair is spelled out."""
    return Text(text.encode("utf-8", "backslashreplace").decode())


def _show(report: Report) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("%", no_wrap=True)
    for title in (*_COLUMNS.values(), "n"):
        table.add_column(title, justify="right", no_wrap=True)
    lines: list[tuple[str, Mapping[str, float]]] = [
        ("all", report.overall),
        *report.types.items(),
        *((f"({name})", rates) for name, rates in report.baselines.items()),
    ]
    for label, rates in lines:
        table.add_row(_printable(label), *(f"{rates[name]:.1f}" for name in _COLUMNS), str(rates["n"]))
    console.print(table)
    console.print("in brackets: the same answers with spans that need no model", markup=False)
    console.print("UF: right answers, Err: wrong answers with IoP below 0.5", markup=False)
    for what in ("missing_answers", "missing_spans", "zero_length", "reversed"):
        if keys := getattr(report, what):
            more = ", …" if len(keys) > 10 else ""
            console.print(_printable(f"{what.replace('_', ' ')}: {len(keys)}: {', '.join(keys[:10])}{more}"))


@app.command()
def avqa(
    annotations: Annotated[
        Path,
        typer.Option(help="avqa-<split>.json of MUSIC-AVQA, or a table <split>.{csv,jsonl,parquet}."),
    ],
    answers: Annotated[Path, typer.Option(help='JSON {"<question_id>": "<answer>"}.')],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Accuracy of open answers: overall, by modality and by question type."""
    with _errors():
        kind = "music_avqa" if annotations.suffix == ".json" else "table"
        # Rows of other splits are left out of a table that has them.
        questions = avqa_metric.questions_of(read_annotations(kind, annotations, annotations.stem))
        report = avqa_metric.score(questions, avqa_metric.read_predictions(answers))
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        _show_avqa(report)


def _show_avqa(report: avqa_metric.Report) -> None:
    table = Table()
    for name in ("", "accuracy", "n"):
        table.add_column(name, justify="right" if name else "left")
    for label, rate in {**report.types, **report.groups, "all": report.overall}.items():
        table.add_row(_printable(label), "–" if rate.accuracy is None else f"{rate.accuracy:.2f}", str(rate.n))
    console.print(table)
    for what in ("missing", "unknown", "repeated"):
        if keys := getattr(report, what):
            more = ", …" if len(keys) > 10 else ""
            console.print(_printable(f"{what}: {len(keys)}: {', '.join(keys[:10])}{more}"))


if __name__ == "__main__":
    app()
