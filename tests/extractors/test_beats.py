"""The extractor ``beats``: its energies, its network against independent references, what it leaves out and refuses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from extractors import Extractor, ExtractorError, WeightsError, beats_models, build
from extractors.beats import FBANK
from extractors.beats_models import BACKBONES
from extractors.beats_tower import BeatsEncoder, distance_rows, from_checkpoint
from extractors.mel import Fbank
from extractors.testing import check_extractor
from tests._helpers.beats_files import TINY, cfg_of, published_state, reference
from tests._helpers.sounds import real_windows


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let there be a size ``tiny``."""
    monkeypatch.setitem(beats_models.BACKBONES, "tiny", TINY)
    yield


def beats(weights: object, **options: Any) -> Any:
    return build("beats", {"model": "tiny", "weights": str(weights), **options})


def saved(path: Path, state: dict[str, torch.Tensor] | None = None, **beside: Any) -> Path:
    """Write a checkpoint as published: ``{cfg, model}``, and what is given."""
    torch.save({"cfg": cfg_of(TINY), "model": published_state() if state is None else state, **beside}, path)
    return path


def features(extractor: Extractor, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(extractor.prepare(windows))


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("fbank", [FBANK, Fbank(64, "hann", 1.0, -4.2677393, 4.5689974)], ids=["beats", "ast"])
def test_energies_are_those_of_transformers_numpy_code(fbank: Fbank) -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(257, fbank.bands, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    window = window_function(400, fbank.window, periodic=False)
    windows = real_windows(16_000)
    for samples, ours in zip(windows, fbank(windows), strict=True):
        energies = spectrogram(
            samples * fbank.gain,
            window,
            400,
            160,
            fft_length=512,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=filters,
            mel_floor=2.0**-23,
            log_mel="log",
            remove_dc_offset=True,
        ).T
        np.testing.assert_allclose(ours, (energies - fbank.mean) / (2 * fbank.std), rtol=0, atol=1e-5)


def test_energies_are_torchaudios() -> None:
    """In double precision. In single precision, its bands far below a loud tone are rounding errors."""
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    windows = real_windows(16_000)
    for samples, ours in zip(windows, FBANK(windows), strict=True):
        theirs = kaldi.fbank(
            torch.from_numpy(samples)[None].double() * 2**15,
            num_mel_bins=128,
            sample_frequency=16_000,
            frame_length=25,
            frame_shift=10,
        )
        np.testing.assert_allclose(ours, ((theirs - 15.41663) / (2 * 6.55582)).numpy(), rtol=0, atol=1e-5)


def test_energies_of_silence_are_the_floor_and_of_a_constant_too() -> None:
    silent, constant = FBANK(np.stack([np.zeros(16_000), np.full(16_000, 0.25)]).astype(np.float32))
    floor = (np.log(2.0**-23) - 15.41663) / (2 * 6.55582)
    np.testing.assert_array_equal(silent, np.full((98, 128), floor))
    np.testing.assert_allclose(constant, floor, rtol=0, atol=1e-12)


def test_the_network_is_its_formulas() -> None:
    state = published_state()
    encoder = from_checkpoint(state, {"cfg": cfg_of(TINY)}, TINY, "file").eval()
    energies = np.random.default_rng(0).normal(0, 1, (2, 98, 64)).astype(np.float32)
    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(energies))
    assert tokens.shape == (2, 6, 4, 48)
    for window, ours in zip(energies, tokens, strict=True):
        expected = reference(state, window)
        np.testing.assert_allclose(ours.flatten(0, 1).numpy(), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.3, "the comparison is one of numbers that differ"


def test_the_network_is_that_of_a_package() -> None:
    """OpenBEATs' encoder is the published one, adapted for ESPnet."""
    package = pytest.importorskip("openbeats.beats_encoder")
    state = published_state()
    theirs: Any = package.BeatsEncoder(input_size=1, beats_config=cfg_of(TINY)).eval()
    own = {name: value for name, value in state.items() if name in theirs.state_dict()}
    assert set(own) == set(state)
    theirs.load_state_dict(own, strict=False)
    energies = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 96, 128)).astype(np.float32))
    lengths = torch.tensor([96, 96])
    with torch.inference_mode():
        # It normalises energies itself.
        raw = energies * (2 * theirs.fbank_std) + theirs.fbank_mean
        expected, _, _ = theirs(raw, lengths, waveform_input=False)
        ours = from_checkpoint(state, {"cfg": cfg_of(TINY)}, TINY, "file").eval()(energies)
    np.testing.assert_allclose(ours.flatten(1, 2).numpy(), expected.numpy(), rtol=0, atol=2e-5)


