"""Band videos: shapes that stand, beep and jump, and open questions about what is seen and heard.

Every video is asked each of eleven templates once, if its script can answer it. What one question takes for
granted ("the shape that beeps first is ...") is what another asks, so the questions of a video hint at each other.
Where an answer is yes or no, the choice of the shapes that are named decides it: both are about as likely.

| type | modality | questions |
|------|----------|-----------|
| Audio Counting | Audio | how many different tones are heard |
| Audio Comparative | Audio | is the tone of the disc heard longer than the tone of the bar |
| Visual Counting | Visual | how many shapes are red |
| Visual Location | Visual | what colour is the disc · what shape is on the left |
| Audio-Visual Existential | Audio-Visual | does the disc jump while it beeps · does the shape on the left beep |
| Audio-Visual Counting | Audio-Visual | how many of the shapes on stage beep |
| Audio-Visual Location | Audio-Visual | where is the shape that beeps first |
| Audio-Visual Comparative | Audio-Visual | does the shape on the left beep longer than the shape on the right |
| Audio-Visual Temporal | Audio-Visual | what colour is the shape that beeps last |
"""

from __future__ import annotations

from collections.abc import Iterator

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
_KEYS = 4  # the spawn key of band videos; the splits of stage videos are 0..3
_ROWS_OF_TEN: tuple[Split, ...] = ("train",) * 7 + ("val",) + ("test",) * 2
# Starts and lengths in whole frames, apart enough to be told from one look and one spectrum a second.
_STARTS = (0.5, 2.5, 4.5, 6.5)
_LENGTHS = (2.0, 4.0, 6.0, 8.0)

_WHERE = {"left": "on the left", "middle": "in the middle", "right": "on the right"}

_Row = tuple[str, str, str, str]


def video(world: World, index: int) -> tuple[Scene, tuple[AvQuestion, ...]]:
    """The script of band video `index` and its questions."""
    rng = np.random.default_rng([world.seed, _KEYS, index])
    scene = _draw_scene(rng, f"band_{index:05d}")
    rows = list(_questions(rng, scene))
    questions = []
    for number, position in enumerate(rng.permutation(len(rows)).tolist()):
        type_, modality, text, answer = rows[position]
        split = _ROWS_OF_TEN[int(rng.integers(10))]
        questions.append(AvQuestion(f"{scene.key}_{number}", scene.key, split, type_, modality, text, answer))
    return scene, tuple(questions)


def _draw_scene(rng: np.random.Generator, key: str) -> Scene:
    seconds = int(rng.integers(15, 17))
    kinds = [KINDS[number] for number in rng.permutation(len(KINDS)).tolist()]
    on_stage = int(rng.integers(2, 4))
    places = sorted(rng.permutation(len(PLACES))[:on_stage].tolist())
    beeping = rng.random(on_stage) < 0.6
    beeping[int(rng.integers(on_stage))] = True
    starts = rng.permutation(_STARTS)
    lengths = rng.permutation(_LENGTHS)
    actors = []
    for number, place in enumerate(places):
        beep = _beep(rng, float(starts[number]), float(lengths[number])) if beeping[number] else None
        jump = _draw_jump(rng, beep, seconds)
        actors.append(
            Actor(
                kind=kinds[number],
                colour=pick(rng, tuple(COLOURS)),
                x=round(tuple(PLACES.values())[place] + float(rng.uniform(-0.03, 0.03)), 3),
                radius=round(float(rng.uniform(0.12, 0.14)), 3),
                resident=True,
                acts=() if jump is None else (Act("jump", *jump),),
                beeps=() if beep is None else (beep,),
            )
        )
    if rng.random() < 0.4:
        beep = _beep(rng, float(starts[on_stage]), float(lengths[on_stage]))
        colour, kind = pick(rng, tuple(COLOURS)), kinds[on_stage]
        actors.append(Actor(kind, colour, x=0.5, radius=0.15, resident=False, acts=(), beeps=(beep,)))
    background = pick(rng, tuple(BACKGROUNDS))
    return Scene(key, seconds, background, int(rng.integers(2**31)), tuple(actors))


