"""Draw band videos: three shapes that stand, beep and jump, and open questions about what is seen and heard.

Every video gets questions from the same eleven templates. What a question names is drawn without regard to the answer,
so neither its words nor the other questions of the video give the answer away. Which colour sounds can only be heard,
and where it stands can only be seen: colour links the two. Whether and when a shape jumps is independent of whether
and when it beeps, so the pictures do not reveal what sounds.

| type | modality | questions |
|------|----------|-----------|
| Audio Counting | Audio | how many different tones are heard |
| Audio Comparative | Audio | is the red tone heard longer than the blue tone |
| Visual Counting | Visual | how many shapes jump |
| Visual Location | Visual | what colour is the shape on the left · which colour is missing |
| Audio-Visual Existential | Audio-Visual | does the shape on the left beep · does it jump while it beeps |
| Audio-Visual Counting | Audio-Visual | how many of the shapes on stage beep |
| Audio-Visual Location | Audio-Visual | where is the shape that starts to beep first |
| Audio-Visual Comparative | Audio-Visual | does the shape on the left beep longer than the shape on the right |
| Audio-Visual Temporal | Audio-Visual | what colour is the shape that starts to beep last |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from examples.toyworld.world import (
    BACKGROUNDS,
    COLOURS,
    FPS,
    KINDS,
    PLACES,
    Act,
    Actor,
    AvQuestion,
    Interval,
    Scene,
    Split,
    World,
    pick,
)

COUNTS = ("zero", "one", "two", "three", "four")
_STREAM = 4  # random stream of band videos; those of stage videos are 0 to 3, by split
_SPLIT_OF_TEN: tuple[Split, ...] = ("train",) * 7 + ("val",) + ("test",) * 2
# Starts and lengths in seconds, far enough apart to be distinguished with one frame and one spectrum per second.
_STARTS = (0.5, 2.5, 4.5, 6.5)
_LENGTHS = (2.0, 4.0, 6.0, 8.0)
_JUMP_STARTS = (0.5, 2.5, 4.5, 6.5, 8.5)
_JUMP_LENGTHS = (4.0, 6.0)
_JUMPS = 0.75  # probability that a shape jumps
_UNSEEN = 0.75  # probability that the colour that is not on stage sounds

_WHERE = {"left": "on the left", "middle": "in the middle", "right": "on the right"}

Row = tuple[str, str, str, str]
"""Type, modality, question and answer."""


def video(world: World, index: int) -> tuple[Scene, tuple[AvQuestion, ...]]:
    """Draw the script of band video ``index`` and its questions."""
    rng = np.random.default_rng([world.seed, _STREAM, index])
    scene = _draw_scene(rng, f"band_{index:05d}")
    return scene, asked(rng, scene.key, list(_questions(rng, scene)))


def asked(rng: np.random.Generator, key: str, rows: Sequence[Row]) -> tuple[AvQuestion, ...]:
    """Put the questions of a video in a random order, and each into a random split."""
    questions = []
    for number, position in enumerate(rng.permutation(len(rows)).tolist()):
        type_, modality, text, answer = rows[position]
        split = _SPLIT_OF_TEN[int(rng.integers(10))]
        questions.append(AvQuestion(f"{key}_{number}", key, split, type_, modality, text, answer))
    return tuple(questions)


def _draw_scene(rng: np.random.Generator, key: str) -> Scene:
    """Put three shapes of three colours on stage; one to three of them beep, and the fourth colour may sound unseen."""
    seconds = int(rng.integers(15, 17))
    colours = shuffled(rng, COLOURS)
    beeping = set(rng.permutation(len(PLACES))[: rng.integers(1, len(PLACES) + 1)].tolist())
    if rng.random() < _UNSEEN:
        beeping.add(len(PLACES))
    starts, lengths = rng.permutation(_STARTS), rng.permutation(_LENGTHS)
    beeps = [
        _span(rng, float(starts[number]), float(lengths[number])) if number in beeping else None
        for number in range(len(COLOURS))
    ]
    actors = []
    for number, x in enumerate(PLACES.values()):
        beep = beeps[number]
        jump = _draw_jump(rng, beep)
        actors.append(
            Actor(
                kind=pick(rng, KINDS),
                colour=colours[number],
                x=round(x + float(rng.uniform(-0.03, 0.03)), 3),
                radius=round(float(rng.uniform(0.12, 0.14)), 3),
                resident=True,
                acts=() if jump is None else (Act("jump", *jump),),
                beeps=() if beep is None else (beep,),
            )
        )
    if (beep := beeps[-1]) is not None:
        actors.append(Actor(pick(rng, KINDS), colours[-1], x=0.5, radius=0.15, resident=False, acts=(), beeps=(beep,)))
    background = pick(rng, tuple(BACKGROUNDS))
    return Scene(key, seconds, background, int(rng.integers(2**31)), tuple(actors))


def _span(rng: np.random.Generator, start_s: float, length_s: float) -> Interval:
    """Return an interval of whole frames that begins up to 0.3 s after ``start_s``."""
    start = round(start_s * FPS) + int(rng.integers(4))
    return start / FPS, (start + round(length_s * FPS)) / FPS


def _draw_jump(rng: np.random.Generator, beep: Interval | None) -> Interval | None:
    """Draw a jump, or None; it overlaps the shape's beep for at least a second, or is at least a second away."""
    if rng.random() > _JUMPS:
        return None
    while True:
        jump = _span(rng, float(rng.choice(_JUMP_STARTS)), float(rng.choice(_JUMP_LENGTHS)))
        if beep is None or abs(_overlap(jump, beep)) >= 1:
            return jump


