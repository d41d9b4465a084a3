"""Training and evaluation: one loop, the methods CRA, CoQo and FrozenBiLM, their metrics and their panels.

Importing this package imports no torch, so that a command line can list the methods and read their settings at once.
What needs torch or reads a store is imported from its own module: ``trainers.run`` trains in this process,
``trainers.launch_ray`` on a Ray cluster, ``trainers.resume`` chooses the version of the store to train on.
"""

from trainers.config import PRESETS, LoopConfig, MethodSettings
from trainers.errors import EvaluationError, TrainingError
from trainers.methods import METHODS, Method, find_method
from trainers.results import TrainRequest, TrainResult

__all__ = [
    "METHODS",
    "PRESETS",
    "EvaluationError",
    "LoopConfig",
    "Method",
    "MethodSettings",
    "TrainRequest",
    "TrainResult",
    "TrainingError",
    "find_method",
]
