"""The reader as people install it: one wheel, one name, an environment without torch and Ray."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from stores import Store
from tests._helpers.runs import extract, rgb_config
from tests.conftest import ROOT
from tests.test_houses import PACKAGES, imported, modules


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what it needs, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "stores", folder / "stores", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_reader_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"reelstore"}
    ours = {path.relative_to(ROOT / "stores").as_posix() for path in (ROOT / "stores").rglob("*.py")}
    assert {name.removeprefix("reelstore/") for name in names if name.endswith(".py")} == ours
    assert {
        "reelstore/py.typed",
        "reelstore/pages/templates/index.html.j2",
        "reelstore/pages/templates/style.css",
    } <= set(names)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment that holds the wheel and what it depends on; skips without a package index."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    venv.create(folder, with_pip=False)
    binary = folder / "bin" / "python"
    constraints = str(ROOT / "constraints.txt")
    pip = [sys.executable, "-m", "pip", "--python", str(binary)]
    command = [*pip, "install", "--quiet", "--no-compile", "-c", constraints, str(wheel)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=600)
    if done.returncode and ("No matching distribution" in done.stderr or "Failed to establish" in done.stderr):
        pytest.skip("pip reaches no package index from here")
    assert done.returncode == 0, done.stderr
    return binary


def run(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(python), *arguments], cwd=cwd, env=environment, text=True, capture_output=True)


def test_what_a_message_tells_to_install_is_an_extra() -> None:
    """The extras of the reader by its name, those of the rest by the checkout: nothing else is published."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for package in ("stores", "pipeline", "extractors", "parsers", "trainers", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            for name, extra in re.findall(r"pip install '([\w.]+)\[(\w+)\]'", path.read_text(encoding="utf-8")):
                assert name == ("reelstore" if package == "stores" else "."), path
                assert extra in extras, path
                named.add(extra)
    assert named >= {"nvdec", "torch"}


EXTRAS = {
    "stores": {"torch", "lance", "lightning", "report", "zarr", "pyg", "share", "hub"},
    "settings": {"extract", "parse", "train"},
    "extractors": {"extract"},
    "parsers": {"parse"},
    "pipeline": {"extract", "parse", "ray", "nvdec"},
    "trainers": {"train", "ray", "wandb", "mlflow"},
}
"""The extras of which a package may import, beside what the reader needs."""

OPTIONAL = {"hypothesis"}
"""What people install themselves, for the contract tests of a store."""


@pytest.mark.parametrize("package", EXTRAS)
def test_what_a_package_imports_is_in_its_extras(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[package]:
        wanted += project["optional-dependencies"][extra]
    promised = {plain(re.split(r"[ \[<>=;]", requirement)[0]) for requirement in wanted}
    distributions = packages_distributions()
    for name, path in modules().items():
        if name.partition(".")[0] == package:
            for top in {other.partition(".")[0] for other in imported(name)} - sys.stdlib_module_names - set(PACKAGES):
                if top and top not in OPTIONAL:
                    assert {plain(each) for each in distributions.get(top, [top])} & promised, f"{path}: {top}"


def plain(distribution: str) -> str:
    """Return a distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


READ = """
import hashlib, json, sys
from reelstore import Store, StoreError
with Store.open("store") as store:
    rows = {key: hashlib.sha256(store.row("rgb", key).tobytes()).hexdigest() for key in store.keys("rgb")}
    assert store.read("rgb", list(rows)).shape[0] == len(rows)
print(json.dumps([rows, sorted({"torch", "ray", "stores", "pipeline", "settings", "jobs"} & set(sys.modules))]))
"""


@pytest.mark.slow
def test_a_store_of_the_checkout_is_read_where_only_the_wheel_is(python: Path, videos: Path, tmp_path: Path) -> None:
    assert extract(videos, tmp_path / "store", rgb_config(tmp_path)).exit_code == 0
    # A script beside folders and files of the checkout's names: none of them may be taken for the reader's own.
    for name in ("stores", "settings", "jobs", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('somebody else imported me')\n")
    (tmp_path / "read.py").write_text(READ)
    done = run(python, "read.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with Store.open(tmp_path / "store") as store:
        expected = {key: hashlib.sha256(store.row("rgb", key).tobytes()).hexdigest() for key in store.keys("rgb")}
    assert json.loads(done.stdout) == [expected, []]

    command = python.parent / "reelstore"
    verified = subprocess.run([command, "verify", "--deep", "store"], cwd=tmp_path, text=True, capture_output=True)
    assert (verified.returncode, "sound" in verified.stdout) == (0, True), verified.stderr
    module = run(python, "-m", "reelstore", "inspect", "store", cwd=tmp_path)
    assert module.returncode == 0 and "rgb" in module.stdout, module.stderr
    missing = subprocess.run([command, "inspect", "nowhere"], cwd=tmp_path, text=True, capture_output=True)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "no store here" in missing.stderr


@pytest.mark.slow
def test_without_torch_the_loader_says_what_to_install(python: Path, tmp_path: Path) -> None:
    done = run(python, "-c", "import reelstore.loading", cwd=tmp_path)
    assert done.returncode == 1
    line = "ImportError: reelstore.loading needs PyTorch: pip install 'reelstore[torch]'"
    assert done.stderr.splitlines()[-1] == line


def test_the_checkout_offers_the_reader_under_its_installed_name(tmp_path: Path) -> None:
    """``make setup`` installs it in place; a folder ``stores/`` beside a script is not taken for it."""
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "__init__.py").write_text("raise RuntimeError('somebody else imported me')\n")
    done = run(Path(sys.executable), "-c", "import reelstore; print(reelstore.__file__)", cwd=tmp_path)
    if done.returncode and "No module named 'reelstore'" in done.stderr:
        pytest.skip("the reader is not installed in this environment (make setup does)")
    assert done.stdout.strip() == str(ROOT / "stores" / "__init__.py"), done.stderr
