"""The vggish extractor: torchvggish's own network, its 18 tensors, and AudioSet's post-processing."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from extractors import ExtractorError, MicroBatcher, WeightsError, build, vggish_tower
from extractors.torch_model import TorchModel
from extractors.vggish_tower import PostProcessor, read_pca
from settings import network

ROOT = Path(__file__).parents[2]
KEYS = {
    f"{part}.{index}.{kind}"
    for part, indices in (("features", (0, 3, 6, 8, 11, 13)), ("embeddings", (0, 2, 4)))
    for index in indices
    for kind in ("weight", "bias")
}
# The non-zero values of the embedding that TensorFlow's VGGish printed for a 1 kHz sine, and its 8-bit values.
EMBEDDING = """
7:.161373 17:.806958 25:.367928 26:.0358241 31:.38027 32:.137559 33:.917471 34:.806563 39:.0403628 40:.707624
42:.497839 43:.240818 44:.215654 45:.884923 46:1.19568 47:.67062 48:.207795 49:.0163986 50:.174719 53:.251008
56:.146079 58:.398871 59:.305421 60:.128968 66:.538513 69:.0494107 70:.425274 71:.185373 74:.147535 77:.699339
78:.455412 79:.0517482 81:.0199254 84:.518158 85:.565576 86:.658798 89:.410563 93:.257652 94:.232321 95:.240264
101:.265238 103:.484608 106:.193258 108:.201233 110:.0336862 115:.178364 116:.024749 117:.0688997 121:.0824628
"""
BITS = """
169 10 154 127 191 66 124 69 157 232 142 21 128 131 43 3 33 111 198 153 76 255 194 60 71 179 146 131 167 60 79 76 192
84 102 160 23 91 173 13 149 186 115 202 252 163 84 145 107 255 5 198 81 0 203 110 35 104 101 131 255 0 0 158 136 74
115 152 77 154 54 151 82 243 57 116 165 153 85 181 152 0 255 122 29 255 46 105 110 43 0 90 58 13 255 108 96 255 84 121
255 75 176 111 176 64 83 231 255 82 255 94 81 144 99 173 255 0 0 158 31 230 112 255 0 255 20 255
"""
LIGHT = """
import sys
import numpy as np
import extractors
for options in ({}, {"weights": "random:0", "final_relu": False}):
    extractor = extractors.build("vggish", options)
    extractor.spec(), extractor.output(), extractor.prepare(np.zeros((2, 15600), np.float32))
print([name for name in ("torch", "torchvggish", "resampy", "soundfile") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def windows() -> NDArray[np.float32]:
    generator = np.random.default_rng(4)
    return (generator.standard_normal((3, 15_600)) * [[0.01], [0.1], [0.5]]).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> TorchModel:
    loaded: TorchModel = build("vggish", {"weights": "random:1"}).load("cpu", 1)
    return loaded


@pytest.fixture(scope="module")
def checkpoint(model: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the 18 tensors as torchvggish releases them."""
    path = tmp_path_factory.mktemp("weights") / "vggish.pth"
    torch.save(dict(model.network.state_dict()), path)
    return path


@pytest.fixture(scope="module")
def pca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make up PCA parameters that spread the values over more than -2..2."""
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("pca") / "pca.npz"
    np.savez(path, pca_eigen_vectors=generator.standard_normal((128, 128)), pca_means=generator.standard_normal(128))
    return path


def golden_embedding() -> torch.Tensor:
    embedding = torch.zeros(1, 128)
    for entry in EMBEDDING.split():
        index, _, value = entry.partition(":")
        embedding[0, int(index)] = float(value)
    return embedding


def test_the_network_is_the_published_one(model: TorchModel) -> None:
    state = model.network.state_dict()
    assert set(state) == KEYS
    assert len(KEYS) == 18
    assert sum(value.numel() for value in state.values()) == 72_141_184
    assert state["features.13.weight"].shape == (512, 512, 3, 3)
    assert state["embeddings.0.weight"].shape == (4096, 12_288)


@pytest.mark.parametrize(("time", "band", "channel"), [(0, 0, 1), (0, 1, 0), (1, 0, 0), (5, 3, 511), (2, 1, 77)])
def test_cells_are_flattened_time_first_channel_last(model: TorchModel, time: int, band: int, channel: int) -> None:
    seen: list[torch.Tensor] = []
    network: Any = model.network
    cell = torch.zeros(1, 512, 6, 4)
    cell[0, channel, time, band] = 1
    handles = [
        network.features.register_forward_hook(lambda *_: cell),
        network.embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone())),
    ]
    model.forward(np.zeros((1, 96, 64), np.float32))
    for handle in handles:
        handle.remove()
    assert seen[0].shape == (1, 12_288)
    assert seen[0].nonzero().tolist() == [[0, (time * 4 + band) * 512 + channel]]


def test_the_forward_is_torchvggishs(model: TorchModel, windows: NDArray[np.float32]) -> None:
    import torchvggish.torchvggish as package

    reference = package.VGG(package.make_layers(), postprocess=False).eval()
    reference.load_state_dict(model.network.state_dict())
    patches = build("vggish", {"weights": "random:1"}).prepare(windows)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(patches)[:, None]).numpy()
    actual = model.forward(patches)
    assert (actual.dtype, actual.shape) == (np.float32, (3, 128))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    assert np.abs(actual[0] - actual[2]).max() > 1e-5, "sounds must differ"


