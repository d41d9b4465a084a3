"""Runs one parse: annotations → questions → texts → parses → graphs → commit. Only new texts are parsed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from parsers import ConlluParser, ParserError, StanzaParser, parses_from_table, parses_table
from parsers.annotations import AnnotationError, Anomalies, as_questions
from parsers.parse import PARSES, refused_from_table
from pipeline.parse.local import choose_processes, parse_in_processes
from pipeline.parse.reading import check_doubts, check_loss, find_doubts, read_split
from pipeline.parse.request import ParseRequest
from pipeline.parse.tables import (
    GRAPHS_EPOCH,
    Difference,
    anomalies_table,
    count_triple_parts,
    difference,
    graphs_table,
    is_worth_another_try,
    refusals_table,
    texts_of,
    with_errors,
    without_refusals,
)
from pipeline.shared import (
    EventLog,
    PreflightError,
    SourceError,
    StageResult,
    StopRequestedError,
    StopSignals,
    Terminal,
    mark_stale,
    preflight,
)
from settings.messages import plural
from stores import Store
from stores.commit import Changes, commit, create_store, write_table
from stores.describe import write_card
from stores.errors import StoreNotFoundError
from stores.format import Manifest, TablePart, digest, first_manifest, load

QUESTIONS_SPEC = {"kind": "questions", "epoch": 1}
REPORT_SPEC = {"kind": "annotation_report", "epoch": 1}
_ERRORS_SHOWN = 20  # about a screen; the table ``annotation_report`` has them all


@dataclass(frozen=True, slots=True)
class ReadSummary:
    """What an annotation file holds, and how much of it is new to the store.

    Attributes
    ----------
    part
        Name of the part in the store, ``<dataset>/<split>``.
    rows, videos
        Number of questions, and of the videos that they refer to.
    questions
        Number of questions that are new, changed, removed and unchanged.
    notes
        Number of oddities by code.
    errors
        One line per row that was refused.
    doubts
        One line for each thing that speaks against the split.
    unique_texts, to_parse
        Number of different texts, and of those without a parse.
    """

    part: str
    rows: int
    videos: int
    questions: dict[str, int]
    notes: dict[str, int]
    errors: list[str]
    doubts: list[str]
    unique_texts: int
    to_parse: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseResult(StageResult):
    """How a parse ended.

    Attributes
    ----------
    read
        What was read; None if a signal came first.
    parsed
        Number of texts that were parsed now; None for a plan only.
    without_graph
        Number of questions whose texts no parser can take; None if no graphs were made now.
    triples
        Number of questions that have a subject, a predicate and an object in some triple, counted by part; None if no
        graphs were made now.
    version
        The version of the store afterwards; None for a plan only.
    wall_s
        Seconds that it took; None if there was nothing to do.
    """

    read: ReadSummary | None = None
    parsed: int | None = None
    without_graph: int | None = None
    triples: dict[str, int] | None = None
    version: int | None = None
    wall_s: float | None = None

    @property
    def incomplete(self) -> bool:
        return self.parsed is not None and self.read is not None and bool(self.read.errors)

    @property
    def has_work(self) -> bool:
        if self.read is None:
            return False
        counts = self.read.questions
        return bool(self.read.to_parse or any(count for what, count in counts.items() if what != "unchanged"))

    def summary(self) -> dict[str, Any]:
        record: dict[str, Any] = asdict(self.read) if self.read else {}
        done = {
            "parsed": self.parsed,
            "without_graph": self.without_graph,
            "with": self.triples,
            "version": self.version,
            "wall_s": self.wall_s,
        }
        stopped = {} if self.stopped_by is None else {"stopped_by": self.stopped_by}
        return {**record, **{name: value for name, value in done.items() if value is not None}, **stopped}


def parse(request: ParseRequest, terminal: Terminal | None = None) -> ParseResult:
    """Make the store mirror the annotation file, parsing only texts that no earlier run has parsed.

    Raises
    ------
    UsageError, StoreError, OSError
        If the user must change something first. Committed rows stay.
    """
    with terminal or Terminal() as shown, StopSignals() as signals:
        try:
            return _Parse(request, shown, signals).execute()
        except StopRequestedError as stop:
            shown.line(f"stopped by {stop}; parsed texts are committed, run the same command again to continue")
            return ParseResult(stopped_by=str(stop))
        except AnnotationError as error:
            raise SourceError(str(error)) from error
        except ParserError as error:
            raise PreflightError(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was read, and how much of it the store lacks.

    Attributes
    ----------
    questions, anomaly_rows
        Rows of the tables ``questions`` and ``annotation_report``.
    anomalies
        What was odd or wrong in the file.
    difference
        What has changed since the stored questions.
    texts, missing
        The different texts, and those without a parse.
    cached
        Stored rows of the table ``parses``.
    is_current
        Whether there is nothing to do.
    doubts
        What speaks against the split.
    """

    questions: pa.Table
    anomaly_rows: pa.Table
    anomalies: Anomalies
    difference: Difference
    texts: Sequence[str]
    missing: Sequence[str]
    cached: pa.Table
    is_current: bool
    doubts: Sequence[str]

    def summary(self, part: str) -> ReadSummary:
        """Return the plan in numbers."""
        return ReadSummary(
            part=part,
            rows=self.questions.num_rows,
            videos=len(self.questions["video_id"].unique()),
            questions=self.difference.counts(),
            notes=dict(sorted(Counter(note.code for note in self.anomalies.notes).items())),
            errors=[str(error) for error in self.anomalies.errors],
            doubts=list(self.doubts),
            unique_texts=len(self.texts),
            to_parse=len(self.missing),
        )