def test_distances_share_rows_from_far_on() -> None:
    rows = distance_rows(1000, 320, 800)
    assert rows[0, 0] == 0 and rows[5, 4] == 1 and rows[4, 5] == 161
    assert rows[79, 0] == 79 and rows[80, 0] == 80 and rows[83, 0] < 83
    assert rows[800:, 0].unique().tolist() == [159] and rows[0, 800:].unique().tolist() == [319]
    before = rows[:, 0]
    assert (before[1:] >= before[:-1]).all() and before.max() == 159
    assert torch.equal(distance_rows(48, 320, 800), rows[:48, :48])
    assert len(rows[:48, :48].unique()) == 95, "48 tokens of a window have a row for every distance"


def test_published_sizes() -> None:
    """Of BEATs (ICML 2023), table 1: 90 M parameters; the names are those of the published checkpoint."""
    state = published_state(BACKBONES["base"])
    learnt = {name: value for name, value in state.items() if "layers.0." in name or "relative" not in name}
    assert sum(value.numel() for value in learnt.values()) == 90_311_792
    with torch.device("meta"):
        encoder = BeatsEncoder(BACKBONES["base"])
    # The norm of the kernel, a number per place, is in the kernel.
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 90_311_792 - 128
    base = build("beats", {"weights": "random:0", "form": "map"})
    assert base.prepared_shape() == (96, 128) and base.output().step_shape == (6, 8, 768)


def test_rows_are_the_networks_tokens(tmp_path: Path) -> None:
    file = saved(tmp_path / "BEATs.pt")
    windows = real_windows(16_000)[:3]
    mapped = features(beats(file, form="map"), windows)
    for window, ours in zip(windows, mapped, strict=True):
        expected = reference(published_state(), FBANK(window[None])[0, :96].astype(np.float32))
        np.testing.assert_allclose(ours.reshape(48, 48), expected, rtol=0, atol=5e-5)
    pooled = features(beats(file), windows)
    np.testing.assert_allclose(pooled, mapped.mean((1, 2)), rtol=0, atol=1e-6)


def test_the_contract(tmp_path: Path) -> None:
    check_extractor(build("beats", {"weights": "random:0", "form": "map"}))


def test_bfloat16_is_close(tmp_path: Path) -> None:
    file = saved(tmp_path / "BEATs.pt")
    windows = real_windows(16_000)
    exact, half = (features(beats(file, compute_dtype=dtype), windows) for dtype in ("float32", "bfloat16"))
    cosine = (exact * half).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(half, axis=-1)
    assert np.abs(exact - half).max() > 0 and cosine.min() > 0.995