def test_the_final_relu_is_an_option(
    model: TorchModel, checkpoint: Path, windows: NDArray[np.float32], pca: Path
) -> None:
    before = build("vggish", {"weights": str(checkpoint), "final_relu": False})
    patches = before.prepare(windows)
    actual = before.load("cpu", 1).forward(patches)
    assert (actual < 0).any()
    np.testing.assert_array_equal(np.maximum(actual, 0), model.forward(patches))
    after = build("vggish", {"weights": str(checkpoint)})
    assert (before.spec()["final_relu"], after.spec()["final_relu"]) == (False, True)
    whitened = build("vggish", {"weights": str(checkpoint), "final_relu": False, "pca": str(pca)})
    eight_bit = build("vggish", {"weights": str(checkpoint), "final_relu": False, "pca": str(pca), "quantise": True})
    with np.load(pca) as parameters:
        expected = (actual.astype(np.float64) - parameters["pca_means"]) @ parameters["pca_eigen_vectors"].T
    assert np.abs(expected).max() > 2
    np.testing.assert_allclose(whitened.load("cpu", 1).forward(patches), expected, rtol=1e-6, atol=1e-6)
    truncated = ((np.clip(expected, -2, 2) + 2) * 63.75).astype(np.uint8)
    levels = eight_bit.load("cpu", 1).forward(patches)
    assert levels.dtype == np.float32
    np.testing.assert_array_equal(levels, truncated)
    assert len({str(extractor.spec()) for extractor in (before, after, whitened, eight_bit)}) == 4
    assert len({extractor.output().units for extractor in (before, after, whitened, eight_bit)}) == 4


def test_the_published_pca_gives_the_published_8_bits(shared: Path) -> None:
    eigen_vectors, means = read_pca(shared / "data" / "audio" / "vggish_pca_params.npz")
    np.testing.assert_allclose(eigen_vectors[0, :4], [-0.07345442, 0.00423362, 0.02232433, 0.07667682], atol=1e-8)
    np.testing.assert_allclose(means[:4], [-0.41447151, 0.02485021, 0.1271704, -0.63767171], atol=1e-8)
    assert eigen_vectors.sum() == pytest.approx(51.488120, abs=1e-6)
    assert np.linalg.norm(eigen_vectors) == pytest.approx(97.178248, abs=1e-6)
    process = PostProcessor(eigen_vectors, means, True, torch.device("cpu"))
    assert process(golden_embedding())[0].tolist() == [int(word) for word in BITS.split()]
    assert process(torch.zeros(1, 128))[0, :8].tolist() == [156, 39, 143, 114, 177, 83, 96, 115]


