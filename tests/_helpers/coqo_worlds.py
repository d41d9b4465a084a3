"""A store of videos in which one of two colours beeps, with questions that need ears, eyes, or both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from stores.commit import create_store
from stores.format.rows import Row
from tests._helpers.building import cache_key, commit_rows
from tests._helpers.question_worlds import put_questions, question

STEPS = 6
MAPS = {"name": "maps", "steps": STEPS, "step_shape": [2, 2, 4], "dtype": "float16"}
SOUND = {"name": "sound", "steps": STEPS, "step_shape": [5], "dtype": "float32"}
COLOURS = ("red", "green")


def facts(number: int) -> tuple[int, int, int]:
    """Return the colour on the left of a video, the colour that beeps, and when it beeps."""
    return number % 2, (number // 2) % 2, (number // 4) % 2 * 3


def video_row(number: int, values: np.ndarray[Any, Any]) -> Row:
    key = f"v{number:03}"
    times = np.arange(STEPS) + 0.5
    return Row(key, cache_key(key), values, times, np.ones(STEPS, bool), float(STEPS), 0.0, None, {"stream": 0})


def maps(number: int) -> Row:
    left, _, _ = facts(number)
    values = np.random.default_rng(number).normal(0, 0.1, (STEPS, 2, 2, 4)).astype(np.float16)
    values[:, :, 0, left] += 2
    values[:, :, 1, 1 - left] += 2
    return video_row(number, values)


def sound(number: int) -> Row:
    _, beeping, start = facts(number)
    values = np.random.default_rng(1000 + number).normal(0, 0.1, (STEPS, 5)).astype(np.float32)
    values[start : start + 3, beeping] += 2
    return video_row(number, values)


def questions(numbers: Iterable[int], **columns: Any) -> list[dict[str, Any]]:
    """Three questions per video, one of each modality."""
    rows = []
    for number in numbers:
        left, beeping, start = facts(number)
        contents = (
            ("Audio", "Comparative", "Does the beep come late?", "yes" if start else "no"),
            ("Visual", "Location", "Which colour is left?", COLOURS[left]),
            ("Audio-Visual", "Location", "Where is the beeping colour?", "left" if left == beeping else "right"),
        )
        for index, (modality, kind, text, answer) in enumerate(contents):
            given = {"question": text, "options": [], "answer": answer, "answer_index": None, "modality": modality}
            rows.append(question(f"v{number:03}", index, **{**given, "type": f"{modality} {kind}", **columns}))
    return rows


def world(root: Path, train: int = 24, val: int = 8) -> Path:
    """Make a store with the features ``maps`` and ``sound``, and the splits train, val and test of the dataset ``toy``.

    The splits have different videos.
    """
    create_store(root)
    numbers = range(train + 2 * val)
    commit_rows(root, map(maps, numbers), feature="maps", spec=MAPS)
    commit_rows(root, map(sound, numbers), feature="sound", spec=SOUND)
    put_questions(root, "toy", "train", questions(numbers[:train]))
    put_questions(root, "toy", "val", questions(numbers[train : train + val]))
    put_questions(root, "toy", "test", questions(numbers[train + val :]))
    return root
