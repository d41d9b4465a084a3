"""Word the questions about stage videos in other ways than by one template, and draw stage videos with such questions.

"what does the red bar do" may also be "what trick does the red bar perform"; "which shape jumps" may be "what figure
jumps". All mean the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from examples.toyworld import stage
from examples.toyworld.world import SPLITS, GroundingQuestion, Scene, Split, World

WORDINGS = (("move", "make"), ("trick", "perform"), ("action", "take"), ("stunt", "show"), ("figure", "present"))
"""Noun and verb of each way to ask what a shape does."""
_STREAM = 20  # first random stream, by split; those of other kinds are below
_TEMPLATE, _WHICH = "what does ", "which shape "


def ask(name: str, wording: tuple[str, str]) -> str:
    """Ask what a shape does."""
    noun, verb = wording
    return f"what {noun} does the {name} {verb}"


def free_video(world: World, split: Split, index: int) -> tuple[Scene, tuple[GroundingQuestion, ...]]:
    """Draw a stage video of the kind ``shapes`` whose questions are worded freely, whatever their answers."""
    scene, questions = stage.video(world, split, index)
    rng = np.random.default_rng([world.seed, _STREAM + SPLITS.index(split), index])
    return scene, tuple(replace(question, question=_reworded(rng, question.question)) for question in questions)


def _reworded(rng: np.random.Generator, text: str) -> str:
    """Return a question in one of its wordings, its template included, all equally likely."""
    if text.startswith(_WHICH):
        word, noun = (("which", "shape"), ("what", "shape"), ("which", "figure"), ("what", "figure"))[rng.integers(4)]
        return f"{word} {noun} {text.removeprefix(_WHICH)}"
    choice = int(rng.integers(len(WORDINGS) + 1))
    if choice == len(WORDINGS):
        return text
    subject, _, clause = text.removeprefix(f"{_TEMPLATE}the ").partition(" do")
    return ask(subject, WORDINGS[choice]) + clause