def test_pca_parameters_are_the_same_from_torchvggishs_file(pca: Path, tmp_path: Path) -> None:
    with np.load(pca) as parameters:
        arrays = {name: parameters[name] for name in parameters.files}
    # As released: numpy arrays, the means as a column, in torch's format of 2019 and under numpy 1's module name.
    arrays["pca_means"] = arrays["pca_means"].reshape(-1, 1)
    torch.save(arrays, tmp_path / "new.pth")
    torch.save(arrays, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    written = (tmp_path / "old.pth").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in written
    (tmp_path / "old.pth").write_bytes(written)
    for name in ("new.pth", "old.pth"):
        for actual, expected in zip(read_pca(tmp_path / name), read_pca(pca), strict=True):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "name", ["junk.npz", "junk.pth", "absent.npz", "code.pth", "object.npz", "half.npz", "small.npz"]
)
def test_a_wrong_pca_file_is_one_line(name: str, tmp_path: Path) -> None:
    if name.startswith("junk"):
        (tmp_path / name).write_bytes(b"not an archive")
    torch.save({"pca_eigen_vectors": Path("x")}, tmp_path / "code.pth")
    np.savez(tmp_path / "object.npz", pca_eigen_vectors=np.array([Path("x")], dtype=object), pca_means=np.zeros(128))
    np.savez(tmp_path / "half.npz", pca_eigen_vectors=np.zeros((128, 128)))
    np.savez(tmp_path / "small.npz", pca_eigen_vectors=np.zeros((64, 128)), pca_means=np.zeros(128))
    with pytest.raises(WeightsError, match=f"pca file .*{name}") as caught:
        read_pca(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_tensors_than_the_18_are_listed(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    del state["embeddings.4.bias"]
    state["pproc.pca_means"] = torch.zeros(128, 1)
    state["features.0.weight"] = torch.zeros(64, 1, 3, 5)
    torch.save(state, tmp_path / "other.pth")
    expected = (
        r"other.pth as VGGish does not fit: 1 missing \(embeddings.4.bias\), 1 unexpected \(pproc.pca_means\), "
        r"1 of another shape \(features.0.weight \[64, 1, 3, 5\] instead of \[64, 1, 3, 3\]\)"
    )
    with pytest.raises(WeightsError, match=expected):
        build("vggish", {"weights": str(tmp_path / "other.pth")}).load("cpu", 1)


def test_the_tag_is_torchvggishs_file_in_torchs_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(network, "getproxies", dict)
    monkeypatch.setattr(network.socket, "create_connection", unreachable)
    tag = build("vggish", {})
    with pytest.raises(WeightsError, match=r"'torchvggish' cannot be downloaded \(.*unreachable\).*weights.py fetch"):
        tag.load("cpu", 1)
    cached = tmp_path / "checkpoints" / "vggish-10086976.pth"
    cached.symlink_to(checkpoint)
    with pytest.raises(WeightsError, match="sha256 does not begin with 10086976; remove it"):
        tag.load("cpu", 1)
    digest = vggish_tower.weights.digest(checkpoint)
    renamed = tmp_path / "checkpoints" / f"vggish-{digest[:8]}.pth"
    renamed.symlink_to(checkpoint)
    address = f"https://example.invalid/releases/{renamed.name}"
    monkeypatch.setattr(vggish_tower._layers(), "VGGISH_WEIGHTS", address)
    written = tag.fetch(tmp_path)
    assert written is not None
    assert written.source_sha256 == digest
    assert tag.verify(tmp_path) == written
    assert build("vggish", {"weights": str(tmp_path / written.file)}).spec()["weights"] == {"sha256": written.sha256}


def test_a_file_of_another_model_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "swin.safetensors", {"reelstore": '{"model": "swin_tiny"}'})
    with pytest.raises(WeightsError, match="holds swin_tiny, not vggish"):
        build("vggish", {"weights": str(tmp_path / "swin.safetensors")}).spec()


def test_random_weights_come_from_the_seed_alone(model: TorchModel) -> None:
    before = torch.get_rng_state()
    again: Any = build("vggish", {"weights": "random:1"}).load("cpu", 1)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    assert build("vggish", {"weights": "random:1"}).random_weights
    assert not build("vggish", {}).random_weights


def test_a_minute_is_a_row_of_sixty_whatever_runs_beside_it(model: TorchModel) -> None:
    extractor = build("vggish", {"weights": "random:1"})
    assert (extractor.input, extractor.rate, extractor.window_samples) == ("audio", 16_000, 15_600)
    assert (extractor.prepared_dtype, extractor.prepared_shape()) == ("float32", (96, 64))
    sound = np.random.default_rng(0).standard_normal((10, 15_600)).astype(np.float32)
    rows = [("a", extractor.prepare(sound[:3])), ("b", extractor.prepare(sound))]
    together = dict(MicroBatcher(model, 4).run(rows))
    alone = dict(MicroBatcher(model, 4).run(rows[1:]))
    assert together["b"].shape == (10, 128)
    assert together["b"].tobytes() == alone["b"].tobytes()


def test_compilation_is_in_the_numerics_and_not_in_the_spec(model: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def capture(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=capture))
    extractor = build("vggish", {"weights": "random:1", "compile": True})
    compiled = extractor.load("cpu", 1)
    patches = np.random.default_rng(0).standard_normal((2, 96, 64)).astype(np.float32)
    assert not graphs
    np.testing.assert_allclose(compiled.forward(patches), model.forward(patches), rtol=0, atol=1e-6)
    assert len(graphs) == 1, "one graph, no breaks"
    assert extractor.spec() == build("vggish", {"weights": "random:1"}).spec()
    assert (compiled.numerics()["compile"], model.numerics()["compile"]) == (True, False)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 16_000), np.float32), np.zeros(15_600, np.float32), np.zeros((2, 15_600), np.int16)]
)
def test_other_arrays_are_refused_with_their_shape(bad: NDArray[Any]) -> None:
    with pytest.raises(ExtractorError, match=r"expected audio windows float32 \[N,15600\], got .*\["):
        build("vggish", {"weights": "random:0"}).prepare(bad)


