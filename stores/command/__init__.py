"""The command line of a store: ``reelstore`` if the reader is installed, ``jobs/store.py`` in a checkout."""

from .app import app
from .bars import Bars, clock_time, duration, progress_console
from .base import Command, Group, OneLineErrors, describe_error, emit, group, make_console, say_error, signal_code

__all__ = [
    "Bars",
    "Command",
    "Group",
    "OneLineErrors",
    "app",
    "clock_time",
    "describe_error",
    "duration",
    "emit",
    "group",
    "make_console",
    "progress_console",
    "say_error",
    "signal_code",
]
