"""A panel of one question of a finished run: predictions from its folder, the question from its store."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stores import Store
from stores.loading.questions import Questions, load_questions
from trainers.errors import TrainingError
from trainers.panels import coqo, cra
from trainers.run import RESULTS

_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Run:
    """A folder that ``jobs/train.py`` filled.

    Attributes
    ----------
    feature : what the model saw or heard, whose rows know where in its file a clip begins.
    """

    folder: Path
    method: str
    store: str
    version: int
    dataset: str
    feature: str | None
    splits: tuple[str, ...]


def open_run(folder: Path) -> Run:
    """Raises TrainingError if the folder holds no finished run."""
    path = folder / RESULTS
    try:
        results = json.loads(path.read_text())
        settings = json.loads((folder / "settings.json").read_text())["task"]
        stopped, cra_run = results["stopped_by"], results["method"] == "cra"
        data = settings["settings" if cra_run else "method"]["data"]
        names = [data["feature"]] if cra_run else [data[name] for name in settings["feature_specs"]]
        run = Run(
            folder=folder,
            method=results["method"],
            store=results["store"],
            version=results["store_version"],
            dataset=data["dataset"],
            feature=names[-1] if names else None,
            splits=tuple(results.get("metrics", ())),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: no finished run ({type(error).__name__}: {error})") from error
    if not run.splits:
        raise TrainingError(f"{path}: the run was stopped by {stopped}; finish it first")
    return run


def draw(run: Run, question: str, video: Path | None = None) -> tuple[bytes, str]:
    """The panel of a question, as PNG and as an HTML page that needs no other file.

    Parameters
    ----------
    question : as in the ``questions`` table.
    video : the video's file; None leaves frames and sound out.

    Raises
    ------
    TrainingError
        If no split that the run scored has the question, or the file cannot be decoded.
    StoreError
        If the store or its version is gone.
    """
    with Store.open(run.store, run.version, lease=False) as store:
        for split in run.splits:
            asked = load_questions(store, split, run.dataset)
            if question in asked.ids:
                row = asked.ids.index(question)
                key = asked.video_ids[row]
                start_s = 0.0
                if run.feature is not None and (run.feature, key) in store:
                    start_s = store.clip(run.feature, key)[0]
                try:
                    return (_cra if run.method == "cra" else _coqo)(run, split, asked, row, video, start_s)
                except KeyError as error:
                    what = f"nothing is predicted for question {question!r} (no {error})"
                    raise TrainingError(f"{run.folder}: {what}") from error
    raise TrainingError(f"{run.folder}: question {question!r} is in none of the splits {', '.join(run.splits)}")


def _cra(run: Run, split: str, asked: Questions, row: int, video: Path | None, start_s: float) -> tuple[bytes, str]:
    name, key = asked.ids[row], asked.video_ids[row]
    said = {
        stem: _read(run, stem, split) for stem in ("answers", "scores", "spans", "attention", "unsmoothed", "times")
    }
    key_of = name if name in said["answers"] else f"{key}_{name}"
    times = said["times"][key]
    index = int(asked.answer_index[row])
    panel = cra.Panel(
        question=asked.texts[row],
        options=asked.options[row],
        scores=said["scores"][key_of],
        answer=None if index < 0 else index,
        prediction=said["answers"][key_of]["prediction"],
        times=times,
        attention=said["unsmoothed"][key_of],
        weights=said["attention"][key_of],
        duration=_duration(asked, row, times),
        true_spans=asked.spans[row],
        predicted_span=tuple(said["spans"][key_of]),
        frames=() if video is None else cra.read_frames(video, times, start_s),
    )
    return cra.draw(panel), cra.to_html(panel)


def _coqo(run: Run, split: str, asked: Questions, row: int, video: Path | None, start_s: float) -> tuple[bytes, str]:
    name, key = asked.ids[row], asked.video_ids[row]
    attention = _read(run, "attention", split).get(name, {})
    times = _read(run, "times", split).get(key, {})
    found = {
        modality: coqo.Attention(np.array(times[modality]), np.array(weights, np.float32))
        for modality, weights in attention.items()
    }
    seconds = times.get("visual") or next(iter(times.values()), [0.0])
    duration = _duration(asked, row, seconds)
    panel = coqo.Panel(
        question=asked.texts[row],
        predicted=_read(run, "answers", split)[name],
        answer=asked.answers[row],
        duration=duration,
        audio=found.get("audio"),
        visual=found.get("visual"),
        frames=() if video is None else cra.read_frames(video, seconds, start_s),
        frame_times=() if video is None else seconds,
        waveform=None if video is None else read_waveform(video, start_s, duration),
        rate=_RATE,
    )
    return coqo.draw(panel), coqo.to_html(panel)


def _read(run: Run, stem: str, split: str) -> dict[str, Any]:
    path = run.folder / f"{stem}_{split}.json"
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not readable ({error}); train again") from error
    return value


def _duration(asked: Questions, row: int, times: Sequence[float]) -> float:
    known = float(asked.duration[row])
    return known if known > 0 else float(times[-1]) + 0.5


def read_waveform(path: Path, start_s: float = 0.0, seconds: float = math.inf) -> NDArray[np.float32] | None:
    """Mono ``[S] float32`` at 16 kHz of ``seconds`` of the first audio stream; None where there is none.

    Raises
    ------
    TrainingError
        If the file cannot be decoded.
    """
    import av  # only panels decode

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return None
            resampler = av.AudioResampler("flt", "mono", _RATE)
            blocks = [
                block.to_ndarray().reshape(-1)
                for frame in container.decode(audio=0)
                for block in resampler.resample(frame)
            ]
    except av.FFmpegError as error:
        raise TrainingError(f"{path}: its sound is not readable ({error.strerror})") from error
    if not blocks:
        return None
    wave: NDArray[np.float32] = np.concatenate(blocks)
    last = len(wave) if math.isinf(seconds) else round((start_s + seconds) * _RATE)
    return wave[round(start_s * _RATE) : last]
