"""Towers of sound at different rates on one grid: the same steps, masks and states, whatever is extracted with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extractors import build
from pipeline.media import AudioRequest, DecodeRequest, decode
from pipeline.media.types import Audio
from stores import Store
from tests._helpers import films
from tests._helpers.hf_models import save_model
from tests._helpers.runs import digests, extract, rgb_config

STEPS = "sampling: {policy: segments, t: 3}, micro_batch: 3, dtype: float32"
TOWERS = {
    "bands": "extractor: logmel_bands",
    "vggish": "extractor: vggish, weights: 'random:0'",
    "ast": "extractor: hf_audio, model: {ast}",
    "patches": "extractor: hf_audio, model: {ast}, form: map",
    "clap": "extractor: hf_audio, model: {clap}",
    "beats": "extractor: beats, weights: 'random:0'",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sound")
    return {name: save_model(root / name, name) for name in ("ast", "clap")}


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Films with sound, with sound from the second second on, short, silent and without a track."""
    folder = tmp_path / "films"
    folder.mkdir()
    films.film(folder / "loud.mp4", 3.0)
    films.film(folder / "late.mkv", 3.0, sound_from=1.2)
    films.film(folder / "short.mp4", 1.2)
    films.film(folder / "mute.mp4", 3.0, audio=None)
    monkeypatch.setattr(films, "TONE", 0.0)
    films.film(folder / "still.mkv", 3.0, audio="pcm_s16le")
    return folder


def config_text(models: dict[str, Path], *names: str) -> str:
    lines = [f"  {name}: {{{TOWERS[name].format(**models)}, {STEPS}}}" for name in names]
    return "\n".join(["features:", *lines, "run: {model_threads: 1}"])


def test_every_tower_of_sound_has_the_steps_masks_and_states_of_the_others(
    videos: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    result = extract(videos, store, rgb_config(tmp_path, text=config_text(models, *TOWERS)))
    assert result.exit_code == 0, result.summary["failures"]
    with Store.open(store) as opened:
        for key in ("loud", "late", "short", "mute", "still"):
            for name in TOWERS:
                np.testing.assert_array_equal(opened.valid(name, key), opened.valid("bands", key))
                np.testing.assert_array_equal(opened.times(name, key), opened.times("bands", key))
                states = [opened.media(feature, key)["audio_state"] for feature in (name, "bands")]
                assert states[0] == states[1], (name, key)
        assert opened.valid("clap", "loud").tolist() == [True, True, True]
        assert opened.valid("clap", "late").tolist() == [False, True, True]
        assert opened.valid("clap", "short").tolist() == [True, False, False]
        assert opened.valid("clap", "mute").tolist() == [False, False, False]
        assert opened.valid("clap", "still").tolist() == [True, True, True]
        told = [opened.media("clap", key)["audio_state"] for key in ("loud", "late", "short", "mute", "still")]
        assert told == ["present", "present", "present", "absent", "silent"]
        assert opened.row("patches", "loud").shape == (3, 10, 2, 32)
        # What is stored is what the tower makes of the sound at its own rate.
        for name in ("clap", "ast"):
            extractor = build("hf_audio", {"model": str(models[name])})
            request = DecodeRequest(str(videos / "loud.mp4"), (), AudioRequest((extractor.rate,)))
            sound = list(decode(request))[-1]
            assert isinstance(sound, Audio)
            windows = sound.samples[: 3 * extractor.rate].reshape(3, extractor.rate)
            expected = extractor.load("cpu", 1).forward(extractor.prepare(windows))
            np.testing.assert_allclose(opened.row(name, "loud"), expected, rtol=0, atol=1e-5)


def test_rows_do_not_depend_on_the_rates_beside_them(videos: Path, models: dict[str, Path], tmp_path: Path) -> None:
    together = tmp_path / "together"
    names = ("ast", "bands", "clap")
    extract(videos, together, rgb_config(tmp_path, text=config_text(models, *names)))
    for name in names:
        alone = tmp_path / name
        assert extract(videos, alone, rgb_config(tmp_path, text=config_text(models, name))).exit_code == 0
        assert digests(alone, name) == digests(together, name)


def test_towers_of_equal_preparation_prepare_once(
    videos: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extractors.hf_audio import HfAudio

    prepared = []
    prepare = HfAudio.prepare

    def counted(self: HfAudio, frames: np.ndarray) -> np.ndarray:
        prepared.append(self.form)
        return prepare(self, frames)

    monkeypatch.setattr(HfAudio, "prepare", counted)
    text = config_text(models, "ast", "patches")
    extract(videos, tmp_path / "store", rgb_config(tmp_path, text=text), only=frozenset({"loud", "late"}))
    assert len(prepared) == 2
