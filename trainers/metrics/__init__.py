"""Metrics of grounded and of audio-visual question answering, and the files that they are computed from.

``grounding`` and ``avqa`` score predictions; ``grounding_files`` reads the annotations and predictions of the former.
Importing them imports no torch.
"""

from trainers.metrics import avqa, grounding, grounding_files
from trainers.metrics.avqa import AvqaScores
from trainers.metrics.grounding import GroundingScores

__all__ = ["AvqaScores", "GroundingScores", "avqa", "grounding", "grounding_files"]
