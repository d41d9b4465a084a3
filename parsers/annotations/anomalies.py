"""What is odd or wrong in an annotation file: a note keeps the row, an error refuses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from settings.messages import printable

_LONGEST_MESSAGE = 400


class AnnotationError(Exception):
    """Raised when annotations cannot be read at all; one line that names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One oddity or error.

    Attributes
    ----------
    kind
        ``note``: an oddity; the row is kept and has ``code`` among its flags. ``error``: the row is refused.
    code
        A short name to count by, such as ``span_after_duration``.
    file, line
        Where it is. The line is 1-based and that of the row's first character (a row number in Parquet files); 0 if the
        whole file is meant.
    key
        The question id, or the video id if there is none; "" if unknown.
    field
        The column or JSON key; "" if the whole row is meant.
    message
        What is odd, in one line.
    ends_file
        Whether the file could not be read past this point, so that rows may be missing without an error of their own.
    """

    kind: Literal["note", "error"]
    code: str
    file: str
    line: int
    key: str
    field: str
    message: str
    ends_file: bool = False

    def __post_init__(self) -> None:
        for name in ("file", "key", "field", "message"):
            object.__setattr__(self, name, _bounded(getattr(self, name)))

    def __str__(self) -> str:
        where = f"{self.file}: line {self.line}: " if self.line else f"{self.file}: "
        key = f"{self.key!r}: " if self.key else ""
        field = f"field {self.field!r}: " if self.field else ""
        return f"{where}{key}{field}{self.message}"


class Anomalies(list[Anomaly]):
    """Anomalies in the order in which they were met."""

    @property
    def notes(self) -> list[Anomaly]:
        """Those that kept their row."""
        return [anomaly for anomaly in self if anomaly.kind == "note"]

    @property
    def errors(self) -> list[Anomaly]:
        """Those that refused their row."""
        return [anomaly for anomaly in self if anomaly.kind == "error"]


def _bounded(text: str) -> str:
    """Return one valid line of bounded length, whatever bytes a file or its name holds."""
    shown = printable(text[:_LONGEST_MESSAGE])
    return shown if len(text) <= _LONGEST_MESSAGE else f"{shown}…"
