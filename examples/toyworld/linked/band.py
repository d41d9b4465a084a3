"""Draw band videos in which time alone links tones to shapes, and questions about what stands where.

Three shapes of three colours stand on stage. Two or three of them have a voice: one of four tones, drawn anew for every
video, whatever their colour and place; such a shape jumps exactly while its tone sounds. Shapes also jump in silence,
and a tone that no shape has may sound while none jumps. Only one of all this happens at a time, so which tone belongs
to which shape is what is seen while it is heard. The middle shape stands closer to one of its neighbours.

| type | modality | questions |
|------|----------|-----------|
| Audio Counting | Audio | how many different tones are heard |
| Audio Temporal | Audio | which tone is heard first |
| Visual Counting | Visual | how many shapes jump twice |
| Visual Location | Visual | what colour is the shape left of the red shape · nearest to the red shape |
| Audio-Visual Existential | Audio-Visual | does the red shape make the low tone |
| Audio-Visual Location | Audio-Visual | where is the shape that makes the low tone |
| Audio-Visual Temporal | Audio-Visual | what colour is the shape that makes the low tone · nearest to that shape |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from examples.toyworld.band import COUNTS, Row, asked, shuffled, yes
from examples.toyworld.world import (
    BACKGROUNDS,
    COLOURS,
    FPS,
    KINDS,
    PLACES,
    TONES_HZ,
    Act,
    Actor,
    AvQuestion,
    Interval,
    Scene,
    World,
    pick,
)

TONES = dict(zip(("deep", "low", "high", "shrill"), TONES_HZ.values(), strict=True))
"""Name of a tone to its frequency in hertz."""
_STREAM = 16
_SLOTS, _SLOT_S = 7, 2.0  # one thing happens in each of the slots, the first of which begins at _FIRST_S
_FIRST_S, _LENGTH_S = 0.5, 1.7
_SILENT_JUMP, _UNSEEN_TONE = 0.6, 0.5  # probabilities, the first for each shape
_CLOSER = 0.08  # how far the middle shape stands from the middle, as a fraction of the picture's width


@dataclass(frozen=True, slots=True)
class Voiced(Actor):
    """A shape with a tone that does not follow from its colour; ``tone`` is one of ``TONES``, empty if it has none."""

    tone: str = ""

    @property
    def tone_hz(self) -> float:
        """Frequency of its tone."""
        return TONES[self.tone]


def video(world: World, index: int) -> tuple[Scene, tuple[AvQuestion, ...]]:
    """Draw the script of band video ``index`` and its questions."""
    rng = np.random.default_rng([world.seed, _STREAM, index])
    key = f"band_{index:05d}"
    actors = _draw_actors(rng)
    seconds = int(rng.integers(15, 17))
    scene = Scene(key, seconds, pick(rng, tuple(BACKGROUNDS)), int(rng.integers(2**31)), actors)
    return scene, asked(rng, key, list(_questions(rng, actors)))


def _draw_actors(rng: np.random.Generator) -> tuple[Voiced, ...]:
    """Draw the three shapes on stage, from left to right, and behind them the tone of none of them, if it sounds."""
    colours, tones = shuffled(rng, COLOURS), shuffled(rng, TONES)
    slots = iter(rng.permutation(_SLOTS).tolist())
    voices = set(rng.permutation(len(PLACES))[: rng.integers(2, len(PLACES) + 1)].tolist())
    closer = _CLOSER * (-1 if rng.integers(2) else 1)
    actors = []
    for number, (place, x) in enumerate(PLACES.items()):
        voice = [_span(rng, next(slots))] if number in voices else []
        silent = [_span(rng, next(slots))] if rng.random() < _SILENT_JUMP else []
        actors.append(
            Voiced(
                kind=pick(rng, KINDS),
                colour=colours[number],
                x=round(x + closer * (place == "middle") + float(rng.uniform(-0.02, 0.02)), 3),
                radius=round(float(rng.uniform(0.12, 0.14)), 3),
                resident=True,
                acts=tuple(Act("jump", *span) for span in sorted(voice + silent)),
                beeps=tuple(voice),
                tone=tones[number] if voice else "",
            )
        )
    if rng.random() < _UNSEEN_TONE:
        beeps = (_span(rng, next(slots)),)
        actors.append(Voiced(pick(rng, KINDS), colours[-1], 0.5, 0.15, False, (), beeps, tones[-1]))
    return tuple(actors)


def _span(rng: np.random.Generator, slot: int) -> Interval:
    """Return an interval of whole frames in a slot, the same for what is seen and heard."""
    start = round((_FIRST_S + slot * _SLOT_S) * FPS) + int(rng.integers(3))
    return start / FPS, (start + round(_LENGTH_S * FPS)) / FPS


def _questions(rng: np.random.Generator, actors: tuple[Voiced, ...]) -> Iterator[Row]:
    """Yield type, modality, text and answer of the questions of a video."""
    stage = dict(zip(PLACES, actors, strict=False))
    heard = sorted((actor for actor in actors if actor.beeps), key=lambda actor: actor.beeps)
    voiced = [place for place, actor in stage.items() if actor.beeps]

    yield "Audio Counting", "Audio", "how many different tones are heard", COUNTS[len(heard)]
    word, which = (("first", 0), ("last", -1))[int(rng.integers(2))]
    yield "Audio Temporal", "Audio", f"which tone is heard {word}", heard[which].tone

    twice = sum(len(actor.acts) == 2 for actor in stage.values())
    yield "Visual Counting", "Visual", "how many shapes jump twice", COUNTS[twice]
    side, pairs = _SIDES[int(rng.integers(2))]
    subject = pick(rng, tuple(pairs))
    text = f"what colour is the shape {side} of the {stage[subject].colour} shape"
    yield "Visual Location", "Visual", text, stage[pairs[subject]].colour
    subject = pick(rng, tuple(PLACES))
    text = f"what colour is the shape nearest to the {stage[subject].colour} shape"
    yield "Visual Location", "Visual", text, stage[nearest(stage, subject)].colour

    tone = stage[pick(rng, voiced)].tone
    owner = next(place for place in voiced if stage[place].tone == tone)
    asked_about = owner if rng.integers(2) else pick(rng, [place for place in PLACES if place != owner])
    text = f"does the {stage[asked_about].colour} shape make the {tone} tone"
    yield "Audio-Visual Existential", "Audio-Visual", text, yes(asked_about == owner)
    owner = pick(rng, voiced)
    yield "Audio-Visual Location", "Audio-Visual", f"where is the shape that makes the {stage[owner].tone} tone", owner
    owner = pick(rng, voiced)
    text = f"what colour is the shape that makes the {stage[owner].tone} tone"
    yield "Audio-Visual Temporal", "Audio-Visual", text, stage[owner].colour
    owner = pick(rng, voiced)
    text = f"what colour is the shape nearest to the one that makes the {stage[owner].tone} tone"
    yield "Audio-Visual Temporal", "Audio-Visual", text, stage[nearest(stage, owner)].colour


_SIDES = (
    ("left", {"middle": "left", "right": "middle"}),
    ("right", {"left": "middle", "middle": "right"}),
)
"""A side, and who stands on that side of whom."""


def nearest(stage: dict[str, Voiced], place: str) -> str:
    """Return where the shape stands that is closest to the one at ``place``."""
    return min((other for other in stage if other != place), key=lambda other: abs(stage[other].x - stage[place].x))