def _beep(rng: np.random.Generator, start_s: float, length_s: float) -> Interval:
    start = round(start_s * FPS) + int(rng.integers(4))
    return start / FPS, (start + round(length_s * FPS)) / FPS


def _draw_jump(rng: np.random.Generator, beep: Interval | None, seconds: int) -> Interval | None:
    """With its beep, at another time, or (one in three of those) not at all."""
    if beep is not None and rng.random() < 0.5:
        return beep
    if rng.random() < 1 / 3:
        return None
    free = [(0.0, beep[0] - 1), (beep[1] + 1, float(seconds))] if beep else [(0.0, float(seconds))]
    start_s, end_s = max(free, key=lambda gap: gap[1] - gap[0])
    return start_s, min(end_s, start_s + 3.0)


def _questions(rng: np.random.Generator, scene: Scene) -> Iterator[_Row]:
    """Type, modality, text and answer of one question a template."""
    stage = [actor for actor in scene.actors if actor.resident]
    sounding = [actor for actor in scene.actors if actor.beeps]
    heard = [actor for actor in stage if actor.beeps]
    where = {actor: _WHERE[_place(actor)] for actor in stage}

    yield "Audio Counting", "Audio", "how many different tones are heard", COUNTS[len(sounding)]
    if len(sounding) > 1:
        one, two = _two(rng, sounding)
        text = f"is the tone of the {one.kind} heard longer than the tone of the {two.kind}"
        yield "Audio Comparative", "Audio", text, _yes(_length(one) > _length(two))

    colour = pick(rng, (*(actor.colour for actor in stage), pick(rng, tuple(COLOURS))))
    count = sum(actor.colour == colour for actor in stage)
    yield "Visual Counting", "Visual", f"how many shapes are {colour}", COUNTS[count]
    seen = stage[int(rng.integers(len(stage)))]
    yield "Visual Location", "Visual", f"what colour is the {seen.kind}", seen.colour
    seen = stage[int(rng.integers(len(stage)))]
    yield "Visual Location", "Visual", f"what shape is {where[seen]}", seen.kind

    existential = ("Audio-Visual Existential", "Audio-Visual")
    together = {bool(actor.acts) and actor.acts[0].start_s == actor.beeps[0][0]: actor for actor in heard}
    wanted = bool(rng.integers(2))
    subject = together.get(wanted, together.get(not wanted))
    assert subject is not None
    yield *existential, f"does the {subject.kind} jump while it beeps", _yes(together.get(True) is subject)
    by_sound = {bool(actor.beeps): actor for actor in stage}
    if (wanted := bool(rng.integers(2))) in by_sound:
        subject = by_sound[wanted]
        yield *existential, f"does the shape {where[subject]} beep", _yes(wanted)

    text = "how many of the shapes on stage beep"
    yield "Audio-Visual Counting", "Audio-Visual", text, COUNTS[len(heard)]
    if len(heard) < 2:
        return
    ordered = sorted(heard, key=lambda actor: actor.beeps[0][0])
    word, which = (("first", 0), ("last", -1))[int(rng.integers(2))]
    subject = ordered[which]
    text = f"where is the shape that beeps {word}"
    yield "Audio-Visual Location", "Audio-Visual", text, _place(subject)
    one, two = _two(rng, heard)
    text = f"does the shape {where[one]} beep longer than the shape {where[two]}"
    yield "Audio-Visual Comparative", "Audio-Visual", text, _yes(_length(one) > _length(two))
    word, which = (("first", 0), ("last", -1))[int(rng.integers(2))]
    text = f"what colour is the shape that beeps {word}"
    yield "Audio-Visual Temporal", "Audio-Visual", text, ordered[which].colour


def _place(actor: Actor) -> str:
    return min(PLACES, key=lambda place: abs(PLACES[place] - actor.x))


def _two(rng: np.random.Generator, actors: list[Actor]) -> list[Actor]:
    return [actors[number] for number in rng.permutation(len(actors))[:2].tolist()]


def _length(actor: Actor) -> float:
    return sum(end - start for start, end in actor.beeps)


def _yes(true: bool) -> str:
    return "yes" if true else "no"
