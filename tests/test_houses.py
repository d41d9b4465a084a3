"""The plan of the packages, read from the source itself: who may import whom, no cycles, a face on every package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = (
    "settings",
    "stores",
    "extractors",
    "parsers",
    "pipeline",
    "trainers",
    "jobs",
    "bench",
    "examples",
    "docs",
)

# What a package may import beside itself. settings/ is the leaf below all but stores/, which is installed alone.
PACKAGE_MAY_IMPORT = {
    "settings": set[str](),
    "stores": set[str](),
    "extractors": {"settings"},
    "parsers": {"settings"},
    "pipeline": {"settings", "stores", "extractors", "parsers"},
    "trainers": {"settings", "stores"},
}

# The same for the rooms inside a package; a room that is not a key may import all of its package.
ROOM_MAY_IMPORT = {
    "pipeline.media": set[str](),
    "pipeline.shared": set[str](),
    "pipeline.extract": {"pipeline.media", "pipeline.shared"},
    "pipeline.parse": {"pipeline.shared"},
    "pipeline.cluster": {"pipeline.shared"},
    "pipeline.refresh": {"pipeline.extract", "pipeline.parse", "pipeline.cluster", "pipeline.shared"},
    "stores.errors": set[str](),
    "stores.files": set[str](),
    "stores.progress": set[str](),
    "stores.wording": set[str](),
    "stores.format": {"stores.errors", "stores.wording"},
    "stores.changes": {"stores.format"},
    "stores.joins": set[str](),
    "stores.commit": {"stores.errors", "stores.wording", "stores.format", "stores.changes"},
    "stores.sharing": {"stores.errors", "stores.progress", "stores.wording", "stores.format", "stores.commit"},
    "stores.store": {"stores.errors", "stores.wording", "stores.format", "stores.commit", "stores.sharing"},
    "stores.upkeep": {"stores.errors", "stores.progress", "stores.wording", "stores.format", "stores.commit"},
    "stores.describe": {"stores.errors", "stores.wording", "stores.format", "stores.joins", "stores.store"},
    "stores.pages": {
        "stores.errors",
        "stores.files",
        "stores.wording",
        "stores.format",
        "stores.joins",
        "stores.store",
        "stores.describe",
    },
    "stores.loading": {"stores.errors", "stores.wording", "stores.format", "stores.joins", "stores.store"},
    "stores.exchange": {
        "stores.errors",
        "stores.files",
        "stores.progress",
        "stores.wording",
        "stores.format",
        "stores.commit",
        "stores.store",
        "stores.upkeep",
        "stores.describe",
    },
    "stores.command": {
        "stores.errors",
        "stores.wording",
        "stores.format",
        "stores.store",
        "stores.upkeep",
        "stores.describe",
        "stores.pages",
        "stores.exchange",
        "stores.sharing",
    },
    "stores.testing": {"stores.format", "stores.commit", "stores.store", "stores.upkeep"},
}

MAY_IMPORT_RAY = {
    *(f"pipeline.extract.on_ray.{module}" for module in ("actors", "executor", "flow", "metrics", "pool")),
    "pipeline.parse.on_ray",
    "pipeline.shared.ray_session",
    "trainers.launch_ray",
}
MAY_IMPORT_TORCH = ("stores.loading", "trainers", "bench")


@cache
def modules() -> dict[str, Path]:
    """Dotted name to file, of every module of the packages."""
    files = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported(name: str) -> Iterator[str]:
    """The dotted names that a module imports anywhere: lazily and for type checking count too."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in modules() else base


@cache
def graph() -> dict[str, frozenset[str]]:
    """Module to the modules of ours that it imports."""
    return {name: frozenset(set(imported(name)) & modules().keys() - {name}) for name in modules()}


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("package", PACKAGE_MAY_IMPORT)
def test_packages_import_downwards_only(package: str) -> None:
    for name in modules():
        if is_in(name, package):
            others = {imported.partition(".")[0] for imported in graph()[name]} - {package}
            assert others <= PACKAGE_MAY_IMPORT[package], name


