"""Reads the annotations of one split, and refuses what would lose stored questions or put them under a wrong name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from parsers.annotations import FORMATS, Anomalies, annotation_file, read_annotations
from parsers.annotations.evidence import official_split, split_of_name
from parsers.annotations.table import foreign_columns
from pipeline.parse.request import ParseRequest
from pipeline.shared import SourceError
from settings.messages import plural

_IDENTITY = ("video_id", "question", "options", "answer")
"""What a question is, whatever it is called."""


@dataclass(frozen=True, slots=True)
class ReadSplit:
    """The files of a split, their questions (schema ``QUESTIONS``), and what is odd or wrong in them."""

    files: Sequence[Path]
    questions: pa.Table
    anomalies: Anomalies


def read_split(request: ParseRequest) -> ReadSplit:
    """Read all files of a split.

    Raises
    ------
    AnnotationError
        If a file is not there or not readable.
    SourceError
        If a file cannot be read to its end, none of its rows can be read, or it is of another format: then the store
        must stay as it is.
    """
    files = [annotation_file(request.format, file, request.split) for file in request.files]
    if repeated := [file for number, file in enumerate(files) if file in files[:number]]:
        raise SourceError(f"{repeated[0]}: given twice; name each file of the split once")
    anomalies = Anomalies()
    if request.format == "table" and not request.drop_columns:
        _refuse_foreign(files)
    questions = read_annotations(request.format, files, request.split, anomalies, request.dataset)
    for error in anomalies.errors:
        if error.ends_file:
            raise SourceError(f"{error}; nothing is stored of a file that cannot be read to its end")
    for file in files:
        if not _has_rows(questions, request, file, alone=len(files) == 1):
            raise SourceError(_nothing_in(file, request.split, anomalies))
    return ReadSplit(files, questions, anomalies)


def _has_rows(questions: pa.Table, request: ParseRequest, file: Path, alone: bool) -> bool:
    if not alone:
        questions = read_annotations(request.format, file, request.split, Anomalies(), request.dataset)
    return bool(questions.num_rows)


def _nothing_in(file: Path, split: str, anomalies: Anomalies) -> str:
    """Return why a file gives no question, in one line."""
    own = [error for error in anomalies.errors if error.file == str(file)]
    if not own:
        return f"{file}: holds no question of split {split!r}; nothing is stored of it"
    more = f" (and {plural(len(own) - 1, 'more error')})" if len(own) > 1 else ""
    return f"{own[0]}{more}; no row of the file can be read, so nothing is stored of it"


def _refuse_foreign(files: Sequence[Path]) -> None:
    for file in files:
        if columns := foreign_columns(file):
            raise SourceError(
                f"{file}: looks like the format nextgqa; as a table it would lose the columns {', '.join(columns)}. "
                "Use --format nextgqa, or --drop-columns to read it as a table"
            )


def check_loss(request: ParseRequest, part: str, stored: pa.Table | None, read: ReadSplit) -> None:
    """Refuse to remove more than half of the stored questions of a split.

    A question that has changed under its id, or has another id now, is not lost.

    Raises
    ------
    SourceError
        If it would, and the request does not ask for it.
    """
    if stored is None or request.replace:
        return
    there, ids = set(_identities(read.questions)), set(read.questions["question_id"].to_pylist())
    pairs = zip(_identities(stored), stored["question_id"].to_pylist(), strict=True)
    lost = sum(identity not in there and key not in ids for identity, key in pairs)
    if 2 * lost > stored.num_rows:
        raise SourceError(
            f"{read.files[0]}: would remove {lost} of the {stored.num_rows} stored questions of {part} and leave "
            f"{read.questions.num_rows}; check the file and its --format, or remove them with --replace"
        )


def _identities(questions: pa.Table) -> list[tuple[object, ...]]:
    columns = [questions[name].to_pylist() for name in _IDENTITY]
    rows = zip(*columns, strict=True)
    return [(video, question, tuple(options or ()), answer) for video, question, options, answer in rows]


def find_doubts(request: ParseRequest, read: ReadSplit, others: pa.Table | None) -> list[str]:
    """Return what speaks against the split: file names, official ids, and questions of other stored splits.

    ``others`` are the stored questions of the dataset's other splits.
    """
    official = FORMATS[request.format].official_names(request.split)  # TGIF-QA's val is a part of its Train file
    named = [file for file in read.files if file.name not in official]
    doubts = [doubt for file in named if (doubt := split_of_name(file, request.split))]
    ids = read.questions["question_id"].to_pylist()
    if doubt := official_split(request.format, ids, request.split):
        doubts.append(doubt)
    if others is not None:
        splits = dict(zip(_identities(others), others["split"].to_pylist(), strict=True))
        found = [splits[identity] for identity in _identities(read.questions) if identity in splits]
        if 2 * len(found) > len(ids):
            names = " and ".join(sorted(set(found)))
            doubts.append(f"{len(found)} of its {plural(len(ids), 'question')} are stored under {names} already")
    return doubts


def check_doubts(request: ParseRequest, doubts: Sequence[str]) -> None:
    """Refuse a split against which something speaks, if the request is strict.

    Raises
    ------
    SourceError
        With the first doubt.
    """
    if doubts and request.strict:
        raise SourceError(f"--split {request.split}: {doubts[0]}; name the right split, or leave --strict out")
