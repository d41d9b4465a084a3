"""Section ``training``: steps of CoQo and CRA in the real training loop on made-up batches of the real shapes."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from bench.bare import wait_for
from bench.on_gpu.section import Section, Setup
from stores.loading import VideoBatch
from trainers.config import LoopConfig
from trainers.coqo.answers import MUSIC_AVQA, AnswerVocabulary
from trainers.coqo.config import CoqoConfig
from trainers.coqo.data import Encoder
from trainers.coqo.data import Inputs as CoqoInputs
from trainers.coqo.heads import ClassHead
from trainers.coqo.model import Sizes
from trainers.coqo.question import PUBLISHED_WORDS, Vocabulary
from trainers.coqo.task import CoqoTask, build_model
from trainers.cra import model as cra_model
from trainers.cra.config import CraConfig
from trainers.cra.data import Choice
from trainers.cra.data import Inputs as CraInputs
from trainers.cra.task import CraTask
from trainers.cra.text import Pretrained, TokenText
from trainers.distributed import Ranks
from trainers.loop import train
from trainers.progress import Progress
from trainers.task import Batch, Evaluation, Json

TARGET_GIB = 24.0
_WARMING, _MEASURED = 3, 8
_SECONDS_PER_RUN = 10.0
# The longest question of MUSIC-AVQA has 14 words; a video has up to six training questions, 3.45 on average.
_QUESTION_WORDS, _QUESTIONS = 14, 6


@dataclass(frozen=True, slots=True)
class StepCost:
    """What a training step costs.

    Attributes
    ----------
    milliseconds
        Median of a step, from handing over the batch in pinned memory to the end of the optimiser's step.
    allocated_gib, reserved_gib
        Peak of the memory that tensors held, and that torch's allocator held; None on the CPU.
    parameters
        Number of trained parameters.
    steps
        Number of steps measured.
    """

    milliseconds: float
    allocated_gib: float | None
    reserved_gib: float | None
    parameters: int
    steps: int


class _Clock:
    """Yields one batch again and again, and notes when the loop asks for the next."""

    def __init__(self, batch: Batch, steps: int, device: torch.device) -> None:
        self.batch, self.steps, self._device = batch, steps, device
        self.times: list[float] = []

    def batches(self) -> Iterator[Batch]:
        """Yield the batch once per step."""
        for _ in range(self.steps):
            wait_for(self._device)
            self.times.append(time.perf_counter())
            yield self.batch
        wait_for(self._device)
        self.times.append(time.perf_counter())


class _OneBatch:
    """The part of a task that gives one made-up batch over and over, and scores nothing."""

    select: str
    _clock: _Clock

    def steps_per_epoch(self) -> int:
        return self._clock.steps

    def batches(self, epoch: int, start_step: int) -> Iterator[Any]:
        return self._clock.batches()

    def evaluate(self, split: str) -> Evaluation:
        return Evaluation({self.select: 0.0})

    def splits(self) -> Sequence[str]:
        return ("none",)


class CoqoStep(_OneBatch, CoqoTask):
    """CoQo's own loss on one made-up batch; it reads no store.

    Parameters
    ----------
    config
        The settings.
    sizes
        Sizes of the model.
    batch
        The batch of every step.
    clock
        Yields it.
    """

    def __init__(self, config: CoqoConfig, sizes: Sizes, clock: _Clock) -> None:
        self.config, self.sizes, self._clock, self.select = config, sizes, clock, "overall"
        self.head = ClassHead(AnswerVocabulary.of("music_avqa", ()))
        torch.manual_seed(0)
        self.model = build_model(config, sizes)

    def describe(self) -> dict[str, Json]:
        return {"method": "coqo"}


class CraStep(_OneBatch, CraTask):
    """CRA's own loss on one made-up batch; it reads no store."""

    def __init__(self, config: CraConfig, model: nn.Module, clock: _Clock) -> None:
        self.config, self.model, self._clock = config, model, clock

    def describe(self) -> dict[str, Json]:
        return {"method": "cra"}


