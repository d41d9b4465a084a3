"""The house plan: who may import whom, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ALLOWED = {
    "stores": {"stores"},
    "extractors": {"extractors"},
    "parsers": {"parsers"},
    "pipeline": {"stores", "extractors", "parsers", "pipeline", "settings"},
    "settings": {"settings"},
    "trainers": {"stores", "trainers", "settings"},
}
HOUSES = {"stores", "extractors", "parsers", "pipeline", "settings", "trainers", "jobs", "bench", "examples", "tests"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("house", ALLOWED)
def test_houses_import_downwards_only(house: str) -> None:
    files = sorted((ROOT / house).rglob("*.py"))
    assert files
    for path in files:
        assert imports(path) & HOUSES <= ALLOWED[house], path
        if "ray" not in path.stem.split("_"):  # executors/ray.py, executors/ray_parsing.py, launch_ray.py
            assert "ray" not in imports(path), path


def test_no_file_is_longer_than_500_lines() -> None:
    files = [path for house in HOUSES for path in (ROOT / house).rglob("*.py")]
    assert len(files) > 50
    assert not [str(path) for path in files if len(path.read_text().splitlines()) > 500]


def test_planning_imports_neither_torch_nor_ray() -> None:
    """A second run over a hundred thousand unchanged files must not pay for them."""
    code = (
        "import sys; import pipeline.extract.run; from pipeline.extract.config import load_config;"
        "from pipeline.extract.features import ready_features;"
        "[ready_features(load_config(name)) for name in ('demo', 'cra-nextgqa', 'cra-star')];"
        "print(sorted({'torch', 'ray', 'open_clip', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"
