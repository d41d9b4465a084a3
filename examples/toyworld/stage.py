"""Draw stage videos: six entrances of five shapes, and grounded multiple-choice questions about them.

| type | question | answer |
|------|----------|--------|
| TC | what does the red bar do | what it does in its only entrance |
| TN | what does the red bar do after the blue disc jumps | what it does in the later of its two entrances |
| TP | what does the red bar do before the blue disc jumps | what it does in the earlier of its two entrances |
| DO | which shape jumps | the only one that does |

The codes are those of NExT-QA: temporal (current, next, previous) and descriptive (other). A video has four TC
questions, two of them with a planted bias. The shapes of those two share their colour with another shape of the video
and their kind with yet another, so neither colour nor kind alone identifies the entrance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from examples.toyworld.world import (
    ACTIONS,
    BACKGROUNDS,
    COLOURS,
    FAVOURED_BY_BACKGROUND,
    FAVOURED_BY_KIND,
    FPS,
    KINDS,
    PLACES,
    SPLITS,
    Act,
    Actor,
    Bias,
    GroundingQuestion,
    Scene,
    Split,
    World,
    pick,
)

_CAST = tuple(product(COLOURS, KINDS))
_ACTIONS = tuple(ACTIONS)
_ENTRANCES = 6


@dataclass(frozen=True, slots=True)
class _Part:
    """The action of one entrance, and the bias by which it was chosen."""

    action: str
    bias: Bias = "none"
    favoured: str | None = None


def video(world: World, split: Split, index: int) -> tuple[Scene, tuple[GroundingQuestion, ...]]:
    """Draw the script of stage video ``index`` of a split, and its six questions."""
    rng = np.random.default_rng([world.seed, SPLITS.index(split), index])
    background = pick(rng, tuple(BACKGROUNDS))
    # Shapes 0, 1 and 2 act with a bias; shape 2 enters twice; shape 3 is the only one with its action.
    cast = draw_cast(rng)
    parts = [_biased_part(world, rng, split, kind, background) for _, kind in cast[:3]]
    encore = _Part(pick(rng, others(parts[2].action)))
    used = {part.action for part in (*parts, encore)}
    unique = _Part(pick(rng, [action for action in _ACTIONS if action not in used]))
    other = _Part(pick(rng, others(unique.action)))

    order, first, second = _draw_order(rng)
    later = bool(rng.integers(2))
    returns = (encore, parts[2]) if later else (parts[2], encore)
    spans = draw_spans(rng, seconds := int(rng.integers(14, 17)), _ENTRANCES)
    performed = [parts[0], parts[1], unique, other]
    acts: list[list[Act]] = [[] for _ in cast]
    for shape, part in zip((0, 1, 3, 4), performed, strict=True):
        acts[shape] = [Act(part.action, *spans[order.index(shape)])]
    acts[2] = [Act(part.action, *spans[slot]) for part, slot in zip(returns, (first, second), strict=True)]
    actors = tuple(
        Actor(
            kind=kind,
            colour=colour,
            x=round(PLACES[pick(rng, tuple(PLACES))] + float(rng.uniform(-0.03, 0.03)), 3),
            radius=round(float(rng.uniform(0.15, 0.18)), 3),
            resident=False,
            acts=tuple(own),
            beeps=tuple((act.start_s, act.end_s) for act in own),
        )
        for (colour, kind), own in zip(cast, acts, strict=True)
    )
    key = f"{split}_{index:05d}"
    scene = Scene(key, seconds, background, int(rng.integers(2**31)), actors)

    questions: list[tuple[str, str, str, list[str], Act, _Part]] = []
    for shape, part in zip((0, 1, 3, 4), performed, strict=True):
        text = f"what does the {actors[shape].name} do"
        questions.append(("TC", text, part.action, list(_ACTIONS), actors[shape].acts[0], part))
    between = actors[order[int(rng.integers(first + 1, second))]]
    landmark = f"the {between.name} {ACTIONS[between.acts[0].action]}"
    text = f"what does the {actors[2].name} do {'after' if later else 'before'} {landmark}"
    act = actors[2].acts[1 if later else 0]
    questions.append(("TN" if later else "TP", text, act.action, list(_ACTIONS), act, parts[2]))
    names = [actor.name for actor in actors]
    text = f"which shape {ACTIONS[unique.action]}"
    questions.append(("DO", text, actors[3].name, names, actors[3].acts[0], unique))
    return scene, tuple(
        _question(rng, key, qid, split, *questions[position])
        for qid, position in enumerate(rng.permutation(len(questions)).tolist())
    )


def _question(
    rng: np.random.Generator,
    key: str,
    qid: int,
    split: Split,
    type_: str,
    text: str,
    answer: str,
    options: list[str],
    act: Act,
    part: _Part,
) -> GroundingQuestion:
    shuffled = tuple(options[position] for position in rng.permutation(len(options)).tolist())
    span = (act.start_s, act.end_s)
    index = shuffled.index(answer)
    return GroundingQuestion(key, qid, split, type_, text, shuffled, index, span, part.bias, part.favoured)


def _biased_part(world: World, rng: np.random.Generator, split: Split, kind: str, background: str) -> _Part:
    """Choose the action of an entrance with a planted bias."""
    bias: Bias = "language" if kind in FAVOURED_BY_KIND else "visual"
    if bias == "language":
        favoured, strength = FAVOURED_BY_KIND[kind], world.language_bias
    else:
        favoured, strength = FAVOURED_BY_BACKGROUND[background], world.visual_bias
    if split == "test_ood":
        strength = world.ood_bias
    return _Part(favoured if rng.random() < strength else pick(rng, others(favoured)), bias, favoured)


def draw_cast(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Draw five shapes (colour, kind); the first two each share colour with one other shape and kind with another."""
    while True:
        cast = [_CAST[number] for number in rng.choice(len(_CAST), 5, replace=False).tolist()]
        if all(
            any(other[0] == colour for other in cast if other != (colour, kind))
            and any(other[1] == kind for other in cast if other != (colour, kind))
            for colour, kind in cast[:2]
        ):
            return cast


def _draw_order(rng: np.random.Generator) -> tuple[list[int], int, int]:
    """Draw which shape enters in each slot; return it with the two slots of shape 2, which are not adjacent."""
    while True:
        order = rng.permutation([0, 1, 2, 2, 3, 4]).tolist()
        first, second = (slot for slot, shape in enumerate(order) if shape == 2)
        if second - first > 1:
            return order, first, second


def draw_spans(rng: np.random.Generator, seconds: int, entrances: int) -> list[tuple[float, float]]:
    """Draw the entrances in seconds: whole frames, with at least one empty frame between two entrances."""
    lengths = rng.integers(14, 23, entrances)
    slack = seconds * FPS - int(lengths.sum()) - (entrances - 1)
    gaps = rng.multinomial(slack, [1 / (entrances + 1)] * (entrances + 1))
    edges = np.cumsum(np.stack([gaps[:entrances] + (np.arange(entrances) > 0), lengths], 1).ravel()) / FPS
    spans = [(float(start), float(end)) for start, end in edges.reshape(entrances, 2)]
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    return spans


def others(action: str) -> list[str]:
    """Return all other actions, in their order."""
    return [other for other in _ACTIONS if other != action]