def run(setup: Setup, section: Section) -> None:
    """Measure each method with and without half precision, CoQo also with and without checkpointing."""
    for precision in ("bfloat16", "float32"):
        for checkpoint in (True, False):
            name = f"coqo_{precision}{'' if checkpoint else '_without_checkpointing'}"
            _measure(setup, section, name, lambda p=precision, c=checkpoint: coqo(setup, p, c))
    for precision in ("float32", "bfloat16"):
        _measure(setup, section, f"cra_{precision}", lambda p=precision: cra(setup, p))


def _measure(setup: Setup, section: Section, name: str, make: Any) -> None:
    if not setup.quick and not section.has_time(name, _SECONDS_PER_RUN):
        return
    with section.attempt(name):
        cost = step_cost(setup, *make())
        section.put(name, cost)
        memory = "" if cost.allocated_gib is None else f", {cost.allocated_gib:.2f} GiB of tensors at most"
        section.line(f"{name}: {cost.milliseconds:.1f} ms per step{memory}")


def step_cost(setup: Setup, task: CoqoStep | CraStep, loop: LoopConfig, clock: _Clock) -> StepCost:
    """Train for one epoch of ``clock.steps`` steps in the real loop, and take the median of those after warming up."""
    folder = setup.folder / "run"
    shutil.rmtree(folder, ignore_errors=True)
    if setup.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setup.device)
    train(task, loop, folder, Ranks(0, 1, setup.device), Progress(console=Console(quiet=True)))
    allocated = reserved = None
    if setup.on_gpu:
        allocated = torch.cuda.max_memory_allocated(setup.device) / 2**30
        reserved = torch.cuda.max_memory_reserved(setup.device) / 2**30
    shutil.rmtree(folder)
    apart = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
    measured = apart[min(_WARMING, len(apart) - 1) :]
    parameters = sum(part.numel() for part in task.model.parameters() if part.requires_grad)
    return StepCost(1000 * statistics.median(measured), allocated, reserved, parameters, len(measured))


def loop_settings(settings: LoopConfig, setup: Setup, precision: str) -> LoopConfig:
    """Return a method's own settings of the loop, for one epoch of few steps."""
    return settings.model_copy(
        update={"epochs": 1, "precision": precision, "device": setup.device.type, "tensorboard": False}
    )


def coqo(setup: Setup, precision: str, checkpoint: bool) -> tuple[CoqoStep, LoopConfig, _Clock]:
    """Make CoQo on Swin-B maps of 60 steps of 16 videos and their VGGish, or on tiny ones."""
    small = {"dim": 32, "question": {"embed": 16, "hidden": 16}, "qgt": {"heads": 4, "ffn": 48}}
    model = {"checkpoint": checkpoint, **(small if setup.quick else {})}
    config = CoqoConfig.model_validate({"model": model})
    videos, steps, step = (2, 4, (3, 3, 8)) if setup.quick else (config.data.batch_videos, 60, (7, 7, 1024))
    sizes = Sizes(len(PUBLISHED_WORDS) + 1, len(MUSIC_AVQA), (128,), step)
    batch = coqo_batch(videos, steps, sizes, pin=setup.on_gpu)
    clock = _Clock(batch, 2 if setup.quick else _WARMING + _MEASURED, setup.device)
    return CoqoStep(config, sizes, clock), loop_settings(config.loop, setup, precision), clock