def test_files_of_one_encoder_give_one_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fine-tuned, saved by torch's newer weight norm, without copies of the shared table, without a cfg."""
    windows = real_windows(16_000)[:2]
    expected = features(beats(saved(tmp_path / "plain.pt")), windows)
    state = published_state()
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in state.items()
    }
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv1d(48, 48, 8, groups=4), dim=2)
    assert {f"encoder.pos_conv.0.{name}" for name in convolution.state_dict()} <= set(newer)
    shared = {name: value for name, value in state.items() if "layers.0." in name or "relative" not in name}
    save_file(shared, tmp_path / "shared.safetensors")
    tuned = {**cfg_of(TINY), "finetuned_model": True, "predictor_class": 5, "predictor_dropout": 0.1}
    files = [
        saved(tmp_path / "newer.pt", newer),
        tmp_path / "shared.safetensors",
        saved(tmp_path / "tuned.pt", published_state(classes=5), cfg=tuned, label_dict={0: "/m/09x0r"}),
    ]
    with caplog.at_level(logging.INFO, "reelstore.extractors.beats"):
        for file in files:
            beats(file).check_weights()
            assert features(beats(file), windows).tobytes() == expected.tobytes(), file
    assert caplog.messages[-1] == (
        f"weights file {tmp_path / 'tuned.pt'} as beats_tiny: left out predictor (2 tensors: classifies)"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"encoder_layers": 24, "encoder_embed_dim": 64},
            "encoder_embed_dim=64 instead of 48, encoder_layers=24 instead",
        ),
        ({"deep_norm": False}, "deep_norm=False instead of True"),
        ({"layer_norm_first": True, "deep_norm": False}, "deep_norm=False instead of True, layer_norm_first=True"),
        ({"max_distance": 1280}, "max_distance=1280 instead of 20"),
        ({"activation_fn": "relu"}, "activation_fn='relu' instead of 'gelu'"),
        ({"decoder_layers": 3}, "its cfg has decoder_layers"),
    ],
)
def test_a_cfg_of_another_encoder_is_one_line(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "other.pt", cfg=cfg_of(TINY, **changed))
    for refuse in (beats(file).check_weights, lambda: beats(file).load("cpu", 1)):
        with pytest.raises(WeightsError, match=f"weights file {file} as beats_tiny .*{message}") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_a_cfg_that_leaves_something_out_has_the_published_default(tmp_path: Path) -> None:
    cfg = cfg_of(TINY)
    del cfg["deep_norm"], cfg["activation_fn"]
    with pytest.raises(WeightsError, match=r"its cfg has deep_norm=False instead of True$"):
        beats(saved(tmp_path / "short.pt", cfg=cfg)).check_weights()
    with pytest.raises(WeightsError, match="its cfg is str, not a dict"):
        beats(saved(tmp_path / "text.pt", cfg="base")).check_weights()


def test_another_table_in_a_later_layer_is_one_line(tmp_path: Path) -> None:
    name = "encoder.layers.2.self_attn.relative_attention_bias.weight"
    state = published_state()
    state[name] = state[name] + 1
    with pytest.raises(WeightsError, match=f"{name} is not that of the first layer, which all share"):
        beats(saved(tmp_path / "tables.pt", state)).load("cpu", 1)


def test_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    state = {**published_state(), "quantize.embedding.weight": torch.zeros(4, 4)}
    with pytest.raises(WeightsError, match="it is a tokenizer of BEATs, not a model"):
        beats(saved(tmp_path / "tokenizer.pt", state)).check_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "option 'weights': field required"),
        ({"weights": "iter3"}, "beats_base has no tags: download its file and set weights to the path"),
        ({"weights": "random:0", "model": "large"}, r"BEATs has no size 'large'.*\(available: base"),
        ({"weights": "random:0", "form": "cls"}, "option 'form': .*got 'cls'"),
        ({"weights": "random:0", "rate": 8000}, "unknown option 'rate'"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtractorError, match=f"(?i)^beats: .*{message}") as caught:
        build("beats", options)
    assert "\n" not in str(caught.value)


def test_the_spec_holds_what_can_change_rows(tmp_path: Path) -> None:
    file = saved(tmp_path / "BEATs.pt")
    spec = beats(file).spec()
    assert spec["preprocessing"]["gain"] == 32_768 and spec["preprocessing"]["patch_frames"] == 96
    assert beats(file, form="map").spec() == {**spec, "form": "map"}
    assert len(spec["weights"]["sha256"]) == 64
    with pytest.raises(WeightsError, match="is pinned"):
        beats(file, sha256="0" * 64).spec()
