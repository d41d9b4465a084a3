"""The reference of the command line, from the applications of ``jobs/``."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from docs.manual.markdown import code, table

__all__ = ["command_pages", "commands", "jobs"]

_ROOT = Path(__file__).resolve().parents[2]


def jobs() -> list[str]:
    """Return the names of the jobs, sorted."""
    return sorted(path.stem for path in (_ROOT / "jobs").glob("*.py") if not path.stem.startswith("_"))


def commands(job: str) -> Iterator[tuple[str, Any]]:
    """Yield the words of each command of a job and the command, as typer makes it."""
    command: Any = typer.main.get_command(importlib.import_module(f"jobs.{job}").app)
    words = f"python jobs/{job}.py"
    verbs = getattr(command, "commands", None)
    if verbs is None:
        yield words, command
    else:
        yield from ((f"{words} {name}", verb) for name, verb in verbs.items() if not verb.hidden)


def command_pages() -> dict[str, str]:
    """Return the pages of the reference, by their names on the site."""
    rows = [(f"[`jobs/{job}.py`]({job}.md)", _first(job)) for job in jobs()]
    index = (
        "# Commands\n\nThese pages are what `--help` prints, written from the code when the site is built. What the "
        "exit codes mean is said with [the failures](../../failures.md).\n\n" + table(("command", "what it does"), rows)
    )
    return {
        "reference/commands/index.md": index,
        **{f"reference/commands/{job}.md": _page(job) for job in jobs()},
    }


def _first(job: str) -> str:
    """Return the first sentence about a job."""
    said = inspect.getdoc(importlib.import_module(f"jobs.{job}")) or ""
    return _plain(said.partition("\n\n")[0])


def _page(job: str) -> str:
    found = list(commands(job))
    parts = [f"# jobs/{job}.py\n"]
    if len(found) > 1:
        parts.append(f"{_first(job)}\n")
    if job == "store":
        parts.append("Where the reader is installed, `reelstore` is the same command.\n")
    for words, command in found:
        context = command.make_context(words, [], resilient_parsing=True)
        usage = command.get_usage(context).partition(": ")[2]
        parameters = [
            (parameter.param_type_name, *parameter.get_help_record(context))
            for parameter in command.get_params(context)
            if parameter.get_help_record(context) is not None
        ]
        if len(found) > 1:
            parts.append(f"## {words.rpartition(' ')[2]}\n")
        parts.append(f"```text\n{usage}\n```\n\n{_paragraphs(command.help or '')}\n")
        for kind, heading in (("argument", "argument"), ("option", "option")):
            rows = [(code(name), _plain(text)) for is_, name, text in parameters if is_ == kind]
            if rows:
                parts.append(table((heading, "meaning"), rows))
    parts.append("Exit codes: [what they mean](../../failures.md).\n")
    return "\n".join(parts)


def _paragraphs(text: str) -> str:
    """Return a help text as Markdown; paragraphs that are command lines become code."""
    shown = []
    for paragraph in inspect.cleandoc(text.replace("\b", "")).split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        if lines and all(line.lstrip().startswith(("python ", "torchrun ", "reelstore ", "--")) for line in lines):
            shown.append("```text\n" + "\n".join(line.strip() for line in lines) + "\n```")
        elif lines:
            shown.append(_plain("\n".join(lines)))
    return "\n\n".join(shown)


def _plain(text: str) -> str:
    """Return plain text as Markdown."""
    for sign in "\\*_<[]":
        text = text.replace(sign, f"\\{sign}")
    return text
