"""What the toy world is made of: shapes that act at known seconds and sound a tone of their own.

Two sets of videos share one picture language.

*Stage* videos are for grounded question answering (`stage.py`): five shapes enter one after another, each for about
two seconds, and leave; a question is about one entrance, all others are distraction. Two kinds of bias are planted in
every split but `test_ood`:

- language: a question that names a disc is mostly answered "jump", one that names a bar mostly "grow", so the
  answer can be guessed from the wording (`language_bias`, 0.8);
- visual: where a question names a ring or a pillar, its answer mostly goes with the background of the video,
  which fills every frame and is no cause of anything (`visual_bias`, 0.8).

In `test_ood` the favoured answer is right as often as any other (`ood_bias`, 0.2 with five answers). Only entrances
that are asked about are biased, and every answer is always among the options, so neither the distractors nor the
options tell. Questions "which shape ..." carry no bias: they are the control group.

*Band* videos are for audio-visual question answering (`band.py`): three shapes stand on stage throughout, and some
beep, jump, or both. One colour has one tone, whatever its shape: what sounds is heard, where it stands is seen.
Eleven questions a video are split by question, as in MUSIC-AVQA.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Rgb = tuple[int, int, int]
Interval = tuple[float, float]
Split = Literal["train", "val", "test", "test_ood"]
Bias = Literal["language", "visual", "none"]

WIDTH, HEIGHT, FPS = 96, 64, 10
SAMPLE_RATE = 8_000
SPLITS: tuple[Split, ...] = ("train", "val", "test", "test_ood")
KINDS = ("disc", "bar", "ring", "pillar")
COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "yellow": (230, 200, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
}
# Base form, as in an answer: third person, as in a question.
ACTIONS = {"jump": "jumps", "duck": "ducks", "grow": "grows", "split": "splits", "glow": "glows"}
# Dull, so that no shape is lost on them.
BACKGROUNDS: dict[str, Rgb] = {
    "slate": (84, 96, 110),
    "sand": (148, 138, 118),
    "moss": (96, 112, 88),
    "plum": (112, 92, 110),
    "chalk": (168, 170, 172),
}
TONES_HZ = {"red": 330.0, "yellow": 660.0, "green": 1320.0, "blue": 2640.0}
PLACES = {"left": 0.23, "middle": 0.5, "right": 0.77}

FAVOURED_BY_KIND = {"disc": "jump", "bar": "grow"}
FAVOURED_BY_BACKGROUND = dict(zip(BACKGROUNDS, ACTIONS, strict=True))


@dataclass(frozen=True, slots=True)
class Act:
    """One action of a shape, shown in the frames with `start_s <= t < end_s`."""

    action: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Actor:
    """One shape.

    Attributes
    ----------
    kind, colour
        From `KINDS` and `COLOURS`.
    x
        Centre, as a fraction of the picture's width.
    radius
        At rest, as a fraction of the picture's height.
    resident
        Whether it stands on stage between its acts. A shape that is not resident and has no act is never seen.
    acts
        In order of time, without overlap.
    beeps
        Seconds in which its colour's tone sounds.
    """

    kind: str
    colour: str
    x: float
    radius: float
    resident: bool
    acts: tuple[Act, ...]
    beeps: tuple[Interval, ...]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True)
class Scene:
    """The script of one video; `seed` chooses the grain of its background."""

    key: str
    seconds: int
    background: str
    seed: int
    actors: tuple[Actor, ...]


@dataclass(frozen=True, slots=True)
class GroundingQuestion:
    """A question with five options about one entrance, `span` in seconds.

    `bias` is the kind of bias that this question is subject to, `favoured` the answer that it favours.
    """

    video_id: str
    qid: int
    split: Split
    type: str
    question: str
    options: tuple[str, ...]
    answer_index: int
    span: Interval
    bias: Bias
    favoured: str | None

    @property
    def answer(self) -> str:
        return self.options[self.answer_index]


@dataclass(frozen=True, slots=True)
class AvQuestion:
    """An open question about sight and sound; types and modalities are those of MUSIC-AVQA."""

    question_id: str
    video_id: str
    split: Split
    type: str
    modality: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class World:
    """How large a world is and how biased; equal worlds give equal videos and questions.

    A video depends on the seed, its split and its number alone: a larger world begins with the videos of a smaller.

    Attributes
    ----------
    train, val, test, test_ood
        Stage videos of each split.
    band
        Band videos; their questions are split 7:1:2.
    language_bias, visual_bias
        Probability that the favoured answer is right in train, val and test; 0.2 is no bias.
    ood_bias
        The same for both kinds in `test_ood`; 0 makes the favoured answer always wrong.
    """

    seed: int = 0
    train: int = 480
    val: int = 60
    test: int = 60
    test_ood: int = 60
    band: int = 720
    language_bias: float = 0.8
    visual_bias: float = 0.8
    ood_bias: float = 0.2

    def __post_init__(self) -> None:
        for name in ("seed", *SPLITS, "band"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is negative")
        for name in ("language_bias", "visual_bias", "ood_bias"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is no probability")

    def videos(self, split: Split) -> int:
        """Stage videos of a split."""
        return int(getattr(self, split))

    def resized(self, videos: int) -> World:
        """This world with about `videos` videos in all, in the same proportions, at least one of each set."""
        names = (*SPLITS, "band")
        total = sum(getattr(self, name) for name in names)
        return replace(self, **{name: max(1, round(getattr(self, name) * videos / total)) for name in names})


def pick(rng: np.random.Generator, choices: list[str] | tuple[str, ...]) -> str:
    """One of `choices`, each as likely."""
    return choices[int(rng.integers(len(choices)))]
