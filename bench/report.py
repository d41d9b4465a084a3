"""Shows what a bench found, in one form for all: tables, targets and notes, on a terminal, as JSON and as Markdown.

A bench parses its arguments with ``bench_parser``, measures, and ends with ``Report(…).finish(arguments)``, which
prints the report, writes it where ``--json`` says and returns the exit code. ``Result.read`` reads such a file, and
``Result.markdown`` renders it; no line of a table is longer than ``WIDTH``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import re
import textwrap
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from bench.circumstances import Circumstances, Start
from bench.tables import WIDTH, Cell, Column, Table, number_text, wrapped

__all__ = ["Cell", "Column", "Report", "Result", "Table", "Target", "bench_parser", "plain", "prose", "replace_text"]

SCHEMA = 1
"""Number of the form of the JSON files."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that should be reached.

    Attributes
    ----------
    what
        What the figure is.
    value
        The figure; None if it could not be measured, which is not a target missed.
    bound
        What it should be at most or at least.
    at_most
        Whether the bound is the largest value; otherwise it is the least.
    unit
        The unit of both, as ``s``; empty for a ratio.
    form
        How both are formatted, as by ``format``; three digits that count if it is empty.
    """

    what: str
    value: float | None
    bound: float
    at_most: bool = True
    unit: str = ""
    form: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is reached; None if it was not measured."""
        if self.value is None or math.isnan(self.value):
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def verdict(self) -> str:
        """``met``, ``MISSED`` or ``not measured``."""
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]

    @property
    def wanted(self) -> str:
        """The bound as text."""
        return f"{'≤' if self.at_most else '≥'} {self._with_unit(self.bound)}"

    @property
    def measured(self) -> str:
        """The figure as text; one that misses the bound is never rounded to it."""
        if self.value is None or self.met is None:
            return ""
        shown = self._with_unit(self.value)
        return shown if self.met or shown != self._with_unit(self.bound) else f"{self.value:.6g} {self.unit}".rstrip()

    def _with_unit(self, number: float) -> str:
        return f"{number_text(number, self.form)} {self.unit}".rstrip()


@dataclass(frozen=True, slots=True)
class Report:
    """What a bench found.

    Attributes
    ----------
    title
        What was measured, as a heading.
    about
        What is compared with what, and how: the prose of the bench's docstring is ``prose(__doc__)``.
    tables, targets
        Shown in their order.
    notes
        Paragraphs below the tables: what a table does not say, why a target is missed, what was tried. Text that stands
        in the source never holds a figure.
    figures
        Everything that was measured, for the JSON file alone.
    uses
        Distributions whose versions matter.
    failures
        What could not be measured though it should have been; the exit code is 1.
    skipped
        Why nothing was measured, if something that is needed is missing; the exit code is 0.
    """

    title: str
    about: str = ""
    tables: Sequence[Table] = ()
    targets: Sequence[Target] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    uses: Sequence[str] = ()
    failures: Sequence[str] = ()
    skipped: str = ""

    def finish(self, arguments: argparse.Namespace) -> int:
        """Print the report, and write it where ``--json`` says.

        Parameters
        ----------
        arguments
            What the parser of ``bench_parser`` parsed.

        Returns
        -------
        int
            1 if something failed or a target is missed; a quick run has no targets.
        """
        result = Result(self, Circumstances.since(arguments.started, self.uses), quick=arguments.quick)
        result.show()
        if arguments.json is not None:
            result.write(arguments.json)
        return result.exit_code


