"""Presets, files and overrides: what is wrong is named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.extract.config import PRESETS, load_config, preset_names
from pipeline.extract.features import ready_features
from pipeline.shared.errors import ConfigError


@pytest.mark.usefixtures("preset_files")
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_has_a_stable_spec(name: str) -> None:
    first, second = (tuple(ready_features(load_config(name)).values()) for _ in range(2))
    assert [feature.spec_digest for feature in first] == [feature.spec_digest for feature in second]
    assert all(feature.row_bytes is not None and feature.row_bytes > 0 for feature in first)


def test_published_clip_rows_have_the_published_size() -> None:
    """32 x 768 float16, as the published NExT-GQA features have."""
    (feature,) = ready_features(load_config("cra-nextgqa")).values()
    assert feature.extractor.output().step_shape == (768,)
    assert feature.row_bytes == 49_152


@pytest.mark.parametrize(
    ("preset", "side", "row_bytes"), [("coqo-clip", 16, 31_457_280), ("coqo-clip-336", 24, 70_778_880)]
)
def test_clip_has_maps_for_the_spatial_stage(preset: str, side: int, row_bytes: int) -> None:
    features = ready_features(load_config(preset))
    assert features["clip_map"].extractor.output().step_shape == (side, side, 1024)
    assert features["clip_map"].row_bytes == row_bytes
    comment = (PRESETS / f"{preset}.yaml").read_text()
    assert f"{sum(feature.row_bytes or 0 for feature in features.values()):,} bytes per video" in comment


@pytest.mark.usefixtures("preset_files")
@pytest.mark.parametrize(
    ("preset", "width", "rate"), [("coqo-ast", 768, 16_000), ("coqo-clap", 512, 48_000), ("coqo-beats", 768, 16_000)]
)
def test_presets_of_sound_have_the_seconds_of_the_others(preset: str, width: int, rate: int) -> None:
    ((name, feature),) = ready_features(load_config(preset)).items()
    assert preset == f"coqo-{name}"
    assert feature.extractor.output().step_shape == (width,)
    assert feature.extractor.rate == feature.extractor.window_samples == rate
    other = ready_features(load_config("coqo-clip"))["vggish"]
    assert feature.policy == other.policy
    assert feature.config.micro_batch is not None and 60 % feature.config.micro_batch == 0
    comment = " ".join((PRESETS / f"{preset}.yaml").read_text().replace("#", " ").split())
    assert f"{feature.row_bytes:,} bytes per video" in comment
    assert f"--set data.audio={name}." in comment


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features.clip.sampling.n=0", "features.clip.sampling"),
        ("features.clip.sampling.policy=unifrom", "unifrom"),
        ("features.clip.modell=x", "modell"),
        ("features.clip.dtype=float8", "features.clip.dtype"),
        ("features.clip.micro_batch=zero", "features.clip.micro_batch"),
        ("features.clip.extractor=clap", "clap"),
        ("media.deadline=3", "did you mean 'deadline_s'"),
        ("run.shard_mb=-1", "run.shard_mb"),
        ("sauce.key=stem", "sauce"),
        ("features={}", "features"),
        ("features.clip", "must look like a.b=c"),
        ("features..x=1", "must look like a.b=c"),
        ("features.clip.extractor.x=1", "is a value, not a section"),
        ("media.backend={", "not valid YAML"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cra-star'"):
        load_config("cra-stra")


def test_a_key_given_twice_is_an_error_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("features:\n  a: {extractor: rgb_grid, sampling: {policy: uniform}}\nfeatures: {}\n")
    with pytest.raises(ConfigError, match=r"line 3: key 'features' is given twice \(first in line 1\)"):
        load_config(file=file)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "features:\n\t- x"])
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file=file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_change_the_spec_only_where_rows_change() -> None:
    """Limits and sizes of shards are not part of a spec; sampling, dtype and epoch are."""
    plain = next(iter(ready_features(load_config("demo")).values())).spec_digest

    def digest(*overrides: str) -> str:
        return next(iter(ready_features(load_config("demo", overrides=overrides)).values())).spec_digest

    assert digest("media.max_pixels=1000", "run.shard_mb=1", "features.clip.micro_batch=8") == plain
    different = {
        digest("features.clip.sampling.n=16"),
        digest("features.clip.dtype=float32"),
        digest("features.clip.epoch=1"),
        digest("features.clip.weights=random:1"),
        digest("features.clip.crop=squash"),
    }
    assert plain not in different
    assert len(different) == 5
