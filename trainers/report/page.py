"""Writes the page of a run: scores and curves, a page per split with all its questions, and a comparison with a run.

Everything that comes from a dataset is escaped by the templates, or set as text by the script of the tables.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from settings.files import read_text
from settings.messages import first_few, plural
from trainers.errors import TrainingError
from trainers.folder import RESULTS
from trainers.journal import read_journal
from trainers.panels import FinishedRun, open_run
from trainers.predictions import Prediction, SplitPredictions, read_predictions
from trainers.report import figures, statistics
from trainers.report.questions import COLUMNS, SPANS, Pair, paired_columns, paired_rows, question_rows, write_rows
from trainers.report.tables import score_tables
from trainers.report.worst import ShownPanel, draw_worst, worst_first
from trainers.resume import read_settings

MARK = "reelstore-run-page"
"""File that tells a report from any other folder, so that a report may be written again."""
_HERE = Path(__file__).parent
_ASSETS = ("style.css", "table.js")
_OFTEN = 10  # confusions of a type that are listed


@dataclass(frozen=True, slots=True)
class _Run:
    """A run, and what a page says of it."""

    run: FinishedRun
    label: str
    results: Mapping[str, Any]
    journal: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    splits: Mapping[str, SplitPredictions]


def write_report(
    folder: Path,
    compare: Path | None = None,
    out: Path | None = None,
    worst: int = 50,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the page of a run into a folder, and return its first page.

    Parameters
    ----------
    folder
        The folder of a finished run.
    compare
        The folder of another run, to be shown beside it.
    out
        The folder to write; by default ``report`` in that of the run. A report there is replaced as a whole.
    worst
        Number of panels per split: the wrong answers of which the model was surest, then the least grounded right ones.
    say
        Takes lines about what is being done.

    Raises
    ------
    TrainingError
        If a folder holds no finished run or no predictions, the runs have no questions in common, or ``out`` holds
        something that is not a report.
    OSError
        If the disk fails.
    """
    first = _open(folder, folder.resolve().name)
    second = None if compare is None else _open(compare, compare.resolve().name)
    if second is not None and second.label == first.label:
        first, second = _open(folder, str(folder)), _open(compare or folder, str(compare))
    pairs = {} if second is None else _pairs(first, second)
    target = folder / "report" if out is None else out
    with _replaced(target) as staged:
        _write(staged, first, second, pairs, worst, say)
    return target / "index.html"


def _open(folder: Path, label: str) -> _Run:
    run, results = open_run(folder), json.loads(read_text(folder / RESULTS))
    return _Run(
        run=run,
        label=label,
        results={name: results.get(name, "unknown") for name in ("steps", "best_epoch")},
        journal=read_journal(folder),
        settings=read_settings(folder) or {},
        splits={split: read_predictions(folder, split) for split in run.splits},
    )


def _pairs(first: _Run, second: _Run) -> dict[str, list[Pair]]:
    """Return the questions of each split that both runs answered.

    Raises
    ------
    TrainingError
        If there are none, or the runs read different annotations.
    """
    found = {}
    for split, own in first.splits.items():
        other = second.splits.get(split)
        if other is None or other.dataset != own.dataset:
            continue
        theirs = {row.question_id: row for row in other.rows}
        pairs = [(row, theirs[row.question_id]) for row in own.rows if row.question_id in theirs]
        changed = [a.question_id for a, b in pairs if (a.answer, a.question) != (b.answer, b.question)]
        if changed:
            raise TrainingError(
                f"{second.run.folder}: split {split!r}: {plural(len(changed), 'question')} with another text or answer "
                f"than in {first.run.folder} ({first_few(changed)}); compare runs on the same annotations"
            )
        if any(a.right is not None for a, _ in pairs):
            found[split] = pairs
    if not found:
        raise TrainingError(
            f"{second.run.folder}: has no scored question in common with {first.run.folder} "
            f"({_scored(second)}; {_scored(first)})"
        )
    return found


