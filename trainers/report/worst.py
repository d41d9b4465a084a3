"""The questions of a split that went worst, each with its panel and what can be played of its video."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from settings.messages import one_line, plural
from stores.errors import StoreError
from trainers.errors import TrainingError
from trainers.methods import find_method
from trainers.metrics.grounding import FAITHFUL
from trainers.panels import Finder, FinishedRun
from trainers.panels.figure import Clip
from trainers.predictions import Prediction


@dataclass(frozen=True, slots=True)
class ShownPanel:
    """A question with its panel.

    Attributes
    ----------
    row
        The question.
    image
        The picture, relative to the page; None if it could not be drawn.
    clips
        What the page plays of the video.
    note
        Why the picture or its frames are missing; empty if they are not.
    """

    row: Prediction
    image: str | None
    clips: tuple[Clip, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class WorstPanels:
    """The panels of a split, and what there is to say about all of them."""

    shown: tuple[ShownPanel, ...]
    notes: tuple[str, ...] = ()


def worst_first(rows: Sequence[Prediction], most: int) -> list[Prediction]:
    """Return the wrong answers of which the model was surest, then right ones whose span misses the truth.

    A right answer is listed if its IoP is below 0.5, the least first. Equals are in the order of the table.
    """
    wrong = [row for row in rows if row.right is False]
    missed = [row for row in rows if row.right and row.iop is not None and row.iop < FAITHFUL]
    wrong.sort(key=lambda row: -(row.confidence or 0.0))
    missed.sort(key=lambda row: row.iop or 0.0)
    return [*wrong, *missed][:most]


def draw_worst(
    run: FinishedRun,
    split: str,
    rows: Sequence[Prediction],
    folder: Path,
    name: str,
    say: Callable[[str], None],
) -> WorstPanels:
    """Draw the panels of some questions into a new folder ``name`` below ``folder``.

    What cannot be drawn is listed with the reason: a store may have been removed, a video may have moved.
    """
    if not rows:
        return WorstPanels(())
    say(f"{split}: drawing {plural(len(rows), 'panel')}")
    (folder / name).mkdir()
    shown = []
    for number, panel in enumerate(panels_of(run, split, rows), 1):
        image = None if panel.picture is None else f"{name}/{number}.png"
        if image is not None and panel.picture is not None:
            (folder / image).write_bytes(panel.picture)
        shown.append(ShownPanel(panel.row, image, panel.clips, panel.note))
    told = {panel.note for panel in shown}
    if len(shown) > 1 and len(told) == 1 and "" not in told:  # the store is gone: said once
        return WorstPanels(tuple(replace(panel, note="") for panel in shown), (shown[0].note,))
    without = sum(not panel.clips for panel in shown)
    notes = (f"{plural(without, 'video')} of these cannot be read here, or changed.",) if without else ()
    return WorstPanels(tuple(shown), notes)


@dataclass(frozen=True, slots=True)
class DrawnPanel:
    """A question with the picture of its panel.

    Attributes
    ----------
    row
        The question.
    picture
        A PNG; None if it could not be drawn.
    clips
        What a page plays of the video.
    note
        Why the picture or its frames are missing; empty if they are not.
    """

    row: Prediction
    picture: bytes | None
    clips: tuple[Clip, ...] = ()
    note: str = ""


def panels_of(run: FinishedRun, split: str, rows: Sequence[Prediction]) -> Iterator[DrawnPanel]:
    """Draw the panels of some questions of a split, one after another; what cannot be drawn has a note."""
    try:
        finder = Finder(run)
    except StoreError as error:
        yield from (DrawnPanel(row, None, note=one_line(error)) for row in rows)
        return
    with finder:
        for row in rows:
            yield _drawn(finder, run, split, row)


def _drawn(finder: Finder, run: FinishedRun, split: str, row: Prediction) -> DrawnPanel:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            question = finder.find(row.question_id, split=split)
            picture, _ = find_method(run.method).draw(question)
        except (TrainingError, StoreError) as error:
            return DrawnPanel(row, None, note=one_line(error))
    spans = {"true span": row.true_spans, "predicted span": () if row.span is None else (row.span,)}
    note = "; ".join(one_line(str(warning.message)) for warning in told if warning.category is UserWarning)
    return DrawnPanel(row, picture, tuple(question.clips(spans)), note)
