"""One parse run: annotations → questions → texts → parses → graphs → commit. Only new texts are parsed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from parsers.annotations import QUESTIONS, AnnotationError, Report, annotation_file, read_annotations
from parsers.known import ConlluParser
from parsers.parse import PARSES, Parse, ParserError, parses_from_table, parses_table
from parsers.stanza_parser import StanzaParser
from pipeline import preflight
from pipeline.errors import PreflightError, UsageError
from pipeline.events import EventLog
from pipeline.parsing_config import ParseConfig
from pipeline.parsing_tables import (
    GRAPHS_EPOCH,
    Difference,
    anomalies_table,
    difference,
    graphs_table,
    shares,
    texts_of,
)
from pipeline.report import Reporter
from pipeline.signals import StopRequestedError, StopSignals
from pipeline.staleness import mark_stale
from stores import Store
from stores.card import write_card
from stores.commit import Changes, commit, create_store, write_table
from stores.errors import StoreNotFoundError
from stores.layout import digest
from stores.manifest import Manifest, TablePart, first_manifest, load

QUESTIONS_SPEC = {"kind": "questions", "epoch": 1}
REPORT_SPEC = {"kind": "annotation_report", "epoch": 1}
_ERRORS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ParseRequest:
    """What the command line asked for."""

    annotations: str
    format: str
    split: str
    store: str
    config: ParseConfig = field(default_factory=ParseConfig)
    dataset: str | None = None
    executor: Literal["auto", "local", "ray"] = "auto"
    plan_only: bool = False
    allow_failures: bool = False


@dataclass(frozen=True, slots=True)
class ParseResult:
    """How a run ended. ``summary`` is JSON-able."""

    exit_code: int
    summary: dict[str, Any]


def run_parse(request: ParseRequest, reporter: Reporter | None = None) -> ParseResult:
    """Make the store mirror the annotation file, parsing only texts that no earlier run has parsed.

    Returns
    -------
    ParseResult
        ``exit_code`` 0; 3 when rows were refused (unless failures are allowed); 143 or 130 after SIGTERM or SIGINT.

    Raises
    ------
    UsageError
        For anything that a user must change first.
    """
    reporter = reporter or Reporter()
    try:
        job = _Run(request, reporter)
        with job.signals:
            return job.execute()
    except StopRequestedError as stop:
        reporter.line(f"stopped by {stop}; what was parsed is committed, run the same command again to go on")
        return ParseResult(stop.exit_code, {"stopped_by": str(stop)})
    except AnnotationError as error:
        raise UsageError(str(error)) from error
    except ParserError as error:
        raise PreflightError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise UsageError(f"{where}{error.strerror or error}; what was committed is safe, run again") from error
    finally:
        reporter.close()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was read, and what of it the store lacks."""

    questions: pa.Table
    anomalies: pa.Table
    report: Report
    difference: Difference
    texts: Sequence[str]
    missing: Sequence[str]
    cached: pa.Table
    is_current: bool

    def summary(self, part: str) -> dict[str, Any]:
        return {
            "part": part,
            "rows": self.questions.num_rows,
            "videos": len(self.questions["video_id"].unique()),
            "questions": self.difference.counts(),
            "notes": dict(sorted(Counter(note.code for note in self.report.notes).items())),
            "errors": [str(error) for error in self.report.errors],
            "unique_texts": len(self.texts),
            "to_parse": len(self.missing),
        }


