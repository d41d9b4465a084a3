"""The hf_audio extractor against transformers: its feature extractors, its models, what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from extractors import Extractor, ExtractorError, WeightsError, build, hf_audio_processor
from extractors.testing import check_extractor
from tests._helpers.hf_models import SOUNDS, save_model
from tests._helpers.sounds import real_windows

ROOT = Path(__file__).parents[2]
LIGHT = """
import sys
import numpy as np
from extractors import build
extractor = build("hf_audio", {"model": sys.argv[1]})
extractor.spec(), extractor.output(), extractor.prepare(np.zeros((1, extractor.window_samples), np.float32))
print([name for name in ("torch", "torchaudio", "transformers", "huggingface_hub") if name in sys.modules])
"""
PROCESSORS: dict[str, dict[str, Any]] = {
    "ast": {},
    "ast: not normalised": {"do_normalize": False, "max_length": 120},
    "ast: shorter than the window": {"max_length": 60, "num_mel_bins": 64, "mean": -3.5, "std": 2.0},
    "clap": {},
    "clap: not fused": {"truncation": "rand_trunc", "frequency_min": 50},
    "clap: zeros": {"padding": "pad", "truncation": "rand_trunc"},
    "clap: cut": {"padding": "repeat", "hop_length": 470, "max_length_s": 3},
    "clap: one second": {"max_length_s": 1, "fft_window_size": 512, "feature_size": 32},
    "clap: at 16 kHz": {"sampling_rate": 16_000, "frequency_max": 8_000, "truncation": "rand_trunc"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    return {name: save_model(root / name, name) for name in SOUNDS}


def hf_audio(folder: Path, **options: Any) -> Any:
    return build("hf_audio", {"model": str(folder), **options})


def features(extractor: Extractor, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(extractor.prepare(windows))


def edited(folder: Path, target: Path, **settings: Any) -> Path:
    """Copy a model with other settings of its feature extractor."""
    target.mkdir()
    for name in ("config.json", "model.safetensors"):
        (target / name).write_bytes((folder / name).read_bytes())
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (target / "preprocessor_config.json").write_text(json.dumps(content | settings))
    return target


def library(folder: Path, window: NDArray[np.float32], rate: int) -> dict[str, torch.Tensor]:
    """Prepare one window alone, as the library does."""
    processor: Any = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return dict(processor(window, sampling_rate=rate, return_tensors="pt"))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_frames_are_those_of_the_librarys_feature_extractor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numpy code, whether torchaudio is installed or not: silence, noise, a tone and real sound."""
    module = "transformers.models.audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer"
    monkeypatch.setattr(f"{module}.is_speech_available", lambda: False)
    cls: Any = transformers.ASTFeatureExtractor if name.startswith("ast") else transformers.ClapFeatureExtractor
    processor = cls(**PROCESSORS[name])
    front_end = hf_audio_processor.read(json.loads(processor.to_json_string()))
    windows = real_windows(front_end.rate)
    prepared = front_end(windows)
    assert prepared.shape == (len(windows), front_end.frames, front_end.bands) and prepared.dtype == np.float32
    fill = np.full((len(windows), 1, front_end.bands), front_end.fill, np.float32)
    whole = np.concatenate([prepared, fill], axis=1)[:, list(front_end.places)]
    for window, ours in zip(windows, whole, strict=True):
        made = processor(window, sampling_rate=front_end.rate, return_tensors="np")
        expected = made["input_values"][0] if name.startswith("ast") else made["input_features"][0, 0]
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_feature_extractors_have_the_defaults_of_their_classes() -> None:
    for name in ("ASTFeatureExtractor", "ClapFeatureExtractor"):
        cls: Any = getattr(transformers, name)
        written = json.loads(cls().to_json_string())
        assert hf_audio_processor.read({"feature_extractor_type": name}) == hf_audio_processor.read(written)


def test_what_is_repeated_or_padded_is_neither_computed_nor_sent_twice(folders: dict[str, Path]) -> None:
    published = hf_audio_processor.read({"feature_extractor_type": "ClapFeatureExtractor"})
    assert (published.frames, len(published.places)) == (104, 1001)
    published = hf_audio_processor.read({"feature_extractor_type": "ASTFeatureExtractor"})
    assert (published.frames, len(published.places)) == (98, 1024)
    assert hf_audio(folders["ast"]).prepared_shape() == (98, 32)