class _Parse:
    """The flow of one parse."""

    def __init__(self, request: ParseRequest, terminal: Terminal, signals: StopSignals) -> None:
        self.request = request
        self.config = request.config
        self.terminal = terminal
        self.signals = signals
        self.started = time.perf_counter()
        for file in request.files:
            preflight.check_locations(file, request.store, "ANNOTATIONS")
        for option, path in (("--stanza-dir", self.config.stanza.dir), ("--set conllu", self.config.conllu)):
            if path is not None:
                preflight.check_absolute(option, str(path))
        self.root = Path(request.store).absolute()
        self.part = f"{request.dataset or request.format}/{request.split}"
        self.executor = "local" if request.plan_only else self._executor()

    def execute(self) -> ParseResult:
        if not self.request.plan_only:
            preflight.check_writable(self.root)
        plan = self._plan()
        read = plan.summary(self.part)
        self._say_what_was_read(read)
        if self.request.plan_only:
            self.terminal.line(f"to parse: {len(plan.missing)} of {len(plan.texts)} unique texts")
            return ParseResult(read=read)
        if plan.is_current:
            version = load(self.root).version
            self.terminal.line(f"nothing to do: {plan.questions.num_rows} questions are stored (version {version})")
            return ParseResult(read=read, parsed=0, version=version)
        if plan.missing and self.config.conllu is not None:
            self._parser.parse(plan.missing)  # a text that the file lacks must not leave an empty store behind
        create_store(self.root)
        events = EventLog(self.root)
        events.emit("parse_plan", **asdict(read))
        triples, without_graph = self._publish(plan, self._parse(plan, events))
        mark_stale(self.root)
        write_card(self.root)
        result = ParseResult(
            read=read,
            parsed=len(plan.missing),
            triples=triples,
            without_graph=without_graph,
            version=load(self.root).version,
            wall_s=round(time.perf_counter() - self.started, 3),
        )
        events.emit("parse_summary", **result.summary())
        self._say_what_was_done(result)
        return result

    def _plan(self) -> _Plan:
        read = read_split(self.request)
        anomalies, questions = read.anomalies, read.questions
        anomaly_rows = anomalies_table(anomalies, read.files[0].parent)
        stored = self._stored_questions(self.part)
        unchanged = stored is not None and stored.equals(questions)
        doubts = find_doubts(self.request, read, self._other_splits())
        check_doubts(self.request, doubts)
        if not unchanged:
            check_loss(self.request, self.part, stored, read)
        texts = texts_of(questions) if self.config.graph.enabled else []
        cached = PARSES.empty_table()
        is_current = unchanged and anomaly_rows.equals(self._stored_anomalies())
        if self.config.graph.enabled and not (is_current and self._graphs_are_current()):
            is_current = False
            cached = self._cached(texts)
        known = {
            text
            for text, error in zip(cached["text"].to_pylist(), cached["error"].to_pylist(), strict=True)
            if not is_worth_another_try(error)
        }
        return _Plan(
            questions=questions,
            anomaly_rows=anomaly_rows,
            anomalies=anomalies,
            difference=difference(questions if unchanged else stored, questions),
            texts=texts,
            missing=[] if is_current else [text for text in texts if text not in known],
            cached=cached,
            is_current=is_current,
            doubts=doubts,
        )

    def _stored_anomalies(self) -> pa.Table | None:
        """Return what the annotations gave to the stored report, without what parsing added to it."""
        stored = self._stored("annotation_report", self.part)
        return None if stored is None else without_refusals(stored)

    def _other_splits(self) -> pa.Table | None:
        """Return the stored questions of the dataset's other splits."""
        entry = self._manifest.tables.get("questions")
        dataset = self.part.partition("/")[0]
        parts = [part for part in entry.parts if part != self.part and part.startswith(f"{dataset}/")] if entry else []
        tables = [table for part in parts if (table := self._stored_questions(part)) is not None]
        return pa.concat_tables(tables) if tables else None

    @cached_property
    def _manifest(self) -> Manifest:
        """The version of the store that planning sees."""
        try:
            return load(self.root)
        except StoreNotFoundError:
            return first_manifest()

    def _stored(self, table: str, part: str) -> pa.Table | None:
        if _entry(self._manifest, table, part) is None:
            return None
        return Store(self.root, self._manifest).table(table, part)

    def _stored_questions(self, part: str) -> pa.Table | None:
        """Return a stored part of the questions with today's columns."""
        stored = self._stored("questions", part)
        return None if stored is None else as_questions(stored)

    def _graphs_are_current(self) -> bool:
        """Return whether the stored graphs have this spec; they are committed together with their questions."""
        entry = _entry(self._manifest, "graphs", self.part)
        return entry is not None and entry.spec_digest == digest(self._graphs_spec)

    def _cached(self, texts: Sequence[str]) -> pa.Table:
        stored = self._stored("parses", self._parses_part)
        if stored is None:
            return PARSES.empty_table()
        return with_errors(stored.filter(pc.is_in(stored["text"], pa.array(texts, pa.string()))))

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

    def _parse(self, plan: _Plan, events: EventLog) -> pa.Table:
        """Return all wanted rows of the table ``parses``; commit each batch of new ones as it comes."""
        fresh: list[pa.Table] = []
        if plan.missing:
            size = self.config.stanza.batch
            batches = [plan.missing[start : start + size] for start in range(0, len(plan.missing), size)]
            done = 0
            with closing(self._parse_batches(batches)) as tables:
                for table in tables:
                    with self.signals.critical():
                        self._checkpoint(table, events)
                    fresh.append(table)
                    done += table.num_rows
                    self.terminal.stage("parse", done, len(plan.missing))
            self.terminal.close()
        # Fresh parses, too, are read back from their tables. The tables are the checkpoint: this run makes its graphs
        # from exactly what a later run finds in the store.
        again = pa.array(plan.missing, pa.string())  # texts on which the parser failed in an earlier run, too
        kept = plan.cached.filter(pc.invert(pc.is_in(plan.cached["text"], again)))
        return pa.concat_tables([kept.cast(PARSES), *fresh])

    def _parse_batches(self, batches: Sequence[Sequence[str]]) -> Generator[pa.Table, None, None]:
        if self.executor == "ray":
            from pipeline.parse.on_ray import parse_on_ray  # here, because Ray takes seconds to import

            yield from parse_on_ray(
                self._stanza,
                self.config.stanza.dir,
                batches,
                self.config.run.actors,
                self.signals,
                self.terminal.line,
            )
            return
        if isinstance(self._parser, ConlluParser):  # looking texts up is not worth a process
            for batch in batches:
                yield parses_table(self._parser.parse(batch))
            return
        stanza, texts = self.config.stanza, sum(map(len, batches))
        processes = choose_processes(texts, self.config.run.actors, stanza.device, stanza.threads)
        if processes > 1:
            self.terminal.line(f"parsing in {processes} processes")
        yield from parse_in_processes(self._parser, batches, processes)

    def _executor(self) -> Literal["local", "ray"]:
        if self.config.conllu is not None:
            return "local"  # looking texts up is not worth a cluster
        return preflight.chosen_executor(self.request.executor)

    def _checkpoint(self, table: pa.Table, events: EventLog) -> None:
        """Add one file of parses to the latest version; whatever happens next, its texts need not be parsed again."""
        part = write_table(self.root, "parses", self._parses_spec, table, self._parses_part)

        def extend(latest: Manifest) -> TablePart:
            before = _entry(latest, "parses", self._parses_part)
            if before is None:
                return part
            return TablePart(spec_digest=part.spec_digest, files=(*before.files, *part.files))

        manifest = commit(self.root, Changes(updates={"parses": {self._parses_part: extend}}))
        events.emit("commit", version=manifest.version, parses=table.num_rows)

    def _publish(self, plan: _Plan, parses: pa.Table) -> tuple[dict[str, int] | None, int | None]:
        """Commit questions, graphs and anomalies together, so that no version shows graphs of other questions."""
        graphs: pa.Table | None = None
        report = plan.anomaly_rows
        if self.config.graph.enabled:
            refused = refused_from_table(parses)
            graphs = graphs_table(plan.questions, parses_from_table(parses), self.config.graph.released, refused)
            report = pa.concat_tables([report, refusals_table(plan.questions, refused, self.request.files)])
        parts: dict[str, dict[str, TablePart | None]] = {
            "questions": {self.part: write_table(self.root, "questions", QUESTIONS_SPEC, plan.questions, self.part)},
            "annotation_report": {
                self.part: write_table(self.root, "annotation_report", REPORT_SPEC, report, self.part)
            },
        }
        changes = Changes(tables=parts)
        triples: dict[str, int] | None = None
        if graphs is not None:
            parts["graphs"] = {self.part: write_table(self.root, "graphs", self._graphs_spec, graphs, self.part)}
            triples = count_triple_parts(graphs)
            changes.updates["parses"] = {self._parses_part: self._merge_parses}
        elif plan.difference and _entry(self._manifest, "graphs", self.part) is not None:
            parts["graphs"] = {self.part: None}
        with self.signals.critical():
            commit(self.root, changes)
        return triples, None if graphs is None else graphs["nodes"].null_count

    def _merge_parses(self, latest: Manifest) -> TablePart | None:
        """Merge all parses of this parser into one file, sorted by text, instead of one file per batch of any run."""
        before = _entry(latest, "parses", self._parses_part)
        if before is None:  # no text has ever been parsed
            return None
        everything = with_errors(Store(self.root, latest).table("parses", self._parses_part)).cast(PARSES)
        texts, errors = everything["text"].to_pylist(), everything["error"].to_pylist()
        first: dict[str, int] = {}
        for row, text in enumerate(texts):  # a parse counts before a failure of the parser
            before_it = first.get(text)
            if before_it is None or (is_worth_another_try(errors[before_it]) and not is_worth_another_try(errors[row])):
                first[text] = row
        if texts == sorted(first) and len(before.files) == 1:
            return before
        rows = [first[text] for text in sorted(first)]
        return write_table(self.root, "parses", self._parses_spec, everything.take(rows), self._parses_part)

    def _say_what_was_read(self, read: ReadSummary) -> None:
        changes = ", ".join(f"{count} {what}" for what, count in read.questions.items() if count) or "none"
        notes = ", ".join(f"{count} {code}" for code, count in read.notes.items()) or "none"
        self.terminal.line(f"{self.part}: {read.rows} questions of {read.videos} videos ({changes})")
        self.terminal.line(f"notes: {notes}; errors: {len(read.errors) or 'none'}")
        for doubt in read.doubts:
            self.terminal.warn(f"--split {self.request.split}: {doubt}")
        for error in read.errors[:_ERRORS_SHOWN]:
            self.terminal.line(f"refused: {error}")
        if len(read.errors) > _ERRORS_SHOWN:
            self.terminal.line(f"… and {len(read.errors) - _ERRORS_SHOWN} more; see the table annotation_report")

    def _say_what_was_done(self, result: ParseResult) -> None:
        read = result.read
        if read is None or result.wall_s is None:
            return
        if result.triples is not None:
            shown = ", ".join(
                f"{name}: {100 * count / max(1, read.rows):.1f} %" for name, count in result.triples.items()
            )
            self.terminal.line(
                f"questions with at least one triple that has a {shown} (of {read.rows} questions; "
                "this counts what is there, not whether it is right)"
            )
        if result.without_graph:
            self.terminal.warn(
                f"{plural(result.without_graph, 'question')} without a graph, because a text cannot be parsed; see the "
                "table annotation_report"
            )
        parsed = f"parsed {result.parsed} of {read.unique_texts} unique texts, " if self.config.graph.enabled else ""
        self.terminal.line(f"{parsed}stored {read.rows} questions in {result.wall_s:.1f} s, version {result.version}")


def _entry(manifest: Manifest, table: str, part: str) -> TablePart | None:
    entry = manifest.tables.get(table)
    return None if entry is None else entry.parts.get(part)
