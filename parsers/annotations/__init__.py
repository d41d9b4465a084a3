"""Annotation files of every dataset, read into one table of questions."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from parsers.annotations import music_avqa, nextgqa, star, table
from parsers.annotations.report import AnnotationError, Anomaly, Collector, Report
from parsers.annotations.schema import QUESTIONS, questions_table

__all__ = ["FORMATS", "QUESTIONS", "AnnotationError", "Anomaly", "Report", "annotation_file", "read_annotations"]

_READERS: dict[str, ModuleType] = {"nextgqa": nextgqa, "star": star, "music_avqa": music_avqa, "table": table}
FORMATS = tuple(_READERS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_annotations(
    format: str, path: str | Path, split: str, report: Collector | None = None, dataset: str | None = None
) -> pa.Table:
    """Read the questions of one split.

    Parameters
    ----------
    format:
        ``nextgqa | star | music_avqa | table``.
    path:
        The annotation file, or a folder that holds it under its official name (``val.csv``, ``STAR_val.json``,
        ``avqa-val.json``). Of NExT-GQA, ``gsub_<split>.json`` is found beside the csv.
    split:
        Written into the rows; with a ``table`` that has a column ``split``, rows of others are left out.
    report:
        Collects an :class:`Anomaly` for everything odd (notes: the row stays, flagged) and wrong (errors: the row is
        refused, the others stay). Without one, a file with an error is refused.
    dataset:
        The name of the dataset; the format's if not given.

    Returns
    -------
    pyarrow.Table
        Schema :data:`QUESTIONS`, in the order of the file.

    Raises
    ------
    AnnotationError
        If the format is unknown, the file is missing or not readable, or a row is wrong and ``report`` is not given.
    """
    dataset = format if dataset is None else dataset
    file = annotation_file(format, path, split)
    if not _NAME.fullmatch(dataset):
        raise AnnotationError(f"dataset {dataset[:64]!r}: must be letters, digits, '_', '-' or '.', 64 at most")
    found = Report()
    questions = _READERS[format].read(file, dataset, split, found)
    if report is None and found.errors:
        more = f" (and {len(found.errors) - 1} more errors)" if len(found.errors) > 1 else ""
        raise AnnotationError(f"{found.errors[0]}{more}")
    if report is not None:
        for anomaly in found:
            report.append(anomaly)
    return questions_table(questions)


def annotation_file(format: str, path: str | Path, split: str) -> Path:
    """The file that :func:`read_annotations` reads.

    Raises
    ------
    AnnotationError
        If the format is unknown, the split's name cannot be part of a file name, or there is no such file.
    """
    if format not in _READERS:
        near = difflib.get_close_matches(format, FORMATS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AnnotationError(f"format {format[:64]!r}: unknown; there is {', '.join(FORMATS)}{hint}")
    if not _NAME.fullmatch(split):
        raise AnnotationError(f"split {split[:64]!r}: must be letters, digits, '_', '-' or '.', 64 at most")
    names: list[str] = _READERS[format].official_names(split)
    path = Path(path)
    try:
        if path.is_file():
            return path
        if not path.is_dir():
            raise AnnotationError(f"{path}: no such file or folder")
        found = [path / name for name in names if (path / name).is_file()]
    except (OSError, ValueError) as error:  # a name with a NUL, a folder that is closed to us
        raise AnnotationError(f"{str(path)!r}: not readable ({error})") from error
    if not found:
        raise AnnotationError(f"{path}: holds no {' or '.join(names)}; name the file")
    return found[0]
