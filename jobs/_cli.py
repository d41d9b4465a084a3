"""What the jobs share: options, one line and exit code 2 for an expected error, and what a result means to a shell.

Exit codes: 0 all that was wanted is stored; 3 something that was wanted is missing (``--allow-failures`` makes it 0);
2 the user must change something first; 128 + N after signal N.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
import yaml
from pydantic import BaseModel

from extractors import ExtractorError
from parsers import DictionaryError, ParserError
from parsers.annotations import AnnotationError
from pipeline.shared import ExecutorName, StageResult, Terminal, UsageError
from settings import SettingsError
from stores.command import Command as ReaderCommand
from stores.command import Group as ReaderGroup
from stores.command import OneLineErrors, emit, group, make_console, signal_code
from trainers.errors import EvaluationError, TrainingError

__all__ = [
    "AllowCode",
    "AllowFailures",
    "AsJson",
    "Command",
    "ConfigFile",
    "DecodeWorkers",
    "Executor",
    "Gpus",
    "Limit",
    "Memory",
    "Only",
    "Overrides",
    "PlanOnly",
    "RetryFailed",
    "ShowConfig",
    "ShowSchema",
    "StageCommand",
    "StoreFolder",
    "emit",
    "exit_code",
    "finish",
    "group",
    "job",
    "show_settings",
    "signal_code",
    "terminal_of",
]

Executor = Annotated[
    ExecutorName, typer.Option("--executor", help="auto: Ray in a submitted Ray job, else this machine.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one setting; repeatable.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file with settings.")]
StoreFolder = Annotated[
    str, typer.Option("--store", help="The store directory; it is made if it does not exist.", show_default=False)
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Print what would be done and why; do nothing.")]
AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Import what settings name as package.module:Class, if no package installs it."),
]
AllowFailures = Annotated[
    bool, typer.Option("--allow-failures", help="Exit 0 even if something that was wanted is missing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on stdout.")]

Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Compute at most N videos.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="KEY", help="Only this video key; repeatable.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try failed rows again, permanent failures too.")]
DecodeWorkers = Annotated[
    int | None, typer.Option("--decode-workers", min=1, help="Decode workers (default: from the CPUs).")
]
Gpus = Annotated[int | None, typer.Option("--gpus", min=0, help="GPUs to use (default: all that are visible).")]
Memory = Annotated[float | None, typer.Option("--memory", min=0.5, help="Memory to plan for, in GiB.")]
ShowConfig = Annotated[
    bool, typer.Option("--show-config", help="Print the settings that these options make, as YAML; do nothing.")
]
ShowSchema = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the settings; do nothing.")]

_SHOWING = frozenset({"--show-config", "--schema"})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG})


class _Expected(OneLineErrors):
    """Expected errors of every package are one line and exit code 2."""

    expected: ClassVar[tuple[type[Exception], ...]] = (
        *OneLineErrors.expected,
        AnnotationError,
        DictionaryError,
        EvaluationError,
        ExtractorError,
        ParserError,
        SettingsError,
        TrainingError,
        UsageError,
    )


class Command(_Expected, ReaderCommand):
    """A job. With ``--show-config`` or ``--schema``, nothing else is required of its command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = args[: args.index("--")] if "--" in args else args
        if not _SHOWING.isdisjoint(words):
            for parameter in self.params:
                parameter.required = False
        return super().parse_args(ctx, args)


class _Group(_Expected, ReaderGroup):
    """Several jobs under one name."""


class StageCommand(Command):
    """A job that fills a store: if the disk fails after the start, it says that the same command continues."""

    _started = False

    def invoke(self, ctx: Any) -> Any:
        self._started = True  # the words are understood, and no help was asked for
        return super().invoke(ctx)

    def describe(self, error: Exception) -> str:
        line = super().describe(error)
        if self._started and isinstance(error, OSError) and error.errno in _DISK:
            return f"{line}. Committed rows are safe; run the same command to continue"
        return line


def show_settings(show_config: bool, show_schema: bool, model: type[BaseModel], load: Callable[[], BaseModel]) -> None:
    """Print what is asked for about the settings of a job on stdout, and end the job; return if nothing is asked for.

    Parameters
    ----------
    show_config, show_schema
        The options of the same names. The schema stands first if both are given.
    model
        What the settings are validated by.
    load
        Reads the settings that the command line makes.
    """
    if show_schema:
        print(json.dumps(model.model_json_schema(), indent=2))
    if show_config:
        print(yaml.safe_dump(load().model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    if show_schema or show_config:
        raise typer.Exit(0)


def job(help: str | None) -> typer.Typer:
    """Make an application of one command, or of several."""
    return group(help, _Group)


def exit_code(result: StageResult, allow_failures: bool = False) -> int:
    """Return the exit code of a job whose stage ended so."""
    if result.stopped_by is not None:
        return signal_code(result.stopped_by)
    return 3 if result.incomplete and not allow_failures else 0


def terminal_of(plan: bool, as_json: bool) -> Terminal:
    """Return where a stage tells what it does: stderr, but a plan is what was asked for, and goes to stdout.

    With ``--json`` stdout has the summary alone.
    """
    return Terminal(lines=make_console() if plan and not as_json else None)


def finish(result: StageResult, allow_failures: bool, as_json: bool) -> None:
    """Print the summary if it is asked for, and end the job with its exit code."""
    code = exit_code(result, allow_failures)
    if as_json:
        emit({"exit_code": code, **result.summary()})
    raise typer.Exit(code)