def _scored(run: _Run) -> str:
    return f"{run.run.dataset}: {', '.join(run.run.splits)}"


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``target``, in place of an older report, if all goes well; else it is removed."""
    if target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise TrainingError(f"{target}: exists and holds no report; name another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield staged
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write(
    folder: Path,
    first: _Run,
    second: _Run | None,
    pairs: Mapping[str, Sequence[Pair]],
    worst: int,
    say: Callable[[str], None],
) -> None:
    """Write all files of a report."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(first=first, second=second, pages=_pages(first.run.splits), compared=set(pairs))
    templates.filters["interval"] = _interval

    def page(name: str, template: str, **shown: Any) -> None:
        (folder / name).write_text(templates.get_template(template).render(**shown), encoding="utf-8")

    for asset in _ASSETS:
        shutil.copyfile(_HERE / asset, folder / asset)
    for split, predictions in first.splits.items():
        name = _pages(first.run.splits)[split]
        say(f"{split}: {plural(len(predictions.rows), 'question')}")
        panels = draw_worst(first.run, split, worst_first(predictions.rows, worst), folder, f"{name}-panels", say)
        spans = any(row.span is not None or row.true_spans for row in predictions.rows)
        page(
            f"{name}.html",
            "split.html.j2",
            **_split(predictions, panels.shown),
            split=split,
            notes=panels.notes,
            table=write_rows(
                folder,
                f"{name}-rows",
                (*COLUMNS, *(SPANS if spans else ())),
                question_rows(predictions.rows, panels.shown, spans),
                "right",
            ),
        )
    for split, own in pairs.items():
        name = _pages(first.run.splits)[split]
        rows = paired_rows(own)
        columns = paired_columns(first.label, second.label if second is not None else "")
        page(
            f"{name}-compared.html",
            "compared.html.j2",
            **_compared(own),
            split=split,
            table=write_rows(folder, f"{name}-compared-rows", columns, rows, "outcome"),
        )
    journals = {run.label: run.journal for run in (first, second) if run is not None}
    page(
        "index.html",
        "index.html.j2",
        curves=figures.curves(journals),
        scores={run.label: _scores(run) for run in (first, second) if run is not None},
        settings=json.dumps(first.settings, indent=1, sort_keys=True, ensure_ascii=False),
    )
    (folder / MARK).write_text("written by jobs/report.py\n", encoding="utf-8")


def _pages(splits: Sequence[str]) -> dict[str, str]:
    """Return a file name, without suffix, for the page of each split."""
    return {split: f"{number}-{re.sub('[^A-Za-z0-9]+', '-', split)}" for number, split in enumerate(splits, 1)}


def _interval(found: statistics.Interval) -> str:
    """Return a metric with its interval as text."""
    if found.low is None or found.high is None:
        return f"{found.value:.1f}"
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def _scores(run: _Run) -> dict[str, dict[str, statistics.Interval]]:
    """Return metric to split to interval."""
    found: dict[str, dict[str, statistics.Interval]] = {}
    for split, predictions in run.splits.items():
        videos = [row.video_id for row in predictions.rows]
        measures = statistics.measures_of(predictions.rows, predictions.dataset)
        for name, each in statistics.intervals(videos, measures).items():
            found.setdefault(name, {})[split] = each
    return found


def _split(predictions: SplitPredictions, panels: Sequence[ShownPanel]) -> dict[str, Any]:
    """Return what the page of a split shows."""
    rows = predictions.rows
    known = [row for row in rows if row.right is not None]
    videos = [row.video_id for row in rows]
    groups = {
        name: statistics.intervals(videos, statistics.by_group(rows, [getattr(row, name) for row in rows]))
        for name in ("type", "modality", "subset")
    }
    places = [(row.answer_index, row.prediction_index) for row in known]
    by_place = bool(known) and all(right is not None and given is not None for right, given in places)
    pairs = (
        [(f"option {right}", f"option {given}") for right, given in places]
        if by_place
        else [(row.answer or "", row.prediction) for row in known]
    )
    found = statistics.calibration(rows)
    return {
        "questions": len(rows),
        "hidden": len(rows) - len(known),
        "videos": len(set(videos)),
        "scores": statistics.intervals(videos, statistics.measures_of(rows, predictions.dataset)),
        "groups": {name: own for name, own in groups.items() if own},
        "tables": score_tables(predictions),
        "confusion": statistics.confusion(pairs) if pairs else None,
        "by_place": by_place,
        "mistakes": _mistakes(known),
        "calibration": found,
        "reliability": None if found is None else figures.reliability(found),
        "confidences": figures.confidences(rows),
        "overlaps": figures.overlaps(rows),
        "panels": panels,
    }


def _mistakes(known: Sequence[Prediction]) -> dict[str, list[tuple[str, str, int]]]:
    """Return right answer, predicted answer and number of the confusions of each type that occur more than once."""
    found: dict[str, dict[tuple[str, str], int]] = {}
    for row in known:
        if not row.right:
            own = found.setdefault(row.type, {})
            pair = row.answer or "", row.prediction
            own[pair] = own.get(pair, 0) + 1
    listed = {
        kind: sorted(((right, given, n) for (right, given), n in own.items()), key=lambda one: (-one[2], *one[:2]))
        for kind, own in sorted(found.items())
    }
    often = {kind: [one for one in own if one[2] > 1][:_OFTEN] for kind, own in listed.items()}
    return {kind: own for kind, own in often.items() if own}


def _compared(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return what the page of two runs shows of a split."""
    known = [(a, b) for a, b in pairs if a.right is not None and b.right is not None]

    def compared(own: Sequence[Pair]) -> statistics.Paired:
        return statistics.paired(
            [a.video_id for a, _ in own], [bool(a.right) for a, _ in own], [bool(b.right) for _, b in own]
        )

    types = sorted({a.type for a, _ in known})
    return {
        "questions": len(known),
        "all": compared(known),
        "types": {kind: compared([pair for pair in known if pair[0].type == kind]) for kind in types},
    }
