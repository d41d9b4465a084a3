"""What a parse is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.parse.config import ParseConfig
from pipeline.shared import StageRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseRequest(StageRequest):
    """What a parse needs to know.

    Attributes
    ----------
    annotations
        An annotation file, or a folder that holds it under its official name; or several that make up the split.
    format
        Format of the file; see ``parsers.annotations.FORMATS``.
    split
        Split of its questions.
    config
        The configuration.
    dataset
        The dataset's name in the store; the format's if not given.
    replace
        Whether more than half of the stored questions of the split may go.
    strict
        Whether what speaks against the split is an error, not a warning.
    drop_columns
        Whether a table may have the columns of another format, which are then dropped.
    """

    annotations: str | Sequence[str]
    format: str
    split: str
    config: ParseConfig = field(default_factory=ParseConfig)
    dataset: str | None = None
    replace: bool = False
    strict: bool = False
    drop_columns: bool = False

    @property
    def files(self) -> list[str]:
        """The annotation files or folders."""
        return [self.annotations] if isinstance(self.annotations, str) else list(self.annotations)