class _Run:
    def __init__(self, request: ParseRequest, reporter: Reporter) -> None:
        self.request = request
        self.config = request.config
        self.reporter = reporter
        self.started = time.perf_counter()
        preflight.check_locations(request.annotations, request.store, "ANNOTATIONS")
        for option, path in (("--stanza-dir", self.config.stanza.dir), ("--set conllu", self.config.conllu)):
            if path is not None:
                preflight.check_absolute(option, str(path))
        self.root = Path(request.store).absolute()
        self.part = f"{request.dataset or request.format}/{request.split}"
        self.signals = StopSignals()

    def execute(self) -> ParseResult:
        if not self.request.plan_only:
            preflight.check_writable(self.root)
        plan = self._plan()
        summary = plan.summary(self.part)
        self._say_what_was_read(summary)
        if self.request.plan_only:
            self.reporter.line(f"to parse: {len(plan.missing)} of {len(plan.texts)} unique texts")
            return ParseResult(0, summary)
        if plan.is_current:
            version = load(self.root).version
            self.reporter.line(f"nothing to do: {plan.questions.num_rows} questions are stored (version {version})")
            return ParseResult(self._exit_code(plan), {**summary, "parsed": 0, "version": version})
        create_store(self.root)
        self.events = EventLog(self.root)
        self.events.emit("parse_plan", **summary)
        manifest, found = self._publish(plan, self._parse(plan))
        summary |= {
            "parsed": len(plan.missing),
            **found,
            "version": manifest.version,
            "wall_s": round(time.perf_counter() - self.started, 3),
        }
        self.events.emit("parse_summary", **summary)
        mark_stale(self.root)
        write_card(self.root)
        self._say_what_was_done(summary)
        return ParseResult(self._exit_code(plan), summary)

    def _plan(self) -> _Plan:
        request = self.request
        report = Report()
        questions = read_annotations(request.format, request.annotations, request.split, report, request.dataset)
        folder = annotation_file(request.format, request.annotations, request.split).parent
        anomalies = anomalies_table(report, folder)
        stored = self._stored("questions", self.part)
        unchanged = stored is not None and stored.cast(QUESTIONS).equals(questions)
        texts = texts_of(questions) if self.config.graph.enabled else []
        cached = PARSES.empty_table()
        is_current = unchanged and anomalies.equals(self._stored("annotation_report", self.part))
        if self.config.graph.enabled and not (is_current and self._graphs_are_current()):
            is_current = False
            cached = self._cached(texts)
        known = set(cached["text"].to_pylist())
        return _Plan(
            questions=questions,
            anomalies=anomalies,
            report=report,
            difference=difference(questions if unchanged else stored, questions),
            texts=texts,
            missing=[] if is_current else [text for text in texts if text not in known],
            cached=cached,
            is_current=is_current,
        )

    @cached_property
    def _manifest(self) -> Manifest:
        """The version that planning sees."""
        try:
            return load(self.root)
        except StoreNotFoundError:
            return first_manifest()

    def _stored(self, table: str, part: str) -> pa.Table | None:
        if _entry(self._manifest, table, part) is None:
            return None
        return Store(self.root, self._manifest).table(table, part)

    def _graphs_are_current(self) -> bool:
        """Graphs are committed together with their questions, so equal questions and recipe mean equal graphs."""
        entry = _entry(self._manifest, "graphs", self.part)
        return entry is not None and entry.spec == digest(self._graphs_spec)

    def _cached(self, texts: Sequence[str]) -> pa.Table:
        stored = self._stored("parses", self._parses_part)
        if stored is None:
            return PARSES.empty_table()
        return stored.filter(pc.is_in(stored["text"], pa.array(texts, pa.string())))

    @cached_property
    def _parser(self) -> StanzaParser | ConlluParser:
        if self.config.conllu is not None:
            return ConlluParser(self.config.conllu)
        return self._stanza(self.config.stanza.device)

    def _stanza(self, device: str) -> StanzaParser:
        stanza = self.config.stanza
        return StanzaParser(stanza.dir, stanza.lang, device, stanza.batch, stanza.threads)

    @property
    def _parses_part(self) -> str:
        return self._parser.digest[:16]

    @cached_property
    def _parses_spec(self) -> dict[str, Any]:
        return {"kind": "parses", "parser": self._parser.digest, "lang": self.config.stanza.lang}

    @cached_property
    def _graphs_spec(self) -> dict[str, Any]:
        released = self.config.graph.released
        return {"kind": "graphs", "epoch": GRAPHS_EPOCH, "parser": self._parser.digest, "released": released}

    def _parse(self, plan: _Plan) -> Mapping[str, Parse]:
        """All wanted parses by text; each batch of new ones is committed as it comes."""
        made: list[pa.Table] = []
        if plan.missing:
            size = self.config.stanza.batch
            batches = [plan.missing[start : start + size] for start in range(0, len(plan.missing), size)]
            done = 0
            with closing(self._parsed(batches)) as tables:
                for table in tables:
                    with self.signals.critical():
                        self._checkpoint(table)
                    made.append(table)
                    done += table.num_rows
                    self.reporter.stage("parse", done, len(plan.missing))
            self.reporter.close()
        return parses_from_table(pa.concat_tables([plan.cached.cast(PARSES), *made]))

    def _parsed(self, batches: Sequence[Sequence[str]]) -> Generator[pa.Table, None, None]:
        if self._executor() == "ray":
            from pipeline.executors.ray_parsing import run_ray_parsing

            yield from run_ray_parsing(
                self._stanza,
                self.config.stanza.dir,
                batches,
                self.config.run.actors,
                self.signals,
                self.reporter.line,
            )
            return
        for batch in batches:
            yield parses_table(self._parser.parse(batch))

    def _executor(self) -> Literal["local", "ray"]:
        if self.config.conllu is not None:
            return "local"  # looking texts up is no work for a cluster
        if self.request.executor == "auto":
            return "ray" if preflight.in_ray_job() else "local"
        return self.request.executor

    def _checkpoint(self, table: pa.Table) -> None:
        """Add one file of parses to the latest version; whatever happens next, they need not be parsed again."""
        part = write_table(self.root, "parses", self._parses_spec, table, self._parses_part)

        def extended(latest: Manifest) -> TablePart:
            before = _entry(latest, "parses", self._parses_part)
            return part if before is None else TablePart(spec=part.spec, files=(*before.files, *part.files))

        manifest = commit(self.root, Changes(updates={"parses": {self._parses_part: extended}}))
        self.events.emit("commit", version=manifest.version, parses=table.num_rows)

    def _publish(self, plan: _Plan, parses: Mapping[str, Parse]) -> tuple[Manifest, dict[str, Any]]:
        """One commit for questions, graphs and report, so that no version shows graphs of other questions."""
        parts: dict[str, dict[str, TablePart | None]] = {
            "questions": {self.part: write_table(self.root, "questions", QUESTIONS_SPEC, plan.questions, self.part)},
            "annotation_report": {
                self.part: write_table(self.root, "annotation_report", REPORT_SPEC, plan.anomalies, self.part)
            },
        }
        changes = Changes(tables=parts)
        found: dict[str, Any] = {}
        if self.config.graph.enabled:
            graphs = graphs_table(plan.questions, parses, self.config.graph.released)
            parts["graphs"] = {self.part: write_table(self.root, "graphs", self._graphs_spec, graphs, self.part)}
            found = {"with": shares(graphs)}
            changes.updates["parses"] = {self._parses_part: self._merged}
        elif plan.difference and _entry(self._manifest, "graphs", self.part) is not None:
            parts["graphs"] = {self.part: None}
        with self.signals.critical():
            return commit(self.root, changes), found

    def _merged(self, latest: Manifest) -> TablePart | None:
        """All parses of this parser in one file, sorted by text, instead of one file for each batch of any run."""
        before = _entry(latest, "parses", self._parses_part)
        if before is None:  # no text was ever parsed
            return None
        everything = Store(self.root, latest).table("parses", self._parses_part).cast(PARSES)
        texts = everything["text"].to_pylist()
        first = {text: row for row, text in reversed(list(enumerate(texts)))}
        if texts == sorted(first) and len(before.files) == 1:
            return before
        rows = [first[text] for text in sorted(first)]
        return write_table(self.root, "parses", self._parses_spec, everything.take(rows), self._parses_part)

    def _exit_code(self, plan: _Plan) -> int:
        return 3 if plan.report.errors and not self.request.allow_failures else 0

    def _say_what_was_read(self, summary: Mapping[str, Any]) -> None:
        changes = ", ".join(f"{count} {what}" for what, count in summary["questions"].items() if count) or "none"
        notes = ", ".join(f"{count} {code}" for code, count in summary["notes"].items()) or "none"
        self.reporter.line(f"{self.part}: {summary['rows']} questions of {summary['videos']} videos ({changes})")
        self.reporter.line(f"notes: {notes}; errors: {len(summary['errors']) or 'none'}")
        for error in summary["errors"][:_ERRORS_SHOWN]:
            self.reporter.line(f"refused: {error}")
        if len(summary["errors"]) > _ERRORS_SHOWN:
            self.reporter.line(f"… and {len(summary['errors']) - _ERRORS_SHOWN} more, in table annotation_report")

    def _say_what_was_done(self, summary: Mapping[str, Any]) -> None:
        if "with" in summary:
            total = max(1, summary["rows"])
            found = ", ".join(f"{name} {100 * count / total:.1f} %" for name, count in summary["with"].items())
            self.reporter.line(f"questions with a triple that has a {found} (of {summary['rows']})")
        parsed = f"parsed {summary['parsed']} of {summary['unique_texts']} unique texts, "
        self.reporter.line(
            f"{parsed * self.config.graph.enabled}stored {summary['rows']} questions in {summary['wall_s']:.1f} s, "
            f"version {summary['version']}"
        )


def _entry(manifest: Manifest, table: str, part: str) -> TablePart | None:
    entry = manifest.tables.get(table)
    return None if entry is None else entry.parts.get(part)
