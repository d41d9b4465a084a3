"""Tags and files: equal numbers for equal weights, and no weights but the ones meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from extractors import Extractor, WeightsError, build, tensors, weights

if TYPE_CHECKING:
    from tests.extractors.conftest import Tiny

ROOT = Path(__file__).parents[2]


def tiny_clip(source: object, **options: object) -> Extractor:
    return build("clip", {"model": "tiny", "weights": str(source), **options})


def features(extractor: Extractor, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    return extractor.load("cpu", 1).forward(extractor.prepare(frames))


def test_a_tag_and_files_of_the_same_weights_give_equal_outputs(
    tiny: Tiny, tmp_path: Path, frames: NDArray[np.uint8]
) -> None:
    by_tag = features(tiny_clip("openai"), frames)
    torch.save({"state_dict": {f"module.{k}": v for k, v in tiny.state.items()}, "epoch": 3}, tmp_path / "train.pth")
    assert tiny_clip("openai").fetch(tmp_path / "fetched") is not None
    same = [
        tiny_clip(tmp_path / "fetched" / "tiny-openai.safetensors"),
        tiny_clip(tiny.openai_file),
        tiny_clip(tiny.hub_file, activation="quick_gelu"),
        tiny_clip(tmp_path / "train.pth", activation="quick_gelu"),
    ]
    for extractor in same:
        assert features(extractor, frames).tobytes() == by_tag.tobytes(), extractor.weights  # type: ignore[attr-defined]  # every extractor here has weights
        assert extractor.spec()["activation"] == "quick_gelu"
    plain = tiny_clip(tiny.hub_file)
    assert plain.spec()["activation"] == "gelu"
    assert np.abs(features(plain, frames) - by_tag).max() > 1e-4


def test_a_fetched_file_carries_the_preprocessing_of_its_tag(tiny: Tiny, tmp_path: Path) -> None:
    tag = tiny_clip("squashed")
    assert tag.fetch(tmp_path) is not None
    file = tiny_clip(tmp_path / "tiny-squashed.safetensors")
    assert file.spec()["preprocessing"] == tag.spec()["preprocessing"]
    assert file.spec()["activation"] == tag.spec()["activation"] == "gelu"


def test_a_pinned_tag_and_its_file_are_one_spec(tiny: Tiny) -> None:
    sha256 = weights.digest(tiny.hub_file)
    tag = tiny_clip("openai", sha256=sha256)
    file = tiny_clip(tiny.hub_file, activation="quick_gelu")
    assert tag.spec() == file.spec()
    assert tag.load("cpu", 1).numerics()["weights_sha256"] == sha256


def test_other_bytes_than_pinned_are_refused(tiny: Tiny) -> None:
    for source in ("openai", tiny.hub_file):
        with pytest.raises(WeightsError, match=r"but 0000.* is pinned"):
            tiny_clip(source, sha256="0" * 64).load("cpu", 1)
    with pytest.raises(WeightsError, match="is pinned"):
        tiny_clip(tiny.hub_file, sha256="0" * 64).spec()


def test_a_digest_follows_the_file(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(b"one")
    first = weights.digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert weights.digest(path) != first


def test_what_does_not_fit_is_listed(tiny: Tiny, tmp_path: Path) -> None:
    state = dict(tiny.state)
    state["visual.extra"] = torch.zeros(1)
    state["visual.proj"] = torch.zeros(64, 17)
    del state["visual.ln_post.weight"]
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError) as caught:
        tiny_clip(tmp_path / "odd.safetensors").load("cpu", 1)
    message = str(caught.value)
    assert "1 missing (visual.ln_post.weight)" in message
    assert "1 unexpected (visual.extra)" in message
    assert "1 of another shape (visual.proj [64, 17] instead of [64, 16])" in message
    assert "\n" not in message


def test_position_embeddings_of_another_size_are_interpolated_only_when_asked(
    tiny: Tiny, tmp_path: Path, frames: NDArray[np.uint8]
) -> None:
    larger = dict(tiny.state)
    larger["visual.positional_embedding"] = torch.zeros(17, 64)
    save_file(larger, tmp_path / "larger.safetensors")
    with pytest.raises(WeightsError, match=r"positional_embedding \[17, 64\] instead of \[5, 64\]"):
        tiny_clip(tmp_path / "larger.safetensors").load("cpu", 1)
    resized = tiny_clip("openai", image_size=64, tokens="patch")
    assert resized.spec()["position_embedding"] == "interpolated"
    assert features(resized, frames).shape == (len(frames), 17, 64)


def test_a_file_of_another_model_is_named(tiny: Tiny, tmp_path: Path) -> None:
    carried = {"reelstore": json.dumps({"model": "ViT-B-32"})}
    save_file(tiny.state, tmp_path / "b32.safetensors", metadata=carried)
    with pytest.raises(WeightsError, match="holds ViT-B-32, not tiny"):
        tiny_clip(tmp_path / "b32.safetensors").spec()


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.pt", "empty.safetensors", "empty.pt"])
def test_a_damaged_file_is_a_weights_error(tiny: Tiny, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"" if name.startswith("empty") else b"\x05\0\0\0\0\0\0\0this is no weights file")
    with pytest.raises(WeightsError, match=name) as caught:
        tiny_clip(path).load("cpu", 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "tensors.safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_cuts_and_flipped_bits_are_weights_errors_or_harmless(name: str, tmp_path: Path) -> None:
    state = {f"layer{index}.weight": torch.ones(4, 4) for index in range(3)}
    if name.endswith(".safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=name != "old.pth")
    intact = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(intact[: generator.integers(1, 2 * len(intact))])
        for at in generator.integers(0, len(damaged), 2):
            damaged[at] ^= 1 << int(generator.integers(0, 8))
        (tmp_path / name).write_bytes(damaged)
        try:
            tensors.read_state_dict(tmp_path / name)
        except WeightsError as error:
            assert str(tmp_path / name) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 50


def test_files_that_run_code_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    torch.save({"visual.proj": Path("x")}, tmp_path / "pickle.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        tiny_clip(tmp_path / "pickle.pt").load("cpu", 1)
    archive = tmp_path / "unknown.pt"
    torch.jit.script(torch.nn.Identity()).save(str(archive))
    with pytest.raises(WeightsError, match="TorchScript archive, which runs code"):
        tiny_clip(archive).load("cpu", 1)


def test_missing_weights_are_never_replaced(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.safetensors: No such file"):
        tiny_clip(tmp_path / "nowhere.safetensors").spec()

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("settings.network.socket.create_connection", unreachable)
    monkeypatch.setattr("settings.network.getproxies", dict)
    with pytest.raises(WeightsError, match=r"tiny 'absent' cannot be downloaded \(.*unreachable\).*weights.py fetch"):
        tiny_clip("absent").load("cpu", 1)


def test_fetch_lists_what_it_wrote_and_verify_finds_a_flipped_bit(tiny: Tiny, tmp_path: Path) -> None:
    extractor = tiny_clip("openai")
    with pytest.raises(WeightsError, match="fetch them first"):
        extractor.verify(tmp_path)
    written = extractor.fetch(tmp_path)
    tiny_clip("squashed").fetch(tmp_path)
    assert written is not None
    assert written.source_sha256 == weights.digest(tiny.hub_file)
    listed = json.loads((tmp_path / "weights.json").read_text())["files"]
    assert [entry["tag"] for entry in listed] == ["openai", "squashed"]
    assert set(load_file(tmp_path / written.file)) == set(tiny.state)
    assert extractor.verify(tmp_path) == written
    path = tmp_path / written.file
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match="is pinned"):
        extractor.verify(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [("[1", "Invalid JSON"), ("{}", "files Field required"), ('{"files": [{"file": "a"}]}', "files.0.sha256 Field")],
)
def test_a_damaged_index_is_one_line(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / tensors.INDEX_NAME).write_text(content)
    with pytest.raises(WeightsError, match=f"weights.json is not an index of weights: .*{problem}") as caught:
        tensors.read_index(tmp_path)
    assert "\n" not in str(caught.value)


def test_random_weights_and_files_need_no_fetching(tiny: Tiny, tmp_path: Path) -> None:
    for extractor in (tiny_clip("random:0"), tiny_clip(tiny.hub_file), build("rgb_grid", {})):
        assert extractor.fetch(tmp_path / "none") is None
        assert extractor.verify(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fetch", "demo"], 0, "nothing to fetch"),
        (["verify", "cra-nextgqa"], 2, "fetch them first"),
        (["fetch", "no-such-preset"], 2, "no-such-preset"),
    ],
)
def test_the_job_says_it_in_one_line(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "weights.py"), *arguments, "--dir", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    output = done.stdout if code == 0 else done.stderr
    assert words in output
    assert len(output.splitlines()) == 1
