"""Errors that end a run with exit code 2; the message is one line that says what to change."""

from __future__ import annotations


class UsageError(Exception):
    """Raised when a stage cannot start, or cannot go on, until its user changes something."""


class ConfigError(UsageError):
    """Raised when a preset, a configuration file or ``--set`` is wrong."""


class SourceError(UsageError):
    """Raised when the input of a stage cannot be read, lacks what the stage needs, or has a row that is wrong."""


class PreflightError(UsageError):
    """Raised when the machine, the cluster or the store cannot take the work."""
