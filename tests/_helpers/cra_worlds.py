"""A store of videos that show one of three colours for two steps, with a question about the colour of each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stores.commit import create_store
from stores.format import Row
from tests._helpers.building import cache_key, commit_rows
from tests._helpers.question_worlds import put_questions, put_table, question
from trainers.cra.config import CraConfig

STEPS, WIDTH = 8, 6
SPEC = {"name": "clip", "steps": STEPS, "step_shape": [WIDTH], "dtype": "float32"}
MADE_OF = {"dataset": "toy", "split": "train"}
COLOURS = ("red", "green", "blue")


def shown(number: int) -> tuple[int, int]:
    """Return the colour of a video, and the first of the two steps that show it."""
    return number % 3, (number * 5) % (STEPS - 1)


def video(number: int) -> Row:
    colour, first = shown(number)
    values = np.random.default_rng(number).normal(0, 0.1, (STEPS, WIDTH)).astype(np.float32)
    values[first : first + 2, colour] += 3
    key = f"v{number}"
    times = np.arange(STEPS) + 0.5
    return Row(key, cache_key(key), values, times, np.ones(STEPS, bool), float(STEPS), 0.0, None, {"stream": 0})


def questions(numbers: Iterable[int], **columns: Any) -> list[dict[str, Any]]:
    """Ask for the colour of each video, with the span that shows it."""
    rows = []
    for number in numbers:
        colour, first = shown(number)
        given = {
            "question": "what colour does it show",
            "options": list(COLOURS),
            "answer": COLOURS[colour],
            "answer_index": colour,
            "spans": [[float(first), float(first + 2)]],
            "duration": float(STEPS),
        }
        rows.append(question(f"v{number}", 0, **{**given, **columns}))
    return rows


def centres(shape: tuple[int, ...]) -> pa.Table:
    """Make a dictionary of four clusters, whose rows are not in the order of their clusters."""
    values = np.random.default_rng(0).normal(size=(4, int(np.prod(shape)))).astype(np.float32)
    order = [2, 0, 3, 1]
    column = pa.FixedSizeListArray.from_arrays(values[order].ravel(), values.shape[1])
    return pa.table({"cluster": pa.array(order, pa.int32()), "center": column})


def world(root: Path) -> Path:
    """Make a store with 48 training and 16 validation questions, both dictionaries, and embeddings of all texts."""
    create_store(root)
    commit_rows(root, map(video, range(64)), feature="clip", spec=SPEC)
    put_questions(root, "toy", "train", questions(range(48)))
    put_questions(root, "toy", "val", questions(range(48, 64)))
    put_table(root, "linguistic_dictionary", centres((8, 5)), spec=MADE_OF)
    put_table(root, "visual_dictionary", centres((WIDTH,)), spec={**MADE_OF, "feature": "clip"})
    texts = sorted({"what colour does it show", *COLOURS})
    vectors = np.random.default_rng(1).normal(size=(len(texts), 4)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), 4)
    put_table(root, "embeddings", pa.table({"text": texts, "vector": column}), part="abc")
    return root


def small_world(root: Path, train: dict[str, Any] | None = None, **tables: Any) -> Path:
    """Make a store with 4 training and 2 validation questions, and the dictionaries of the given specs."""
    create_store(root)
    commit_rows(root, map(video, range(6)), feature="clip", spec=tables.pop("spec", SPEC))
    put_questions(root, "toy", "train", questions(range(4), **(train or {})))
    put_questions(root, "toy", "val", questions((4, 5)))
    for name, spec in tables.items():
        put_table(root, name, centres((8, 5) if name.startswith("l") else (WIDTH,)), spec=spec)
    return root


def settings(**sections: dict[str, Any]) -> CraConfig:
    """Return the settings of a small model, with the given keys on top."""
    raw: dict[str, Any] = {
        "data": {"dataset": "toy", "tests": [], "batch": 16, "distractors": 0.0, "paraphrase": 0.0},
        "text": {"encoder": "words", "heads": 2},
        "model": {"dim": 16, "heads": 2, "layers": 1, "dropout": 0.1, "decoder_dropout": 0.1, "attention_dropout": 0.0},
        "loop": {"epochs": 2, "lr": 3e-3, "threads": 1},
    }
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    return CraConfig.model_validate(raw)