def test_planning_and_preparing_import_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_needs_neither_the_resampler_nor_the_audio_reader() -> None:
    code = (
        "import sys; sys.modules.update(resampy=None, soundfile=None);"
        "from extractors import build; from extractors.vggish_tower import _layers;"
        "print(_layers().make_layers()[0], 'torchvggish' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Conv2d(1, 64")
    assert done.stdout.strip().endswith("False")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "audioset"}, "no weights 'audioset' \\(available: torchvggish\\)"),
        ({"quantise": True}, "name a pca file"),
        ({"pca": "yes"}, "write none or a .npz or .pth file"),
        ({"weights": "random:0", "sha256": "0" * 64}, "random weights have none"),
        ({"hop_s": 0.96}, "unknown option 'hop_s'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtractorError, match=message) as caught:
        build("vggish", options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("vggish: ")


def test_a_missing_pca_file_stops_planning(tmp_path: Path) -> None:
    extractor = build("vggish", {"weights": "random:0", "pca": str(tmp_path / "nowhere.npz")})
    with pytest.raises(WeightsError, match=r"nowhere.npz: No such file"):
        extractor.spec()


def test_the_released_weights_pass_tensorflows_smoke_test(shared: Path) -> None:
    """Compare with TensorFlow's own test: three seconds of a 1 kHz sine, without and with the final ReLU."""
    file = os.environ.get("REELSTORE_VGGISH_WEIGHTS")
    if not file:
        pytest.skip("needs the released weights (set REELSTORE_VGGISH_WEIGHTS)")
    starts = np.arange(3)[:, None] * 15_360
    sine = np.sin(2 * np.pi * 1000 * (starts + np.arange(15_600)) / 16_000).astype(np.float32)
    options = {"weights": file, "pca": str(shared / "data" / "audio" / "vggish_pca_params.npz"), "quantise": True}
    for relu, mean, std, level, spread in ((False, 0.000657, 0.343, 126.0, 89.3), (True, 0.131, 0.238, 123.0, 75.0)):
        extractor = build("vggish", {"weights": file, "final_relu": relu})
        actual = extractor.load("cpu", 1).forward(extractor.prepare(sine))
        assert actual.mean() == pytest.approx(mean, rel=0.1, abs=5e-3)
        assert actual.std() == pytest.approx(std, rel=0.1)
        levels = build("vggish", {**options, "final_relu": relu}).load("cpu", 1).forward(extractor.prepare(sine))
        assert (levels.mean(), levels.std()) == (pytest.approx(level, rel=0.1), pytest.approx(spread, rel=0.1))
