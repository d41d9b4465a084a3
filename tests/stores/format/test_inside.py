"""No module of the reader has another way to a file of a store than ``StorePath``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "stores"
DOORS = {"format/inside.py", "format/durable.py"}
"""The modules that call the system."""
OUTSIDE = ("exchange/", "command/", "testing.py", "files.py", "pages/place", "pages/media")
"""What reads and writes files that users name, pages and videos among them; ``Store`` opens the stores among these."""

OF_OS = {
    *(
        "open",
        "stat",
        "lstat",
        "listdir",
        "scandir",
        "walk",
        "unlink",
        "remove",
        "rmdir",
        "mkdir",
        "makedirs",
        "rename",
    ),
    *("replace", "link", "symlink", "readlink", "truncate", "chmod", "utime", "access", "removedirs", "renames"),
}
OF_PATHS = {
    *("read_text", "write_text", "write_bytes", "glob", "rglob", "iterdir", "stat", "lstat", "is_dir", "is_symlink"),
    *("unlink", "rmdir", "mkdir", "touch", "symlink_to", "hardlink_to", "readlink", "resolve", "samefile", "walk"),
}
OF_LIBRARIES = {"File", "read_table", "memory_map", "OSFile", "read_feather", "memmap", "fromfile", "load", "rmtree"}
ALLOWED = {
    ("format/container.py", "File"),  # of a descriptor
    ("format/segments.py", "memory_map"),  # of a descriptor's path
    ("format/shard.py", "fromfile"),  # of an open spool
    ("describe/page.py", "read_text"),  # the template of this package
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in DOORS and not name.startswith(OUTSIDE):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def other_ways(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield every call in a module that opens, asks for or changes a file by its path."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        of_os = owner == "os" and called in OF_OS
        of_library = owner in ("h5py", "pq", "pa", "np", "shutil", "feather") and called in OF_LIBRARIES
        of_path = isinstance(function, ast.Attribute) and owner not in ("os", "np", "durable") and called in OF_PATHS
        builtin = isinstance(function, ast.Name) and called == "open"
        if (of_os or of_library or of_path or builtin) and (name, called) not in ALLOWED:
            yield f"{name}:{node.lineno}: {called}"


def test_no_module_opens_files_another_way() -> None:
    assert [way for name, tree in modules() for way in other_ways(name, tree)] == []


@pytest.mark.parametrize(
    "code",
    ["open(path)", "path.read_text()", "os.listdir(root)", "h5py.File(path)", "path.unlink()", "shutil.rmtree(path)"],
)
def test_the_walk_notices_other_ways(code: str) -> None:
    assert list(other_ways("store.py", ast.parse(code)))


def test_the_doors_are_there() -> None:
    assert all((PACKAGE / name).is_file() for name in DOORS)
    assert Path(PACKAGE / "exchange").is_dir()
