"""Behaviour of every command on a terminal: ``-h``, one line and exit code 2 for an error, ``--debug`` for a traceback.

The commands of this package and those of the checkout's ``jobs/`` are built on this.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from ..errors import StoreError
from ..format.manifest import signed
from ..wording import one_line

DEBUG_VARIABLE = "REELSTORE_DEBUG"
SETTINGS = {"help_option_names": ["-h", "--help"]}
# typer exports only some of its errors: their base is click's, or that of typer's own copy of click.
_USAGE_ERROR: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError" and issubclass(base, Exception)
)

_EXTRA_ARGUMENTS = re.compile(r"Got unexpected extra argument(?:s|\(s\))? \((.*)", re.S)

logger = logging.getLogger("reelstore")

Directory = Annotated[Path, typer.Argument(help="The store directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


class OneLineErrors:
    """Mix-in for commands and groups of commands: an expected error becomes one line on stderr and exit code 2.

    ``--debug`` anywhere before ``--``, or ``REELSTORE_DEBUG=1``, also prints the traceback and shows messages logged at
    level DEBUG. An error that is not expected is a fault of this program and always shows its traceback. If the
    reader of stdout goes away, as in ``| head``, the command ends in silence with the exit code of SIGPIPE.

    Attributes
    ----------
    expected
        The errors that bad input, a failing disk or a missing package can raise.
    """

    expected: ClassVar[tuple[type[Exception], ...]] = (StoreError, OSError, MemoryError)

    def main(self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **named: Any) -> Any:
        """Run the command and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        if standalone_mode and words == ["--version"]:  # with more words it may be an option, as of a store's version
            print(f"reelstore {_version()}")
            sys.exit(0)
        debug = _take_debug(words) or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
        run: Callable[..., Any] = super().main  # type: ignore[misc]  # of the class that this is mixed into
        if not standalone_mode:
            return run(words, *more, standalone_mode=False, **named)
        with signed(shlex.join([Path(sys.argv[0]).name, *words])), _logging(debug), _one_line_warnings():
            sys.exit(self._exit_code(lambda: run(words, *more, standalone_mode=False, **named), debug))

    def _exit_code(self, run: Callable[[], Any], debug: bool) -> int:
        try:
            code = run()
            sys.stdout.flush()  # here an error can still be told
        except _USAGE_ERROR as error:
            say_error(usage_line(error))
            return 2
        except typer.Abort:
            say_error("aborted")
            return 1
        except SystemExit as error:  # typer and rich turn a closed stdout into exit code 1
            if not _is_closed_pipe(error.__context__):
                raise
            _lead_stdout_nowhere()
            return signal_code("SIGPIPE")
        except self.expected as error:
            if _is_closed_pipe(error):
                _lead_stdout_nowhere()
                return signal_code("SIGPIPE")
            if debug:
                traceback.print_exception(error)
            say_error(self.describe(error))
            try:
                sys.stdout.flush()
            except OSError:
                _lead_stdout_nowhere()
            return 2
        return code if isinstance(code, int) else 0

    def describe(self, error: Exception) -> str:
        """Return an error as one line."""
        return describe_error(error)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Explain ``--debug`` and ``--version`` below the options."""
        formatter.write_paragraph()
        formatter.write_text(
            f"With --debug (or {DEBUG_VARIABLE}=1) an error shows its traceback. --version alone prints the version of "
            "reelstore."
        )


class Command(OneLineErrors, TyperCommand):
    """A single command; its arguments are named in capitals."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for parameter in self.params:
            if parameter.param_type_name == "argument" and parameter.metavar is None and parameter.name is not None:
                parameter.metavar = parameter.name.upper()


class Group(OneLineErrors, TyperGroup):
    """Several commands under one name; without any argument, their help on stderr and exit code 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(2)
        return super().parse_args(ctx, args)


def _version() -> str:
    """Return the version of the installed reader; a checkout that is not installed has none."""
    try:
        return importlib.metadata.version("reelstore")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def signal_code(name: str) -> int:
    """Return the exit code by which a shell knows a process that a signal (``SIGTERM``) ended: 128 + its number."""
    return 128 + signal.Signals[name]


def _is_closed_pipe(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _lead_stdout_nowhere() -> None:
    """Keep what is left in the buffer of stdout from causing a second error when the interpreter ends."""
    with suppress(OSError, ValueError):  # a replaced stdout may have no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _take_debug(words: list[str]) -> bool:
    """Remove ``--debug`` from the words before ``--``, and return whether it was there."""
    end = words.index("--") if "--" in words else len(words)
    if "--debug" not in words[:end]:
        return False
    words[:end] = [word for word in words[:end] if word != "--debug"]
    return True


def usage_line(error: Exception) -> str:
    """Return what is wrong with an option or argument, and how to get help, as one line.

    A video key may begin with a hyphen, as YouTube's ids do, and is then taken for an option.
    """
    context = getattr(error, "ctx", None)
    message = one_line(getattr(error, "format_message", lambda: str(error))()).replace(": Value error, ", ": ", 1)
    if type(error).__name__ == "NoSuchOption" and not str(getattr(error, "option_name", "--")).startswith("--"):
        message = f"{message.rstrip('.')}; put -- before a key that begins with a hyphen"
    if extra := _EXTRA_ARGUMENTS.match(message):
        shown = one_line(extra[1].rstrip(")"), 80)
        message = f"unexpected: {shown}; quote a pattern ('videos/*.mp4'), or the shell replaces it by file names"
    return message if context is None else f"{message.rstrip('.')}; see {context.command_path} --help"


def describe_error(error: Exception) -> str:
    """Return an error as one line: its message, or the file and the system's reason for an ``OSError``."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        return one_line(f"{where}{error.strerror}")
    if isinstance(error, MemoryError):
        return "out of memory"
    return one_line(error)


def say_error(line: str) -> None:
    """Print a line on stderr, after ``error:``."""
    print(f"error: {line}", file=sys.stderr)


@contextmanager
def _logging(debug: bool) -> Iterator[None]:
    """Show all log messages on stderr if ``debug`` is set."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("reelstore")
    level = root.level
    if debug:
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print each warning as one line, without the line of code that caused it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **more: print(f"warning: {message}", file=sys.stderr)
        yield


def group(help: str | None, cls: type[Group] = Group, completion: bool = False) -> typer.Typer:
    """Return an application of several commands; with ``completion``, shells can be taught to complete its words."""
    return typer.Typer(
        cls=cls,
        add_completion=completion,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=SETTINGS,
        help=help,
    )


def make_console() -> Console:
    """Return a console for stdout that prints text as it is: no highlighting, no emoji."""
    return Console(highlight=False, soft_wrap=True, emoji=False)


def emit(value: object) -> None:
    """Print one JSON object on stdout."""
    text = json.dumps(value, ensure_ascii=False)
    print(text if text.isascii() or _is_encodable(text) else json.dumps(value))


def _is_encodable(text: str) -> bool:
    """Return whether stdout can encode the text; file names may contain unpaired surrogates."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
