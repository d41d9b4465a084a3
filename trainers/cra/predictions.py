"""The predictions of a split, as ``jobs/evaluate.py grounding`` and the panels read them, and their scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from stores import Store
from stores.loading import QuestionBatch
from trainers.cra import spans
from trainers.cra.config import GroundingSettings
from trainers.cra.data import VIDEO
from trainers.metrics.grounding import Answer, GroundedQuestion, Span, best_overlap, score
from trainers.predictions import Prediction, confidence
from trainers.task import Evaluation


class Answered(Protocol):
    """What a model says about B questions with up to K options on videos of T frames."""

    @property
    def logits(self) -> Tensor:
        """``[B, K]``, larger for likelier options; -inf where there is none."""

    @property
    def attention(self) -> Tensor:
        """P ``[B, T]``, weights of the frames before smoothing."""

    @property
    def weights(self) -> Tensor:
        """W ``[B, T]``, the same after smoothing."""

    @property
    def interval(self) -> Tensor | None:
        """``[B, 2]``, start and end as fractions of the video, from models that predict them; else None."""


@dataclass
class Collected:
    """The predictions of a split, collected batch by batch."""

    config: GroundingSettings
    store: Store
    questions: list[GroundedQuestion] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    proposals: dict[str, dict[str, Span]] = field(default_factory=dict)
    scores: dict[str, list[float]] = field(default_factory=dict)
    attention: dict[str, list[float]] = field(default_factory=dict)
    unsmoothed: dict[str, list[float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    rows: list[Prediction] = field(default_factory=list)

    def add(self, batch: QuestionBatch, grounded: Answered) -> None:
        predictions, logits = grounded.logits.argmax(1).tolist(), grounded.logits.tolist()
        valid, times = batch.valid[VIDEO], batch.times[VIDEO]
        weights, unsmoothed = grounded.weights.cpu(), grounded.attention.cpu()
        intervals = None if grounded.interval is None else grounded.interval.tolist()
        for row, video in enumerate(batch.video_ids):
            key = _key(video, batch.question_ids[row])
            frames = valid[row]
            answer = int(batch.answer_index[row])
            self.answers[key] = Answer(predictions[row], None if answer < 0 else answer)
            self.scores[key] = logits[row][: len(batch.options[row])]
            self.attention[key] = weights[row][frames].tolist()
            self.unsmoothed[key] = unsmoothed[row][frames].tolist()
            seconds = self._times(video, times[row], frames)
            duration = self._duration(video, float(batch.duration[row]))
            if seconds is not None and math.isfinite(duration):  # else no second of it can be named
                self.times[video] = seconds
                proposed = None if intervals is None else intervals[row]
                self._add_span(key, seconds, duration, proposed)
            self.questions.append(
                GroundedQuestion(
                    key=key,
                    video_id=video,
                    type=batch.types[row],
                    answer=self.answers[key].stated,
                    options=len(batch.options[row]),
                    duration=duration,
                    spans=tuple(batch.spans[row]),
                )
            )
            self.rows.append(self._row(batch, row, key, duration))

    def evaluation(self) -> Evaluation:
        known = [question for question in self.questions if question.answer is not None]
        metrics: dict[str, float] = {"n": len(known)}
        if known:
            right = sum(self.answers[question.key].prediction == question.answer for question in known)
            metrics["acc_vqa"] = 100 * right / len(known)
        grounded = [question for question in known if question.spans and question.key in self.spans]
        if grounded:
            rates = score(grounded, self.answers, self.spans).overall
            metrics |= {name: rate for name, rate in rates.items() if name not in ("acc_vqa", "n")}
            metrics["n_grounded"] = len(grounded)
        answers = {
            key: {"prediction": answer.prediction, "answer": answer.stated} for key, answer in self.answers.items()
        }
        predictions = {
            "answers": answers,
            "scores": self.scores,
            "spans": self.spans,
            "attention": self.attention,
            "unsmoothed": self.unsmoothed,
            "times": self.times,
            **self.proposals,
        }
        return Evaluation(metrics, predictions, self.rows)

    def _row(self, batch: QuestionBatch, row: int, key: str, duration: float) -> Prediction:
        answer, options, span = self.answers[key], batch.options[row], self.spans.get(key)
        true_spans = tuple(batch.spans[row])
        overlap = best_overlap(true_spans, span) if true_spans and span is not None else (None, None)
        return Prediction(
            question_id=batch.question_ids[row],
            video_id=batch.video_ids[row],
            type=batch.types[row],
            modality=batch.modalities[row],
            question=batch.questions[row],
            options=options,
            prediction=options[answer.prediction],
            prediction_index=answer.prediction,
            answer=None if answer.stated is None else options[answer.stated],
            answer_index=answer.stated,
            right=None if answer.stated is None else answer.prediction == answer.stated,
            confidence=confidence(self.scores[key]),
            duration=duration if math.isfinite(duration) else None,
            span=span,
            true_spans=true_spans,
            iou=overlap[0],
            iop=overlap[1],
        )

    def _add_span(self, key: str, times: list[float], duration: float, proposed: list[float] | None) -> None:
        """Enter the span of a question; of a model that proposes one, also those of the other published rules."""
        published = self.config.evaluation.published_spans
        rules: tuple[spans.Rule, ...] = () if proposed is None else ("proposal", "posthoc", "merge")
        for rule in dict.fromkeys((self.config.span_rule, *rules)):
            start, end = spans.span(rule, self.attention[key], times, duration, published, proposed)
            if rule == self.config.span_rule:
                self.spans[key] = start, end
            if rule in rules:
                self.proposals.setdefault(f"spans_{rule}", {})[key] = start, end

    def _times(self, video: str, true: Tensor, valid: Tensor) -> list[float] | None:
        """Return the times of the valid frames in seconds, true or published as the settings say; None if unknown."""
        published = None
        if self.config.evaluation.published_times and valid.any():
            published = self.store.published_times(self.config.data.feature, video)
        times = (true if published is None else torch.tensor(published))[valid]
        return None if times.isnan().any() else times.tolist()

    def _duration(self, video: str, annotated: float) -> float:
        """Return the duration in seconds: as annotated, else as decoded."""
        return annotated if annotated > 0 else self.store.clip(self.config.data.feature, video)[1]


def _key(video: str, question: str) -> str:
    """Return ``<video>_<question>``, the form that question ids of NExT-GQA have already."""
    return question if question.startswith(f"{video}_") else f"{video}_{question}"
