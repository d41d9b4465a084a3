"""Panels: one question of a finished run in a picture, with what the model attended to and answered.

``draw`` needs the run's folder and its store; frames and sound come from the video's file if it is given.
"""

from trainers.panels.drawing import Finder, draw, open_run
from trainers.panels.finished import FinishedRun

__all__ = ["Finder", "FinishedRun", "draw", "open_run"]
