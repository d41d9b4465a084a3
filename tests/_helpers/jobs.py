"""Runs jobs in the process of the tests, which is the start of a process and the import of torch sooner."""

from __future__ import annotations

from importlib import import_module

from typer.testing import CliRunner, Result


def job(name: str, *arguments: object, check: int = 0) -> Result:
    """Run ``jobs/NAME.py`` as a user's words would, and see that it ends with an exit code."""
    done = CliRunner().invoke(import_module(f"jobs.{name}").app, [str(argument) for argument in arguments])
    assert done.exit_code == check and isinstance(done.exception, SystemExit | None), (done.exception, done.output)
    return done
