"""The command line of a store: ``reelstore`` if the reader is installed, ``jobs/store.py`` in a checkout."""

from .app import app
from .bars import Bars, duration
from .base import Command, Group, OneLineErrors, describe_error, emit, group, make_console, say_error, signal_code

__all__ = [
    "Bars",
    "Command",
    "Group",
    "OneLineErrors",
    "app",
    "describe_error",
    "duration",
    "emit",
    "group",
    "make_console",
    "say_error",
    "signal_code",
]
