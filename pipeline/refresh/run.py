"""Checks all stages, then runs them in order. A stage that fails stops those that need it, and no others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extractors import ExtractorError
from parsers import ParserError
from pipeline.refresh.dataset import Dataset
from pipeline.refresh.stages import Stage, make_stages
from pipeline.shared import ExecutorName, PreflightError, StageRequest, StageResult, Terminal, UsageError
from pipeline.shared.preflight import check_writable
from settings import SettingsError
from settings.messages import one_line
from stores.errors import StoreError

logger = logging.getLogger("reelstore.pipeline.refresh")

_EXPECTED = (UsageError, SettingsError, ExtractorError, ParserError, StoreError, OSError, MemoryError)
"""What bad input, missing weights or a failing disk raise in a stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult(StageResult):
    """How a refresh ended: the result of each stage, by its name, in the order in which they ran."""

    stages: Mapping[str, StageResult] = field(default_factory=dict)

    @property
    def incomplete(self) -> bool:
        return any(stage.incomplete for stage in self.stages.values())

    @property
    def has_work(self) -> bool:
        return any(stage.has_work for stage in self.stages.values())

    @property
    def failed(self) -> dict[str, str]:
        """Why stages could not run, by their names."""
        return {name: stage.reason for name, stage in self.stages.items() if isinstance(stage, FailedResult)}

    def summary(self) -> dict[str, Any]:
        return {name: stage.summary() for name, stage in self.stages.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedResult(StageResult):
    """A stage that could not run, and why."""

    reason: str

    @property
    def incomplete(self) -> bool:
        return True

    @property
    def has_work(self) -> bool:
        return True

    def summary(self) -> dict[str, Any]:
        return {"failed": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingResult(StageResult):
    """A stage that cannot be planned before the stages that it needs have run."""

    reason: str

    @property
    def incomplete(self) -> bool:
        return False

    @property
    def has_work(self) -> bool:
        return True

    def summary(self) -> dict[str, Any]:
        return {"waits": self.reason}


def refresh(
    dataset: Dataset,
    executor: ExecutorName = "auto",
    plan_only: bool = False,
    prune: bool = False,
    replace: bool = False,
    strict: bool = False,
    compact: bool = True,
    allow_code: bool = False,
    terminal: Terminal | None = None,
) -> RefreshResult:
    """Check every stage, then run all of them in order.

    A stage that leaves rows missing stops no other. One that fails stops those that need it; a signal stops them all.

    Parameters
    ----------
    dataset
        The dataset file.
    executor
        Where the work runs.
    plan_only
        Whether to say what every stage would do and what it waits for, and do nothing.
    prune
        Whether to drop what left the dataset file: rows of videos, and questions, graphs and dictionaries of splits.
    replace, strict
        As in ``ParseRequest``, for every split.
    compact
        Whether to merge small shards, where the dataset file does not say never.
    allow_code
        As in ``load_config``, for the settings of the videos.
    terminal
        Where a person reads what happens.

    Raises
    ------
    PreflightError
        If something that a stage needs is missing; each such thing has been listed, and nothing has been started.
    """
    shown = terminal or Terminal()
    common = StageRequest(store=dataset.store, executor=executor, plan_only=plan_only)
    stages = make_stages(dataset, prune, replace, strict, compact, allow_code)
    _check(stages, common, shown)
    done: dict[str, StageResult] = {}
    for stage in stages:
        shown.line(stage.title)
        done[stage.name] = _plan(stage, common, done, shown) if plan_only else _run(stage, common, done, shown)
        if (signal := done[stage.name].stopped_by) is not None:
            return RefreshResult(stages=done, stopped_by=signal)
    return RefreshResult(stages=done)


def _check(stages: list[Stage], common: StageRequest, terminal: Terminal) -> None:
    """List all that is missing.

    Raises
    ------
    PreflightError
        If anything is.
    """
    problems = []
    if not common.plan_only:
        try:
            check_writable(Path(common.store))
        except PreflightError as error:
            problems.append(f"store: {error}")
    for stage in stages:
        try:
            found = list(stage.check(common))
        except _EXPECTED as error:
            found = [one_line(error)]
        problems += [f"{stage.name}: {problem}" for problem in found]
    if len(problems) > 1:
        for problem in problems:
            terminal.labelled("missing", problem)
        raise PreflightError(f"{len(problems)} things are missing or wrong, see above; nothing was started")
    if problems:
        raise PreflightError(f"{problems[0]}; nothing was started")


def _run(stage: Stage, common: StageRequest, done: Mapping[str, StageResult], terminal: Terminal) -> StageResult:
    for name in stage.needs:
        if isinstance(done.get(name), FailedResult):
            reason = f"not run, because it needs {name}"
            terminal.line(reason)
            return FailedResult(reason=reason)
    try:
        return stage.run(common, terminal)
    except _EXPECTED as error:
        logger.debug("%s failed", stage.name, exc_info=True)
        terminal.labelled("failed", f"{stage.name}: {one_line(error)}")
        return FailedResult(reason=one_line(error))


def _plan(stage: Stage, common: StageRequest, done: Mapping[str, StageResult], terminal: Terminal) -> StageResult:
    """Plan a stage as the store is now, and say what it waits for."""
    waits = [name for name in stage.needs if name in done and done[name].has_work]
    because = f"waits for {' and '.join(waits)}"
    try:
        result = stage.run(common, terminal)
    except _EXPECTED as error:
        if not waits:
            terminal.labelled("failed", f"{stage.name}: {one_line(error)}")
            return FailedResult(reason=one_line(error))
        terminal.line(f"{because}, and cannot be planned before")
        return WaitingResult(reason=because)
    if waits:
        terminal.line(f"{because}: its members may be others then")
    return result
