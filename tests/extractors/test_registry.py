"""Extractors by name, a user's own backbone, and what importing costs."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from extractors import ExtractorError, MicroBatcher, build, names, registry
from extractors.base import spec_digest
from extractors.testing import check_extractor
from extractors.text import build_text_encoder

ROOT = Path(__file__).parents[2]

BACKBONE = '''
"""Mean and spread of the grey value: a backbone of the user's own."""
import numpy as np
import torch
from pydantic import Field
from extractors.base import Extractor, Model, OutputSpec

class Grey(Extractor):
    name = "grey"
    version = 1
    scale: float = Field(default=1.0, gt=0)

    def spec(self):
        return {"extractor": self.name, "version": self.version, "scale": self.scale}
    def output(self):
        return OutputSpec((2,), "grey mean and deviation")
    def prepared_shape(self):
        return (8, 8, 3)
    def prepare(self, frames):
        return np.ascontiguousarray(frames[:, :8, :8])
    def load(self, device, threads=None):
        return GreyModel(self.output(), self.scale)

class GreyModel(Model):
    def __init__(self, output, scale):
        self.output, self.scale = output, scale
    def forward(self, batch):
        grey = torch.from_numpy(batch).float().mean(-1).flatten(1) * self.scale
        return torch.stack([grey.mean(1), grey.std(1)], 1).numpy()
    def numerics(self):
        return {"torch": torch.__version__}