@dataclass(frozen=True, slots=True)
class Result:
    """A report with the circumstances under which its figures were taken.

    Attributes
    ----------
    report
        What was found.
    taken
        Where and when.
    quick
        Whether this was a run on little data, whose figures mean nothing.
    """

    report: Report
    taken: Circumstances
    quick: bool = False

    @property
    def targets(self) -> Sequence[Target]:
        """The targets that the figures are held to: none after a quick run."""
        return () if self.quick else self.report.targets

    @property
    def exit_code(self) -> int:
        """1 if something failed or a target is missed."""
        return int(bool(self.report.failures) or any(target.met is False for target in self.targets))

    @property
    def tables(self) -> Sequence[Table]:
        """The tables, with the one of the targets."""
        rows = [(target.what, target.measured, target.wanted, target.verdict) for target in self.targets]
        return [*self.report.tables, *([Table("targets", ("target", "measured", "wanted", ""), rows)] if rows else [])]

    @property
    def remarks(self) -> list[str]:
        """What is said below the tables."""
        report = self.report
        skipped = [f"Skipped: {report.skipped}."] if report.skipped else []
        quick = ["quick: no targets"] if self.quick else []
        return [*skipped, *quick, *(f"Failed: {failure}" for failure in report.failures), *report.notes]

    def show(self) -> None:
        """Print it, no wider than a narrow terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        console = Console(width=WIDTH, highlight=False, markup=False)
        console.print(self.report.title, style="bold")
        for table in self.tables:
            console.print("\n" + wrapped(table.title) if table.title else "")
            for part in table.parts():
                shown = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
                for heading, right in zip(part.headings, part.right, strict=True):
                    shown.add_column(Text(heading), justify="right" if right else "left")
                for row in part.rows:
                    cells = (cell.replace("\\|", "|") for cell in row)
                    shown.add_row(*(Text(cell, "bold red" if cell == "MISSED" else "") for cell in cells))
                console.print(shown)
            if table.note:
                console.print("\n" + wrapped(table.note))
        console.print()
        for remark in self.remarks:
            if not remark.startswith("!["):  # a picture
                console.print(wrapped(remark) + "\n")
        console.print(wrapped(str(self.taken)), style="dim")

    def markdown(self, told: Container[str] = ()) -> str:
        """Return it as a section of a Markdown page; no line of a table is longer than ``WIDTH``.

        Parameters
        ----------
        told
            Explanations and notes that the page has given already, and that are not repeated.
        """
        about = self.report.about
        blocks = [f"## {self.report.title}", "" if about in told else wrapped(about)]
        blocks += [_command_block(self.taken.command), wrapped(str(self.taken))]
        for table in self.tables:
            blocks.append(wrapped(f"**{table.title}**") if table.title else "")
            blocks += [*(part.markdown() for part in table.parts()), wrapped(table.note)]
        blocks += [wrapped(remark) for remark in self.remarks if remark not in told]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def write(self, path: Path) -> None:
        """Write it as JSON; the same result gives the same bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        report = self.report
        values = {
            "schema": SCHEMA,
            "title": report.title,
            **asdict(self.taken),
            "quick": self.quick,
            "skipped": report.skipped,
            "about": report.about,
            "tables": report.tables,
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "notes": report.notes,
            "failures": report.failures,
            "uses": report.uses,
            "figures": report.figures,
        }
        replace_text(path, json.dumps(plain(values), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read what ``write`` wrote.

        Raises
        ------
        ValueError
            If the file is not of this form.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            schema = values["schema"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a result of a bench") from error
        if schema != SCHEMA:
            raise ValueError(f"{path}: its form has the number {schema}, not {SCHEMA}; run the bench again")
        tables = [
            Table(table["title"], [_column(c) for c in table["columns"]], table["rows"]) for table in values["tables"]
        ]
        targets = [Target(**{name: part for name, part in each.items() if name != "met"}) for each in values["targets"]]
        same = {name: values[name] for name in ("title", "about", "notes", "figures", "uses", "failures", "skipped")}
        taken = {name: values[name] for name in Circumstances.__dataclass_fields__}
        report = Report(tables=tables, targets=targets, **same)
        return cls(report, Circumstances(**{**taken, "load": tuple(taken["load"])}), values["quick"])


class _Quick(argparse.Action):
    """Gives options the values of a quick run."""

    def __init__(self, option_strings: Sequence[str], dest: str, values: Mapping[str, Any], help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)
        self.values = values

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        for name, value in {**self.values, self.dest: True}.items():
            setattr(namespace, name, value)


def bench_parser(doc: str | None, **quick: Any) -> argparse.ArgumentParser:
    """Return a parser with what every bench takes: ``--json PATH`` and ``--quick``; it also notes when it began.

    Parameters
    ----------
    doc
        The bench's docstring.
    **quick
        What ``--quick`` sets: values by the names of options that the bench adds, as ``runs=1``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write what was found here")
    values = "".join(f", {name.replace('_', ' ')} {value}" for name, value in quick.items())
    told = f"measure little, in seconds, to see that it runs{values}; there are no targets"
    parser.add_argument("--quick", action=_Quick, values=quick, help=told.replace("%", "%%"))
    parser.set_defaults(started=Start())
    return parser


def prose(doc: str | None) -> str:
    """Return the paragraphs of a docstring that have no indented line: neither commands nor lists of options."""
    paragraphs = inspect.cleandoc(doc or "").split("\n\n")
    return "\n\n".join(text for text in paragraphs if not re.search(r"^ ", text, re.M))


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: objects as dicts, numbers that are not finite as null."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(part) for part in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole: whoever reads it, or is killed meanwhile, has the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _column(value: str | dict[str, str]) -> Column | str:
    return value if isinstance(value, str) else Column(**value)


def _command_block(command: str) -> str:
    if not command:
        return ""
    lines = textwrap.wrap(command, WIDTH - 6, break_long_words=False, break_on_hyphens=False, subsequent_indent="  ")
    return " \\\n".join(f"    {line}" for line in lines)
