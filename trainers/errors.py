"""Errors of training and evaluation; each message is one line."""

from __future__ import annotations


class TrainingError(Exception):
    """Raised when training, or drawing a trained run, cannot start or continue."""


class EvaluationError(Exception):
    """Raised when predictions or their annotations cannot be scored."""
