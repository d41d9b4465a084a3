"""Metrics of grounded, audio-visual and video question answering, and the files that they are computed from.

``grounding``, ``moments``, ``avqa`` and ``videoqa`` score predictions; ``grounding_files`` reads the annotations and
predictions of the first. ``rules`` says what each dataset's own evaluator does, ``tables`` shows scores as texts.
Importing them imports no torch.
"""

from trainers.metrics import avqa, grounding, grounding_files, moments, numbers, videoqa
from trainers.metrics.avqa import AvqaScores
from trainers.metrics.grounding import GroundingScores
from trainers.metrics.moments import MomentScores
from trainers.metrics.numbers import NumberScores
from trainers.metrics.rules import RULES

__all__ = [
    "RULES",
    "AvqaScores",
    "GroundingScores",
    "MomentScores",
    "NumberScores",
    "avqa",
    "grounding",
    "grounding_files",
    "moments",
    "numbers",
    "videoqa",
]
