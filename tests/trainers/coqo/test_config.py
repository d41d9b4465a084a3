"""Settings: presets, defaults of the family, impossible combinations."""

from __future__ import annotations

from typing import Any

import pytest

import settings
from parsers.annotations import FORMATS
from trainers.config import PRESETS
from trainers.coqo.config import AnswerConfig, CoqoConfig
from trainers.coqo.model import Sizes
from trainers.coqo.task import build_model

NAMES = ("coqo", "coqo-single", "coqo-question", "coqo-audio", "coqo-visual", "coqo-small", "avst", "hcrn", "hcrn-qgt")


VIDEOQA = {
    "coqo-msvd": ("msvd_qa", {}),
    "coqo-msrvtt": ("msrvtt_qa", {"top": 4000}),
    "coqo-activitynet": ("activitynet_qa", {"minimum": 2}),
    "coqo-tgif": ("tgif_frameqa", {}),
    "coqo-tgif-action": ("tgif_action", {"head": "options", "loss": "hinge"}),
    "coqo-tgif-transition": ("tgif_transition", {"head": "options", "loss": "hinge"}),
    "coqo-tgif-count": ("tgif_count", {"head": "number", "rule": "hcrn"}),
}
"""Dataset of a preset, and its settings of the answer that are not the default ones."""


def preset(name: str, *overrides: str) -> CoqoConfig:
    raw, origin = settings.read(PRESETS, name, None, overrides)
    return settings.validate(CoqoConfig, raw, origin)


def parameters(config: CoqoConfig) -> int:
    network = build_model(config, Sizes(93, 42, (128,), (1024,) if config.data.pool else (7, 7, 1024)))
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_valid(name: str) -> None:
    assert preset(name).loop.epochs == (25 if name.startswith("hcrn") else 30)


@pytest.mark.parametrize("name", VIDEOQA)
@pytest.mark.parametrize("host", [(), ("model.method=hcrn", "model.hcrn.qgt=true"), ("model.method=hcrn",)])
def test_presets_of_videoqa_take_a_format_and_each_host(name: str, host: tuple[str, ...]) -> None:
    dataset, answer = VIDEOQA[name]
    chosen = preset(name, *host)
    assert dataset in FORMATS and chosen.dataset == dataset
    assert chosen.answer.model_dump() == {**AnswerConfig().model_dump(), **answer}
    assert chosen.features == (chosen.data.visual,)  # no sound


def test_the_baselines_have_the_values_of_their_published_trainers() -> None:
    """AVST: main_avst.py (no clipping, 14 words). HCRN: train.py and configs/msrvtt_qa.yml (halved every 10 epochs)."""
    avst = preset("avst")
    assert (avst.loop.clip_norm, avst.loop.lr, avst.loop.seed, avst.data.batch_questions) == (None, 1e-4, 1, 64)
    assert (avst.loop.schedule, avst.loop.decay_epochs, avst.loop.decay_factor) == ("staircase", 8, 0.1)
    assert (avst.model.question.padded_to, avst.model.dropout, avst.loss.match, avst.data.stride) == (14, 0.1, 0.5, 6)
    for name in ("hcrn", "hcrn-qgt"):
        loop, model = preset(name).loop, preset(name).model
        assert (loop.schedule, loop.decay_epochs, loop.decay_factor, loop.epochs) == ("staircase", 10, 0.5, 25)
        assert (loop.lr, loop.clip_norm, loop.seed, model.dim, model.dropout) == (1e-4, 12, 666, 512, 0.15)
        assert (model.question.embed, model.question.hidden, model.hcrn.question_dropout) == (300, 512, 0.18)
    assert (preset("hcrn").data.batch_questions, preset("hcrn").model.positions) == (32, "none")


def test_a_key_of_the_loop_keeps_the_familys_other_ones() -> None:
    """``docs/facts/coqo.md`` section 3.11: Adam, 1e-4, x0.1 every 8 epochs, 30 epochs, seed 1."""
    loop = preset("coqo", "loop.epochs=3").loop
    assert (loop.epochs, loop.lr, loop.schedule, loop.decay_epochs, loop.decay_factor, loop.seed) == (
        3,
        1e-4,
        "staircase",
        8,
        0.1,
        1,
    )
    assert loop.warmup_epochs == 0


def test_settings_survive_json() -> None:
    config = preset("coqo-small")
    assert CoqoConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("avst", "data.collective=true", "avst trains on single questions"),
        ("avst", "model.inputs=audio", "avst is defined for audio_visual only"),
        ("hcrn", "model.question.padded_to=14", "the encoder of hcrn ends at the last word"),
        ("hcrn", "model.question.hidden=255", "255 is odd; hcrn has two directions"),
        ("coqo", "model.qgt.heads=7", "7 does not divide model.dim 512"),
        ("coqo", "model.qgt.layer=3", "unknown key; did you mean 'layers'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(name: str, override: str, message: str) -> None:
    with pytest.raises(settings.SettingsError, match=message) as caught:
        preset(name, override)
    assert "\n" not in str(caught.value)


def test_avst_has_the_published_size() -> None:
    """``docs/facts/coqo.md`` section 4.2, layer by layer, at 512 wide maps (so no projection of ours)."""
    network = build_model(preset("avst"), Sizes(93, 42, (128,), (14, 14, 512)))

    def linear(a: int, b: int) -> int:
        return a * b + b

    lstm = 4 * 512 * 1024 + 2 * 4 * 512
    expected: dict[str, int] = {
        "question": 93 * 512 + lstm + linear(1024, 512),
        "audio": linear(128, 512) + linear(512, 512),
        "visual": 0,
        "spatial": linear(1024, 512),
        "match": linear(1024, 512) + linear(512, 256) + linear(256, 128) + linear(128, 2),
        "temporal_audio": 4 * linear(512, 512) + 2 * linear(512, 512) + 2 * 512,
        "temporal_visual": 4 * linear(512, 512) + 2 * linear(512, 512) + 2 * 512,
        "join": linear(1024, 512),
        "classifier": linear(512, 42),
    }
    counts: dict[str, Any] = {
        name: sum(parameter.numel() for parameter in part.parameters()) for name, part in network.named_children()
    }
    assert counts == expected


def test_hcrn_has_the_published_size() -> None:
    """The published network, layer by layer, but for one map of each relation unit that it never uses."""
    network = build_model(preset("hcrn"), Sizes(93, 42, (128,), (2048,)))
    d, width = 512, 2048

    def linear(a: int, b: int) -> int:
        return a * b + b

    def unit(objects: int, gated: bool) -> int:
        return (objects - 2) * (1 + gated) * linear(2 * d, d)

    units = unit(8, False) + unit(6, True) + unit(8, False) + unit(6, True)
    expected: dict[str, int] = {
        "question": 93 * 300 + 2 * (4 * 256 * (300 + 256) + 2 * 4 * 256),
        "project": linear(width, d),
        "hierarchy": units
        + (4 * d * (width + d) + 8 * d)
        + linear(width, d)
        + 2 * linear(d, d)
        + (2 * d * d + linear(2 * d, d) + linear(d, 1)),
        "asked": linear(d, d),
        "classifier": linear(2 * d, d) + 2 * d + linear(d, 42),
        "qgt": 0,
    }
    counts: dict[str, int] = {
        name: sum(parameter.numel() for parameter in part.parameters()) for name, part in network.named_children()
    }
    assert counts == expected


def test_the_ablation_without_collective_questions_has_the_same_parameters() -> None:
    assert parameters(preset("coqo")) == parameters(preset("coqo-single"))