def coqo_batch(videos: int, steps: int, sizes: Sizes, pin: bool = False, seed: int = 0) -> CoqoInputs:
    """Encode a made-up batch as the trainer does: maps in float16, sound in float32, one to six questions a video."""
    generator = torch.Generator().manual_seed(seed)

    def draw(among: Sequence[str], count: int) -> list[str]:
        return [among[index] for index in torch.randint(len(among), (count,), generator=generator).tolist()]

    def modality(step: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        values = torch.randn(videos, steps, *step, generator=generator).to(dtype)
        return values.pin_memory() if pin else values

    q_mask = torch.arange(_QUESTIONS) < torch.arange(videos)[:, None] % _QUESTIONS + 1
    asked = q_mask.tolist()
    every, times = torch.ones(videos, steps, dtype=torch.bool), torch.arange(steps, dtype=torch.float64) + 0.5
    batch = VideoBatch(
        video_ids=[str(video) for video in range(videos)],
        features={"audio": modality(sizes.audio, torch.float32), "visual": modality(sizes.visual, torch.float16)},
        valid=dict.fromkeys(("audio", "visual"), every),
        times=dict.fromkeys(("audio", "visual"), times.expand(videos, -1).contiguous()),
        question_ids=[[""] * _QUESTIONS] * videos,
        questions=[[" ".join(draw(PUBLISHED_WORDS, _QUESTION_WORDS)) if one else "" for one in row] for row in asked],
        answers=[[draw(MUSIC_AVQA, 1)[0] if one else None for one in row] for row in asked],
        types=[[""] * _QUESTIONS] * videos,
        modalities=[[None] * _QUESTIONS] * videos,
        answer_index=torch.full(q_mask.shape, -1),
        q_mask=q_mask,
    )
    return Encoder(Vocabulary.published(), AnswerVocabulary(MUSIC_AVQA)).videos(batch)


def cra(setup: Setup, precision: str) -> tuple[CraStep, LoopConfig, _Clock]:
    """Make CRA with the paper's settings and RoBERTa-base's shapes, or with tiny ones."""
    small = {"model": {"dim": 16, "heads": 2, "layers": 1}, "data": {"batch": 4}}
    config = CraConfig.model_validate(small if setup.quick else {})
    feature, clusters, embedding = (8, 4, 8) if setup.quick else (768, 512, 768)
    generator = torch.Generator().manual_seed(0)
    dictionaries = {
        "linguistic_dictionary": torch.randn(clusters, 8, embedding, generator=generator),
        "visual_dictionary": torch.randn(clusters, feature, generator=generator),
    }
    encoder, hidden, words, pad = roberta(setup.quick)
    torch.manual_seed(0)
    text = TokenText(Pretrained(encoder), hidden, config.model.dim, pad, "attention", config.text.mask_padding)
    model = cra_model.build_model(config.model, text, feature, dictionaries)
    batch = cra_batch(config, 32, feature, words, pad, pin=setup.on_gpu)
    clock = _Clock(batch, 2 if setup.quick else _WARMING + _MEASURED, setup.device)
    return CraStep(config, model, clock), loop_settings(config.loop, setup, precision), clock


def roberta(quick: bool) -> tuple[nn.Module, int, int, int]:
    """Make an untrained RoBERTa-base, or a tiny one; return it, its width, its number of words, its padding id."""
    from transformers import RobertaConfig, RobertaModel

    shape = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1)
    if quick:
        shape = RobertaConfig(
            vocab_size=40,
            max_position_embeddings=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            type_vocab_size=1,
            pad_token_id=1,
        )
    torch.manual_seed(0)
    return RobertaModel(shape, add_pooling_layer=False), int(shape.hidden_size), int(shape.vocab_size), 1


def cra_batch(config: CraConfig, frames: int, feature: int, words: int, pad: int, pin: bool = False) -> CraInputs:
    """Make a batch: five options and five questions for each of ``config.data.batch`` questions, at full length."""
    generator, batch = torch.Generator().manual_seed(0), config.data.batch

    def candidates(tokens: int) -> Choice:
        ids = torch.randint(pad + 1, words, (batch, 5, tokens), generator=generator)
        right = torch.randint(0, 5, (batch,), generator=generator)
        return Choice(ids, torch.ones(batch, 5, dtype=torch.bool), right)

    video: Tensor = torch.randn(batch, frames, feature, generator=generator)
    return CraInputs(
        video.pin_memory() if pin else video,
        torch.ones(batch, frames, dtype=torch.bool),
        candidates(config.text.option_tokens),
        candidates(config.text.question_tokens),
    )