@pytest.mark.parametrize("name", SOUNDS)
def test_features_are_those_of_the_librarys_model(name: str, folders: dict[str, Path]) -> None:
    extractor = hf_audio(folders[name])
    extractor.check_weights()
    windows = real_windows(extractor.rate)
    model: Any = (
        transformers.ASTModel if name == "ast" else transformers.ClapAudioModelWithProjection
    ).from_pretrained(folders[name])
    expected, maps = [], []
    for window in windows:
        inputs = library(folders[name], window, extractor.rate)
        if "is_longer" in inputs:
            inputs["is_longer"] = torch.zeros_like(torch.as_tensor(inputs["is_longer"]))  # see the module
        inputs = {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
        with torch.inference_mode():
            output = model.eval()(**inputs)
        expected.append((output.pooler_output if name == "ast" else output.audio_embeds)[0].numpy())
        maps.append(output.last_hidden_state[0].numpy())
    actual = features(extractor, windows)
    assert actual.shape == (len(windows), *extractor.output().step_shape)
    np.testing.assert_allclose(actual, np.stack(expected), rtol=0, atol=2e-5)
    assert np.abs(actual[0] - actual[1]).max() > 1e-3, "different sounds differ"
    if name == "ast":
        mapped = features(hf_audio(folders[name], form="map"), windows)
        assert mapped.shape == (len(windows), 10, 2, 32)
        patches = np.stack(maps)[:, 2:].reshape(len(windows), 2, 12, 32)  # bands, then times
        np.testing.assert_allclose(mapped, patches.transpose(0, 2, 1, 3)[:, :10], rtol=0, atol=2e-5)
    else:
        with pytest.raises(ExtractorError, match="clap has no map of a window, which it repeats; set form=pooled"):
            hf_audio(folders[name], form="map")


def test_a_map_has_times_first_and_low_bands_first(folders: dict[str, Path]) -> None:
    extractor = hf_audio(folders["ast"], form="map")
    model = extractor.load("cpu", 1)
    for place in ((0, 0), (9, 0), (0, 1)):
        frames = np.full((2, 98, 32), -1.0, np.float32)
        time, band = min(place[0] * 10, 90), place[1] * 16
        frames[1, time : time + 8, band : band + 16] = np.random.default_rng(0).normal(0, 3, (8, 16))
        plain, changed = model.forward(frames)
        difference = np.linalg.norm(changed - plain, axis=2)
        assert np.unravel_index(difference.argmax(), difference.shape) == place


@pytest.mark.parametrize("name", SOUNDS)
def test_the_contract(name: str, folders: dict[str, Path]) -> None:
    check_extractor(hf_audio(folders[name]))


@pytest.mark.parametrize("name", SOUNDS)
def test_bfloat16_is_close(name: str, folders: dict[str, Path]) -> None:
    exact_tower = hf_audio(folders[name])
    windows = real_windows(exact_tower.rate)
    exact, half = (features(hf_audio(folders[name], compute_dtype=dtype), windows) for dtype in ("float32", "bfloat16"))
    cosine = (exact * half).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(half, axis=-1)
    assert np.abs(exact - half).max() > 0 and cosine.min() > 0.99


def test_planning_and_preparing_import_no_torch(folders: dict[str, Path]) -> None:
    for name in ("ast", "clap"):
        command = [sys.executable, "-c", LIGHT, str(folders[name])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_the_spec_holds_what_can_change_rows(folders: dict[str, Path], tmp_path: Path) -> None:
    extractor = hf_audio(folders["clap"])
    spec = extractor.spec()
    assert (spec["model"], spec["processor"], spec["layer"]) == ("clap", "ClapFeatureExtractor", "audio_embeds")
    assert (extractor.rate, extractor.window_samples) == (48_000, 48_000)
    assert spec["preprocessing"]["padding"] == "repeatpad" and spec["preprocessing"]["mel"] == "slaney"
    assert hf_audio(edited(folders["clap"], tmp_path / "copy")).spec() == spec, "a copy of the files is the same"
    assert hf_audio(edited(folders["clap"], tmp_path / "other", padding="pad")).spec() != spec
    random = hf_audio(folders["clap"], weights="random:3")
    assert random.random_weights and random.spec()["weights"] == {"random": 3}
    windows = real_windows(48_000)[:1]
    assert features(random, windows).tobytes() == features(random, windows).tobytes()


def test_a_repository_its_fetched_copy_and_a_folder_are_the_same(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--me--clap"
    (repository / "snapshots").mkdir(parents=True)
    edited(folders["clap"], repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    remote = build("hf_audio", {"model": "me/clap"})
    spec = hf_audio(folders["clap"]).spec()
    assert remote.spec() == spec
    fetched = remote.fetch(tmp_path / "weights")
    assert fetched is not None and (fetched.option, fetched.extractor) == ("model", "hf_audio")
    assert remote.verify(tmp_path / "weights") == fetched
    assert hf_audio(tmp_path / "weights" / fetched.file).spec() == spec


def changed(folder: Path, target: Path, **tensors: torch.Tensor | None) -> Path:
    """Copy a model with other tensors; None leaves one out."""
    edited(folder, target)
    state: dict[str, Any] = {**load_file(target / "model.safetensors"), **tensors}
    kept = {name: value for name, value in state.items() if value is not None}
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def test_a_classifier_and_a_text_tower_are_left_out_and_nothing_else(folders: dict[str, Path], tmp_path: Path) -> None:
    assert any(name.startswith("text_model.") for name in load_file(folders["clap"] / "model.safetensors"))
    windows = real_windows(16_000)[:2]
    expected = features(hf_audio(folders["ast"]), windows)
    model: Any = transformers.ASTForAudioClassification.from_pretrained(folders["ast"])
    edited(folders["ast"], tmp_path / "classifier")
    model.save_pretrained(tmp_path / "classifier")
    assert features(hf_audio(tmp_path / "classifier"), windows).tobytes() == expected.tobytes()
    sound: Any = transformers.ClapAudioModelWithProjection.from_pretrained(folders["clap"])
    edited(folders["clap"], tmp_path / "sound")
    sound.save_pretrained(tmp_path / "sound")
    alone = hf_audio(tmp_path / "sound")
    alone.check_weights()
    assert alone.output() == hf_audio(folders["clap"]).output()
    surplus = changed(folders["clap"], tmp_path / "surplus", **{"video_model.weight": torch.zeros(2)})
    with pytest.raises(WeightsError, match=r"as clap do not fit: 1 unexpected \(video_model.weight\)"):
        hf_audio(surplus).check_weights()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("ast", {"feature_extractor_type": "WhisperFeatureExtractor"}, r"WhisperFeatureExtractor, which is not supp"),
        ("ast", {"feature_extractor_type": None}, "names no feature_extractor_type; add that of the model"),
        (
            "ast",
            {"feature_extractor_type": "ClapFeatureExtractor", "sampling_rate": 48_000},
            "takes the input of ASTFeat",
        ),
        ("clap", {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16_000}, "input of ClapFeatureExt"),
        ("ast", {"sampling_rate": 22_050}, "has sampling_rate=22050; AST's frames are defined for 16000 only"),
        ("ast", {"max_length": 512}, "takes 128 frames, but its feature extractor makes 512"),
        ("ast", {"num_mel_bins": 64}, "takes 32 mel bands, but its feature extractor makes 64"),
        ("ast", {"std": 0}, "has std=0.0, which must be positive"),
        ("ast", {"mean": "loud"}, "has mean='loud'; a number is needed"),
        ("clap", {"truncation": "fusion"}, "has enable_fusion=False; its feature extractor must have truncation=rand"),
        ("clap_fused", {"truncation": "rand_trunc"}, "enable_fusion=True; .* must have truncation=fusion"),
        ("clap", {"truncation": "middle"}, "has truncation='middle'"),
        ("clap", {"padding": "mirror"}, "has padding='mirror'"),
        ("clap", {"padding_value": 1.0}, "has padding_value=1.0"),
        ("clap", {"max_length_s": 10}, "takes 256 frames at most, but its feature extractor makes 1001"),
        ("clap", {"max_length_s": 0}, "has max_length_s=0; a positive whole number"),
        ("clap", {"feature_size": 64}, "takes 16 mel bands, but its feature extractor makes 64"),
        ("clap", {"sampling_rate": 16_000}, "has bands from 50 to 14000 Hz, which sound of sampling_rate=16000"),
    ],
)
def test_a_feature_extractor_that_does_not_suit_is_one_line(
    name: str, settings: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExtractorError, match=f"^hf_audio: .*{message}") as caught:
        hf_audio(edited(folders[name], tmp_path / "edited", **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "somewhere/model.safetensors"}, "the folder goes into model"),
        ({"form": "cls"}, "option 'form': .*got 'cls'"),
        ({"weights": "random:0", "sha256": "0" * 64}, "random weights have none"),
        ({"rate": 16_000}, "unknown option 'rate'"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ExtractorError, match=f"^hf_audio: .*{message}") as caught:
        hf_audio(folders["ast"], **options)
    assert "\n" not in str(caught.value)


def test_a_model_of_images_is_one_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    folder = edited(folders["ast"], tmp_path / "odd")
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ExtractorError, match=r"vit is no model of sound that is known \(available: audio-spectro"):
        hf_audio(folder)
    with pytest.raises(WeightsError, match=re.escape(f"{tmp_path}: no preprocessor_config.json; it must hold")):
        hf_audio(tmp_path)
    with pytest.raises(ExtractorError, match="audio-spectrogram-transformer is no model of images"):
        save_model(tmp_path / "vit", "vit")
        (tmp_path / "vit" / "config.json").write_bytes((folders["ast"] / "config.json").read_bytes())
        build("hf", {"model": str(tmp_path / "vit")})


def test_published_sizes_give_published_shapes() -> None:
    """The defaults of the library's configurations are those of the published base models."""
    from extractors.hf_audio_tower import AudioTower, HfAudioNetwork

    for cls, config, kind, shape, parameters in (
        (transformers.ASTModel, transformers.ASTConfig(), "ASTFeatureExtractor", (1, 10, 12, 768), 86.2),
        (
            transformers.ClapAudioModelWithProjection,
            transformers.ClapAudioConfig(),
            "ClapFeatureExtractor",
            (1, 512),
            28.2,
        ),
    ):
        front_end = hf_audio_processor.read({"feature_extractor_type": kind})
        form: Any = "map" if kind.startswith("AST") else "pooled"
        with torch.device("meta"):
            model: Any = cls(config).eval()
        network = HfAudioNetwork(Path(), None, form, front_end.places, front_end.fill, front_end.frames)
        tower = AudioTower(model, network).to("meta")
        with torch.inference_mode():
            output = tower(torch.empty(1, front_end.frames, front_end.bands, device="meta"))
        assert output.shape == shape
        count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        assert count == pytest.approx(parameters, abs=0.1)