@pytest.mark.parametrize("room", ROOM_MAY_IMPORT)
def test_rooms_import_downwards_only(room: str) -> None:
    inside = [name for name in modules() if is_in(name, room)]
    assert inside
    package = room.partition(".")[0]
    for name in inside:
        for other in graph()[name]:
            if is_in(other, package) and not is_in(other, room):
                assert any(is_in(other, allowed) for allowed in ROOM_MAY_IMPORT[room]), f"{name} imports {other}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """Neither at once, nor lazily, nor for type checking."""
    state: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        state[name] = 1
        path.append(name)
        for other in sorted(graph()[name]):
            assert state.get(other) != 1, f"a circle: {' → '.join([*path[path.index(other) :], other])}"
            if other not in state:
                visit(other)
        path.pop()
        state[name] = 2

    for name in modules():
        if name not in state:
            visit(name)


def test_the_search_for_circles_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    circle = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"})}
    monkeypatch.setitem(globals(), "graph", lambda: circle)
    monkeypatch.setitem(globals(), "modules", lambda: dict.fromkeys(circle, ROOT))
    with pytest.raises(AssertionError, match="a → b → c → a"):
        test_no_module_imports_itself_in_a_circle()


def test_ray_is_imported_where_it_is_used_and_nowhere_else() -> None:
    """It takes seconds to import, and a laptop may not have it."""
    users = {name for name in modules() if any(is_in(other, "ray") for other in imported(name))}
    ours = {name for name in users if name.partition(".")[0] in PACKAGE_MAY_IMPORT}
    assert {room for name in ours for room in MAY_IMPORT_RAY if is_in(name, room)} == MAY_IMPORT_RAY
    assert all(any(is_in(name, room) for room in MAY_IMPORT_RAY) for name in ours)


def test_stores_imports_nothing_by_the_name_of_the_checkout() -> None:
    """Installed, the folder is called ``reelstore``: an import of ``stores`` would find somebody else's."""
    for name, path in modules().items():
        if is_in(name, "stores"):
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            absolute = [node.module for node in tree if isinstance(node, ast.ImportFrom) and not node.level]
            assert "stores" not in {(module or "").partition(".")[0] for module in absolute}, path


def packages() -> list[str]:
    return [name for name, path in modules().items() if path.name == "__init__.py"]


def test_every_room_of_stores_and_pipeline_has_its_rule() -> None:
    """A new room is to be given one; what has a rule of its own here is a face, a command or above all rooms."""
    rooms = {name for name in modules() if name.count(".") == 1 and name.partition(".")[0] in ("stores", "pipeline")}
    assert rooms - ROOM_MAY_IMPORT.keys() == {"stores.__main__"}
    assert ROOM_MAY_IMPORT.keys() <= rooms


@pytest.mark.parametrize("package", packages())
def test_every_package_has_a_face(package: str) -> None:
    tree = ast.parse(modules()[package].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), package
    if package in ("bench", "examples", "jobs"):  # folders of scripts, from which nobody imports a name
        assert len(tree.body) == 1, package
        return
    assigned = [
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in assigned, package


def test_no_file_is_longer_than_500_lines() -> None:
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    assert len(files) > 250
    assert not [str(path) for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 500]


def imported_by(code: str, names: set[str]) -> str:
    code = f"import sys; {code}; print(sorted({names!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    return done.stdout.strip()


def test_planning_imports_neither_torch_nor_ray() -> None:
    """A second run over a hundred thousand unchanged files must not pay for them."""
    code = (
        "from pipeline.extract import load_config, ready_features;"
        "[ready_features(load_config(name)) for name in ('demo', 'cra-nextgqa', 'cra-star')]"
    )
    assert imported_by(code, {"torch", "ray", "open_clip", "timm", "torchvision"}) == "[]"


def test_the_reader_needs_none_of_the_heavy_packages() -> None:
    """All that the wheel holds but ``loading``."""
    code = "import stores.command, stores.exchange, stores.upkeep, stores.describe"
    heavy = {"torch", "ray", "av", "open_clip", "timm", "stanza", "sklearn", "transformers", "yaml", "pandas"}
    assert imported_by(code, heavy) == "[]"


@pytest.mark.parametrize("job", sorted(path.stem for path in (ROOT / "jobs").glob("[a-z]*.py")))
def test_help_does_not_wait_for_torch_or_ray(job: str) -> None:
    """Every job answers ``-h``, with its sentence and its options, before a heavy package is imported."""
    code = (
        f"import sys; sys.argv = ['jobs/{job}.py', '-h']; import jobs.{job} as job\n"
        "try: job.app()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'stanza'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert "Usage:" in done.stdout and "-h, --help" in done.stdout and "--debug" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
