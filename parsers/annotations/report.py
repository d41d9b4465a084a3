"""What was odd or wrong in an annotation file: notes keep the row, errors refuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

_LONGEST_MESSAGE = 400


class AnnotationError(Exception):
    """Annotations cannot be read at all; one line that names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One finding.

    Attributes
    ----------
    kind:
        ``note``: an oddity, the row is kept and carries ``code`` in its flags. ``error``: the row is refused.
    code:
        A short name that can be counted, as ``span_after_duration``.
    file, line:
        Where it is; the line is 1-based, that of the row's first character (a row number in Parquet files), 0 when
        the whole file is meant.
    key:
        The question id, or the video id where there is none; "" when unknown.
    field:
        The column or JSON key; "" when the whole row is meant.
    message:
        What is odd, in one line.
    """

    kind: Literal["note", "error"]
    code: str
    file: str
    line: int
    key: str
    field: str
    message: str

    def __post_init__(self) -> None:
        for name in ("file", "key", "field", "message"):
            object.__setattr__(self, name, _printable(getattr(self, name)))

    def __str__(self) -> str:
        where = f"{self.file}: line {self.line}: " if self.line else f"{self.file}: "
        what = f"{self.key!r}: " if self.key else ""
        field = f"field {self.field!r}: " if self.field else ""
        return f"{where}{what}{field}{self.message}"


class Collector(Protocol):
    """Where anomalies go: a list will do."""

    def append(self, anomaly: Anomaly, /) -> None: ...


class Report(list[Anomaly]):
    """Anomalies in the order in which they were found."""

    @property
    def notes(self) -> list[Anomaly]:
        return [anomaly for anomaly in self if anomaly.kind == "note"]

    @property
    def errors(self) -> list[Anomaly]:
        return [anomaly for anomaly in self if anomaly.kind == "error"]


def _printable(text: str) -> str:
    """One valid line of bounded length, whatever bytes a file or its name holds."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown[:_LONGEST_MESSAGE])
    return shown if len(text) <= _LONGEST_MESSAGE else f"{shown}…"