def _overlap(one: Interval, two: Interval) -> float:
    """Return the seconds that two intervals share; if none, minus the seconds between them."""
    return min(one[1], two[1]) - max(one[0], two[0])


def _questions(rng: np.random.Generator, scene: Scene) -> Iterator[Row]:
    """Yield type, modality, text and answer of one question per template."""
    stage = dict(zip(PLACES, scene.actors, strict=False))
    length = {actor.colour: _length(actor) for actor in scene.actors}
    heard = sorted((place for place in stage if stage[place].beeps), key=lambda place: stage[place].beeps[0])

    yield "Audio Counting", "Audio", "how many different tones are heard", COUNTS[sum(map(bool, length.values()))]
    one, two = shuffled(rng, COLOURS)[:2]
    text = f"is the {one} tone heard longer than the {two} tone"
    yield "Audio Comparative", "Audio", text, yes(length.get(one, 0) > length.get(two, 0))

    yield "Visual Counting", "Visual", "how many shapes jump", COUNTS[sum(bool(actor.acts) for actor in stage.values())]
    seen = pick(rng, tuple(PLACES))
    yield "Visual Location", "Visual", f"what colour is the shape {_WHERE[seen]}", stage[seen].colour
    [missing] = COLOURS.keys() - {actor.colour for actor in stage.values()}
    yield "Visual Location", "Visual", "which colour is missing", missing

    seen = pick(rng, tuple(PLACES))
    existential = ("Audio-Visual Existential", "Audio-Visual")
    yield *existential, f"does the shape {_WHERE[seen]} beep", yes(bool(stage[seen].beeps))
    seen = pick(rng, tuple(PLACES))
    jumps = [(act.start_s, act.end_s) for act in stage[seen].acts]
    together = any(_overlap(jump, beep) > 0 for jump in jumps for beep in stage[seen].beeps)
    yield *existential, f"does the shape {_WHERE[seen]} jump while it beeps", yes(together)

    yield "Audio-Visual Counting", "Audio-Visual", "how many of the shapes on stage beep", COUNTS[len(heard)]
    word, which = (("first", 0), ("last", -1))[int(rng.integers(2))]
    yield "Audio-Visual Location", "Audio-Visual", f"where is the shape that starts to beep {word}", heard[which]
    here, there = shuffled(rng, PLACES)[:2]
    text = f"does the shape {_WHERE[here]} beep longer than the shape {_WHERE[there]}"
    longer = length[stage[here].colour] > length[stage[there].colour]
    yield "Audio-Visual Comparative", "Audio-Visual", text, yes(longer)
    word, which = (("first", 0), ("last", -1))[int(rng.integers(2))]
    text = f"what colour is the shape that starts to beep {word}"
    yield "Audio-Visual Temporal", "Audio-Visual", text, stage[heard[which]].colour


def shuffled(rng: np.random.Generator, names: Iterable[str]) -> list[str]:
    """Return the names in a random order."""
    ordered = list(names)
    return [ordered[number] for number in rng.permutation(len(ordered)).tolist()]


def _length(actor: Actor) -> float:
    return sum(end - start for start, end in actor.beeps)


def yes(true: bool) -> str:
    """Return ``yes`` or ``no``."""
    return "yes" if true else "no"
