"""Errors that end a job with exit code 2: one line that says what to change."""

from __future__ import annotations


class UsageError(Exception):
    """A configuration, source or preflight problem; the message is one line."""


class ConfigError(UsageError):
    """A preset, configuration file or ``--set`` is wrong."""


class SourceError(UsageError):
    """SOURCE cannot be read, or one of its rows is wrong."""


class PreflightError(UsageError):
    """The machine or the store cannot take this run."""