'''

LIGHT = """
import sys
import numpy as np
import extractors
frames = np.zeros((1, 90, 160, 3), np.uint8)
for options in (
    {"model": "ViT-L-14", "weights": "openai"},
    {"model": "ViT-B-32", "weights": "laion2b_s34b_b79k", "crop": "letterbox", "tokens": "patch"},
    {"model": "ViT-B-16-SigLIP", "weights": "webli"},
    {"model": "ViT-S-32-alt", "weights": "random:0"},
):
    extractor = extractors.build("clip", options)
    extractor.spec(), extractor.output(), extractor.prepare(frames)
grid = extractors.build("rgb_grid", {})
prepared = grid.prepare(frames)
extractors.MicroBatcher(grid.load("cpu"), 4).run([("a", prepared)])
print([name for name in ("torch", "torchvision", "open_clip", "timm", "ray") if name in sys.modules])
"""


def test_planning_and_preparing_import_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_backbone_of_the_users_own_is_one_short_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: NDArray[np.uint8]
) -> None:
    assert len(BACKBONE.splitlines()) < 100
    (tmp_path / "my_backbone.py").write_text(BACKBONE)
    monkeypatch.syspath_prepend(tmp_path)
    extractor = build("my_backbone:Grey", {"scale": 2})
    [(key, values)] = MicroBatcher(extractor.load("cpu"), 4).run([("clip", extractor.prepare(frames))])
    assert key == "clip"
    expected = 2 * frames[:, :8, :8].astype(np.float64).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-5)
    with pytest.raises(ExtractorError, match=r"my_backbone:Grey: option 'scale': .*greater than 0"):
        build("my_backbone:Grey", {"scale": -1})


def spec_in_a_new_process(folder: Path, name: str) -> dict[str, Any]:
    """The spec as the next run of a job sees it."""
    code = f"import json, sys; from extractors import build; print(json.dumps(build({name!r}, {{}}).spec()))"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    spec: dict[str, Any] = json.loads(done.stdout)
    return {**spec, "warned": done.stderr}


def test_an_edited_backbone_of_the_users_own_has_another_spec(tmp_path: Path) -> None:
    """The file of the class counts, what it imports does not."""
    file, name = tmp_path / "my_edited.py", "my_edited:Grey"
    (tmp_path / "my_helper.py").write_text("SCALE = 1\n")
    file.write_text(f"import my_helper\n{BACKBONE}")
    first = spec_in_a_new_process(tmp_path, name)
    assert first["code"] == {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} and first["warned"] == ""
    assert spec_in_a_new_process(tmp_path, name) == first
    (tmp_path / "my_helper.py").write_text("SCALE = 2\n")
    assert spec_in_a_new_process(tmp_path, name) == first
    file.write_text(file.read_text().replace("grey.std(1)", "grey.var(1)"))
    edited = spec_in_a_new_process(tmp_path, name)
    assert edited["code"] != first["code"] and {**edited, "code": 0} == {**first, "code": 0}


def test_a_subclass_of_a_built_in_extractor_counts_as_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_finer.py"
    file.write_text("from extractors.rgb_grid import RgbGrid\nclass Finer(RgbGrid):\n    grid: int = 9\n")
    monkeypatch.syspath_prepend(tmp_path)
    own, built_in = build("my_finer:Finer", {}), build("rgb_grid", {"grid": 9})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert own.spec() == {**built_in.spec(), "code": {"sha256": digest}}
    assert pickle.loads(pickle.dumps(own)).spec() == own.spec()


def announce(folder: Path, package: str, entries: str) -> None:
    """Put what an installed package announces into a folder of ``sys.path``."""
    installed = folder / f"{package}-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[reelstore.extractors]\n{entries}\n")


def test_an_installed_package_names_its_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found by name, suggested, in ``names()``, and so in the contract tests of every extractor."""
    own = "from extractors.rgb_grid import RgbGrid\nclass Finer(RgbGrid):\n    grid: int = 9\n"
    (tmp_path / "my_announced.py").write_text(own)
    announce(tmp_path, "my_package", "finer = my_announced:Finer")
    monkeypatch.syspath_prepend(tmp_path)
    assert "finer" in names()
    extractor = build("finer", {})
    assert extractor.spec() == build("my_announced:Finer", {}).spec() and "code" in extractor.spec()
    check_extractor(extractor)
    with pytest.raises(ExtractorError, match="unknown extractor 'fine'; did you mean 'finer'"):
        build("fine", {})
    announce(tmp_path, "other_package", "finer = my_other:Finer")
    with pytest.raises(ExtractorError, match=r"name an extractor 'finer': my_announced:Finer and my_other:Finer"):
        build("finer", {})


def test_no_installed_package_takes_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announce(tmp_path, "my_package", "rgb_grid = my_announced:Grey")
    monkeypatch.syspath_prepend(tmp_path)
    assert type(build("rgb_grid", {})).__module__ == "extractors.rgb_grid"
    with pytest.warns(UserWarning, match="'rgb_grid' is the built-in one; .* 'my_announced:Grey'"):
        assert names().count("rgb_grid") == 1


def test_every_extractor_of_this_package_has_a_name() -> None:
    """A new file in ``extractors/`` needs one line in the registry; the contract tests then run on it."""
    targets = set()
    shared = {"Trained", "ImageTower", "HfTrained"}  # what extractors have in common, and no extractor itself
    for path in sorted((ROOT / "extractors").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            bases = (
                [base.id for base in node.bases if isinstance(base, ast.Name)] if isinstance(node, ast.ClassDef) else []
            )
            if {"Extractor", *shared} & set(bases) and node.name not in shared:  # type: ignore[attr-defined]  # a class
                targets.add(f"extractors.{path.stem}:{node.name}")  # type: ignore[attr-defined]  # a class
    assert targets == set(registry._ENTRIES.values())


def test_a_backbone_without_its_source_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "my_compiled.py"
    file.write_text(BACKBONE)
    py_compile.compile(str(file), cfile=str(tmp_path / "my_compiled.pyc"), doraise=True)
    file.unlink()
    spec = spec_in_a_new_process(tmp_path, "my_compiled:Grey")
    assert spec["code"] == {"sha256": None}
    assert "'my_compiled:Grey': its source cannot be read" in spec["warned"] and "raise its version" in spec["warned"]


def test_built_in_extractors_and_encoders_have_no_digest_of_code() -> None:
    """Their spec digests are those of stores that exist."""
    encoders = [build_text_encoder("hashed", {}), build_text_encoder("extractors.text.hashed:HashedText", {})]
    described = [*(build(name, {}) for name in ("rgb_grid", "hue_hog")), build("extractors.rgb_grid:RgbGrid", {})]
    assert not any("code" in description.spec() for description in (*described, *encoders))
    expected = {"extractor": "rgb_grid", "version": 1, "grid": 4, "compute_dtype": "float32"}
    assert {name: described[0].spec()[name] for name in expected} == expected
    assert set(described[0].spec()) == {*expected, "preprocessing"}


def test_a_text_encoder_of_the_users_own_has_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "my_words.py"
    file.write_text("from extractors.text.hashed import HashedText\nclass Mine(HashedText):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    encoder = build_text_encoder("my_words:Mine", {})
    assert encoder.spec()["code"] == {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert encoder.digest == spec_digest(encoder.spec())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "clop",
            "unknown extractor 'clop'; did you mean 'clip'\\? "
            "\\(available: beats, clip, hf, hf_audio, hue_hog, internvideo2, logmel_bands, rgb_grid, swin, timm, vgg",
        ),
        ("no_such_module:Thing", "cannot be imported: No module named 'no_such_module'"),
        ("extractors.base:Nothing", "cannot be imported: .*Nothing"),
        ("pathlib:Path", "not a subclass"),
    ],
)
def test_an_unknown_name_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(ExtractorError, match=message) as caught:
        build(name, {})
    assert "\n" not in str(caught.value)


def test_every_name_builds_with_its_defaults() -> None:
    built_in = "beats clip hf hf_audio hue_hog internvideo2 logmel_bands rgb_grid swin timm vggish"
    assert names() == built_in.split()
    for name in set(names()) - {"beats", "hf", "hf_audio", "timm"}:  # these have no model that most people mean
        extractor = build(name, {})
        assert extractor.spec()["extractor"] == name
        assert extractor.spec()["version"] == extractor.version


def test_rgb_grid_is_the_mean_colour_of_each_cell() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 80, 3), np.uint8)
    extractor = build("rgb_grid", {"grid": 4})
    actual = extractor.load("cpu").forward(extractor.prepare(pixels))
    assert actual.shape == (3, *extractor.output().step_shape) == (3, 48)
    assert actual.dtype == np.float32
    exact = pixels.reshape(3, 4, 10, 4, 20, 3).mean(axis=(2, 4)).reshape(3, 48) / 255
    assert np.abs(actual - exact).max() < 1 / 255


def test_rgb_grid_puts_the_left_cell_first() -> None:
    pixels = np.zeros((1, 40, 40, 3), np.uint8)
    pixels[0, :20, 20:, 1] = 255
    extractor = build("rgb_grid", {"grid": 2})
    actual = extractor.load("cpu").forward(extractor.prepare(pixels)).reshape(2, 2, 3)
    assert actual.tolist() == [[[0, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]]
