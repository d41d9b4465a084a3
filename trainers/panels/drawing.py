"""Opens the folder of a finished run, and draws one of its questions."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from settings.files import read_text
from settings.messages import available, one_line
from stores import Store
from stores.loading import Questions, load_questions
from trainers.config import MethodSettings
from trainers.errors import TrainingError
from trainers.folder import RESULTS, SETTINGS
from trainers.methods import Drawing, find_method
from trainers.panels.finished import FinishedRun, ShownQuestion
from trainers.panels.source import source_of
from trainers.resume import read_task_description


def open_run(folder: Path) -> FinishedRun:
    """Open the folder of a run.

    Raises
    ------
    TrainingError
        If it holds no finished run.
    """
    path = folder / RESULTS
    try:
        results = json.loads(read_text(path))
        stopped_by = results["stopped_by"]
        settings: MethodSettings = find_method(results["method"]).settings.model_validate(
            read_task_description(folder)["settings"]
        )
        run = FinishedRun(
            folder=folder,
            method=results["method"],
            store=results["store"],
            version=results["store_version"],
            dataset=settings.dataset,
            feature=settings.features[-1] if settings.features else None,
            splits=tuple(results.get("metrics", ())),
        )
    except FileNotFoundError as error:
        raise TrainingError(_no_run(folder)) from error
    except OSError as error:
        raise TrainingError(f"{path}: no finished run ({error.strerror or one_line(error)})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path}: no finished run ({type(error).__name__}: {one_line(error)})") from error
    if not run.splits:
        raise TrainingError(f"{path}: the run was stopped by {stopped_by}; finish it first")
    return run


def _no_run(folder: Path) -> str:
    """Return why a folder without ``results.json`` cannot be drawn from, and what to do."""
    if not folder.exists():
        return f"{folder}: no such folder; name the --out of a run of jobs/train.py"
    if (folder / SETTINGS).exists():
        return f"{folder}: its run has not finished; run jobs/train.py again to finish it"
    return f"{folder}: holds no run; name the --out of a run of jobs/train.py"


def draw(run: FinishedRun, question: str, video: Path | None = None, split: str | None = None) -> Drawing:
    """Draw the panel of a question, as a PNG and as an HTML page that needs no other file.

    Parameters
    ----------
    run
        The run.
    question
        Id of the question in the ``questions`` table.
    video
        The file of its video; None takes the source that the store knows, if it can be read here (``source_of``).
    split
        Its split; needed if questions of several scored splits have this id.

    Raises
    ------
    TrainingError
        If the question is in none, or in several, of the splits that the run scored, nothing is predicted for it, the
        file is not the one that the video's rows were computed from, or it cannot be decoded.
    StoreError
        If the store or its version no longer exists.
    """
    with Finder(run) as finder:
        return find_method(run.method).draw(finder.find(question, video, split))


class Finder:
    """Finds questions of a finished run, each with its video's file. The store is open until the end of ``with``.

    Parameters
    ----------
    run
        The run.

    Raises
    ------
    StoreError
        If the store or its version no longer exists.
    """

    def __init__(self, run: FinishedRun) -> None:
        self._run = run
        self._store = Store.open(run.store, run.version, lease=False)
        self._questions: dict[str, tuple[Questions, dict[str, int]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._store.close()

    def find(self, question: str, video: Path | None = None, split: str | None = None) -> ShownQuestion:
        """Find a question; the parameters and errors are those of ``draw``."""
        run = self._run
        if split is not None and split not in run.splits:
            raise TrainingError(f"{run.folder}: split {split!r} was not scored ({available(run.splits)})")
        searched = run.splits if split is None else (split,)
        found = [name for name in searched if question in self._of(name)[1]]
        if len(found) != 1:
            where = (
                f"is in {' and '.join(found)}; name one with --split"
                if found
                else (f"is in none of the splits {', '.join(searched)}")
            )
            raise TrainingError(f"{run.folder}: question {question!r} {where}")
        questions, places = self._of(found[0])
        row = places[question]
        clip = (run.feature, questions.video_ids[row]) if run.feature is not None else None
        start_s = self._store.clip(*clip)[0] if clip is not None and clip in self._store else 0.0
        features = () if run.feature is None else (run.feature,)
        file = source_of(self._store, features, questions.video_ids[row], video)
        return ShownQuestion(run, questions, row, file, start_s)

    def _of(self, split: str) -> tuple[Questions, dict[str, int]]:
        """Return the questions of a split, and the row of each id."""
        if split not in self._questions:
            questions = load_questions(self._store, split, self._run.dataset)
            self._questions[split] = questions, {name: row for row, name in enumerate(questions.ids)}
        return self._questions[split]
