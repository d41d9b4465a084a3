"""Define the toy world: shapes that act at known seconds, each colour with a tone of its own.

Two sets of videos share the same shapes, colours and actions. This is the kind of world that is called ``shapes``;
``kinds.py`` lists the others.

*Stage* videos are for grounded question answering (``stage.py``): five shapes enter one after another, each for about
two seconds, and leave. A question is about one entrance; all others are distractors. Two kinds of bias are planted in
every split except ``test_ood``:

- language: most questions that name a disc have the answer "jump", and most that name a bar "grow", so the answer
  can be guessed from the wording (``language_bias``, 0.8);
- visual: if a question names a ring or a pillar, its answer mostly depends on the background of the video, which fills
  every frame but causes nothing (``visual_bias``, 0.8).

In ``test_ood`` the favoured answer is right as often as any other (``ood_bias``, 0.2 with five answers). Only entrances
that questions are about are biased, and the options always include every answer, so neither the distractors nor the
options give anything away. Questions "which shape …" carry no bias: they are the control group.

*Band* videos are for audio-visual question answering (``band.py``): three shapes stand on stage throughout, and some
beep, jump, or both. Each colour has one tone, whatever the shape: which colour sounds must be heard, where it stands
must be seen. Each video has eleven questions, which are split by question, as in MUSIC-AVQA.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Rgb = tuple[int, int, int]
Interval = tuple[float, float]
Split = Literal["train", "val", "test", "test_ood", "test_wording", "test_backdrop"]
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
# Base form, as in answers, to third person, as in questions.
ACTIONS = {"jump": "jumps", "duck": "ducks", "grow": "grows", "split": "splits", "glow": "glows"}
# Dull, so that every shape stands out against them.
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
    """One action of a shape, shown in the frames with ``start_s <= t < end_s``."""

    action: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Actor:
    """One shape.

    Attributes
    ----------
    kind, colour
        One of ``KINDS`` and one of ``COLOURS``.
    x
        Position of the centre, as a fraction of the picture's width.
    radius
        Size at rest, as a fraction of the picture's height.
    resident
        Whether it stands on stage between its acts. A shape that is not resident and has no act is never seen.
    acts
        Its actions, in order of time and without overlap.
    beeps
        Intervals, in seconds, in which its colour's tone sounds.
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
        """Colour and kind, as questions name the shape."""
        return f"{self.colour} {self.kind}"

    @property
    def tone_hz(self) -> float:
        """Frequency of its tone: that of its colour."""
        return TONES_HZ[self.colour]


@dataclass(frozen=True, slots=True)
class Scene:
    """The script of one video; ``seed`` selects the grain of its background."""

    key: str
    seconds: int
    background: str
    seed: int
    actors: tuple[Actor, ...]

    def background_at(self, time_s: float) -> str:
        """Return the background at a second of the video: always the same."""
        return self.background


@dataclass(frozen=True, slots=True)
class GroundingQuestion:
    """A question with five options about one entrance.

    ``span`` is the interval of the entrance in seconds, ``bias`` the kind of bias planted in the question, and
    ``favoured`` the answer that this bias favours.
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
        """The right option."""
        return self.options[self.answer_index]


@dataclass(frozen=True, slots=True)
class AvQuestion:
    """An open question about what is seen and heard; types and modalities are those of MUSIC-AVQA."""

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

    A video depends only on the seed, its split and its number: a larger world begins with the videos of a smaller one.

    Attributes
    ----------
    seed
        Selects the world.
    train, val, test, test_ood
        Number of stage videos of each split.
    band
        Number of band videos; their questions are split 7:1:2.
    language_bias, visual_bias
        Probability that the favoured answer is right in train, val and test; 0.2 is no bias.
    ood_bias
        The same in ``test_ood``, for both kinds of bias; with 0 the favoured answer is always wrong.

    Raises
    ------
    ValueError
        If a number is negative, or a bias is not a probability.
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
                raise ValueError(f"{name}: {getattr(self, name)} is not a probability")

    def videos(self, split: str) -> int:
        """Return the number of stage videos of a split that is named as an attribute."""
        return int(getattr(self, split))

    def resized(self, videos: int) -> World:
        """Return this world with about ``videos`` videos in all: the same proportions, at least one of each set."""
        names = (*SPLITS, "band")
        total = sum(getattr(self, name) for name in names)
        return replace(self, **{name: max(1, round(getattr(self, name) * videos / total)) for name in names})


def pick(rng: np.random.Generator, choices: list[str] | tuple[str, ...]) -> str:
    """Draw one of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]
