"""Draw stage videos in which two confounders go with the answer: the backdrop of the shot and the question's wording.

Five shapes enter one after another, each with a shot of its own: where a shape enters, the picture cuts to another
backdrop. Every entrance is asked about once. The action, which is the answer, is drawn first, all five equally likely;
then the backdrop of its shot and the wording of its question, independently of one another:

- the backdrop that goes with the action has the probability ``visual_bias``, each other one the same share of the rest;
- the wording that goes with the action has the probability ``language_bias``.

A link that a split breaks has ``ood_bias`` in the place of its probability: ``test_wording`` breaks that of the
wording, ``test_backdrop`` that of the backdrop, and ``test_ood`` both. Neither causes the answer: the question asks
what the named shape does, and that is always to be seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from examples.toyworld.stage import draw_cast, draw_spans
from examples.toyworld.wording import WORDINGS, ask
from examples.toyworld.world import (
    ACTIONS,
    BACKGROUNDS,
    PLACES,
    Act,
    Actor,
    GroundingQuestion,
    Scene,
    Split,
    World,
    pick,
)

STREAMS: dict[Split, int] = {"train": 8, "val": 9, "test": 10, "test_ood": 11, "test_wording": 12, "test_backdrop": 13}
"""The random stream of each split's videos."""
BREAKS: dict[Split, tuple[str, ...]] = {
    "test_ood": ("wording", "backdrop"),
    "test_wording": ("wording",),
    "test_backdrop": ("backdrop",),
}
"""Which links a split breaks; all others hold."""
_ACTIONS, _BACKDROPS = tuple(ACTIONS), tuple(BACKGROUNDS)
_ENTRANCES = 5


@dataclass(frozen=True, slots=True)
class Shots(Scene):
    """A scene whose background changes from shot to shot.

    Attributes
    ----------
    shots
        Start in seconds and background of each shot, in order of time; the first starts at 0.
    """

    shots: tuple[tuple[float, str], ...] = ()

    def background_at(self, time_s: float) -> str:
        """Return the background of the shot."""
        return self.shots[bisect_right(self.shots, time_s, key=lambda shot: shot[0]) - 1][1]


def video(world: World, split: Split, index: int) -> tuple[Scene, tuple[GroundingQuestion, ...]]:
    """Draw the script of stage video ``index`` of a split, and its five questions."""
    rng = np.random.default_rng([world.seed, STREAMS[split], index])
    broken = BREAKS.get(split, ())
    visual = world.ood_bias if "backdrop" in broken else world.visual_bias
    language = world.ood_bias if "wording" in broken else world.language_bias
    cast = draw_cast(rng)
    spans = draw_spans(rng, seconds := int(rng.integers(14, 17)), _ENTRANCES)
    answers = [int(answer) for answer in rng.integers(len(_ACTIONS), size=_ENTRANCES)]
    backdrops = [_BACKDROPS[linked(rng, answer, visual)] for answer in answers]
    wordings = [WORDINGS[linked(rng, answer, language)] for answer in answers]
    actors = tuple(
        Actor(
            kind=kind,
            colour=colour,
            x=round(PLACES[pick(rng, tuple(PLACES))] + float(rng.uniform(-0.03, 0.03)), 3),
            radius=round(float(rng.uniform(0.15, 0.18)), 3),
            resident=False,
            acts=(Act(_ACTIONS[answer], *span),),
            beeps=(span,),
        )
        for (colour, kind), answer, span in zip(cast, answers, spans, strict=True)
    )
    key = f"{split}_{index:05d}"
    starts = [0.0, *(start for start, _ in spans[1:])]
    shots = tuple(zip(starts, backdrops, strict=True))
    scene = Shots(key, seconds, backdrops[0], int(rng.integers(2**31)), actors, shots)
    questions = [
        _question(rng, key, qid, split, actors[number], ask(actors[number].name, wordings[number]))
        for qid, number in enumerate(rng.permutation(_ENTRANCES).tolist())
    ]
    return scene, tuple(questions)


def linked(rng: np.random.Generator, number: int, probability: float) -> int:
    """Return ``number`` with a probability, else one of the four other numbers below five."""
    if rng.random() < probability:
        return number
    return (number + int(rng.integers(1, len(_ACTIONS)))) % len(_ACTIONS)


def _question(rng: np.random.Generator, key: str, qid: int, split: Split, actor: Actor, text: str) -> GroundingQuestion:
    options: Sequence[str] = [_ACTIONS[position] for position in rng.permutation(len(_ACTIONS)).tolist()]
    [act] = actor.acts
    span = (act.start_s, act.end_s)
    return GroundingQuestion(key, qid, split, "TC", text, tuple(options), options.index(act.action), span, "none", None)
