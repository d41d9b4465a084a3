"""Reads the annotation files of every dataset into one table of questions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from parsers.annotations import (
    activitynet_captions,
    activitynet_qa,
    cg_bench,
    charades_sta,
    msvd_qa,
    music_avqa,
    nextgqa,
    nextqa,
    qvhighlights,
    star,
    table,
    tgif_qa,
)
from parsers.annotations.anomalies import AnnotationError, Anomalies, Anomaly
from parsers.annotations.schema import QUESTIONS, Question, as_questions, questions_table
from settings.messages import available, nearest, plural

__all__ = [
    "FORMATS",
    "QUESTIONS",
    "AnnotationError",
    "Anomalies",
    "Anomaly",
    "annotation_file",
    "as_questions",
    "read_annotations",
]


class _Format(Protocol):
    """The two functions that read one format: a module's, or the methods of an object where formats share a module."""

    def official_names(self, split: str) -> list[str]:
        """Return the names of the split's file, the most likely first."""

    def read(self, path: Path, dataset: str, split: str, anomalies: Anomalies) -> list[Question]:
        """Return the questions of a file, and add what is odd or wrong in it to ``anomalies``."""


FORMATS: Mapping[str, _Format] = {
    "nextgqa": nextgqa,
    "star": star,
    "music_avqa": music_avqa,
    "msvd_qa": msvd_qa.MSVD,
    "msrvtt_qa": msvd_qa.MSRVTT,
    "activitynet_qa": activitynet_qa,
    "tgif_action": tgif_qa.ACTION,
    "tgif_transition": tgif_qa.TRANSITION,
    "tgif_frameqa": tgif_qa.FRAMEQA,
    "tgif_count": tgif_qa.COUNT,
    "nextqa": nextqa,
    "intentqa": nextqa,
    "qvhighlights": qvhighlights.QVHIGHLIGHTS,
    "rextime": qvhighlights.REXTIME,
    "charades_sta": charades_sta,
    "activitynet_captions": activitynet_captions.ACTIVITYNET,
    "tacos": activitynet_captions.TACOS,
    "cg_bench": cg_bench,
    "table": table,
}
"""Every format by name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LONGEST_NAME = 64


def read_annotations(
    format: str,
    path: str | Path | Sequence[str | Path],
    split: str,
    anomalies: list[Anomaly] | None = None,
    dataset: str | None = None,
) -> pa.Table:
    """Read the questions of one split.

    Parameters
    ----------
    format
        One of ``FORMATS``.
    path
        The annotation file, or a folder that holds it under its official name (``val.csv``, ``STAR_val.json``,
        ``avqa-val.json``), or several of these that make up the split. For NExT-GQA, ``gsub_<split>.json`` is looked
        for beside the csv.
    split
        Written into the rows. If a ``table`` has a column ``split``, rows of other splits are left out.
    anomalies
        A list, such as ``Anomalies``, to which everything odd (notes: the row stays, flagged) and wrong (errors: only
        that row is refused) is added. Without it, an error refuses the whole file.
    dataset
        The name of the dataset (default: that of the format).

    Returns
    -------
    pyarrow.Table
        Schema ``QUESTIONS``, in the order of the files. If two files give one id, the first counts.

    Raises
    ------
    AnnotationError
        If the format is unknown, a name is not valid, the file is missing or not readable, or a row is wrong and
        ``anomalies`` is not given.
    """
    dataset = format if dataset is None else dataset
    paths = [path] if isinstance(path, str | Path) else path
    files = [annotation_file(format, one, split) for one in paths]
    _check_name("dataset", dataset)
    collected = Anomalies()
    questions: dict[str, Question] = {}
    home: dict[str, Path] = {}
    for file in files:
        for question in FORMATS[format].read(file, dataset, split, collected):
            if (first := home.setdefault(question.question_id, file)) != file or question.question_id in questions:
                message = f"{question.question_id!r}, in row {question.row + 1}, is already given in {first}"
                where = (str(file), 0, question.question_id, "question_id")
                collected.append(Anomaly("error", "duplicate_question_id", *where, message))
            else:
                questions[question.question_id] = question
    if anomalies is not None:
        anomalies.extend(collected)
    elif errors := collected.errors:
        others = f" (and {plural(len(errors) - 1, 'more error')})" if len(errors) > 1 else ""
        raise AnnotationError(f"{errors[0]}{others}")
    return questions_table(questions.values())


def annotation_file(format: str, path: str | Path, split: str) -> Path:
    """Return the file that ``read_annotations`` reads.

    Raises
    ------
    AnnotationError
        If the format is unknown, the split's name cannot be part of a file name, or there is no such file.
    """
    if format not in FORMATS:
        shown = repr(format[:_LONGEST_NAME])
        raise AnnotationError(f"format {shown}: unknown; {available(FORMATS)}{nearest(format, FORMATS)}")
    _check_name("split", split)
    names = FORMATS[format].official_names(split)
    path = Path(path)
    try:
        if path.is_file():
            return path
        if not path.is_dir():
            raise AnnotationError(f"{path}: no such file or folder")
        files = [path / name for name in names if (path / name).is_file()]
    except (OSError, ValueError) as error:  # a name with a NUL, a folder without permission
        raise AnnotationError(f"{str(path)!r}: not readable ({error})") from error
    if not files:
        raise AnnotationError(f"{path}: holds no {' or '.join(names)}; name the file")
    return files[0]


def _check_name(option: str, name: str) -> None:
    """Refuse a name that cannot be part of a file name."""
    if not _NAME.fullmatch(name):
        shown = repr(name[:_LONGEST_NAME])
        raise AnnotationError(
            f"{option} {shown}: must be at most {_LONGEST_NAME} letters, digits, '_', '-' or '.', and begin with a "
            "letter or digit"
        )
