"""Every block of commands in README and docs says which test runs it or why none does, or is run here.

The line before such a block may be ``<!-- run by: tests/…::test_name -->`` (several: with commas) or ``<!-- not run:
the reason -->``. A block without either is run here as it stands, in a folder with a small store ``DIR`` that has a
video ``KEY``.
"""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests._helpers.building import store_with
from tests._helpers.jobs import job
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
_MARK = re.compile(r"<!-- (run by|not run): (.+) -->")
_JOB = re.compile(r"python jobs/(\w+)\.py\b|^(?:\S+/)?(reelstore)\b")
_SHELL = ("bash", "sh")


@dataclass(frozen=True)
class Block:
    """A block of commands."""

    page: str
    line: int
    before: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def mark(self) -> tuple[str, str] | None:
        """What the line before the block says: the kind of mark and its text."""
        match = _MARK.fullmatch(self.before)
        return (match[1], match[2]) if match else None

    @property
    def jobs(self) -> list[tuple[str, str]]:
        """The jobs of the block, each with the word that follows its name."""
        return [
            (match[1] or "store", (command[match.end() :].split() or [""])[0])
            for command in self.commands
            if (match := _JOB.search(command))
        ]


def blocks_of(page: str, text: str) -> list[Block]:
    """Return the blocks that a reader types: all of a shell, and others with a line that begins with ``$``."""
    found = []
    for match in _BLOCK.finditer(text):
        joined = re.sub(r"\s*\\\n\s*", " ", match["body"])
        typed = [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]
        if match["language"] in _SHELL:
            typed = [line for line in joined.splitlines() if line.strip()]
        if typed and match["language"] in ("", "console", *_SHELL):
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(page, line, match["before"], tuple(re.sub(r"\s+#\s.*", "", one) for one in typed)))
    return found


BLOCKS = [
    block for page in PAGES for block in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
]


@cache
def named_tests(file: str) -> tuple[frozenset[str], str]:
    """Return the names of the tests of a file, and its text."""
    text = (ROOT / file).read_text(encoding="utf-8")
    names = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    return frozenset(name for name in names if name.startswith("test_")), text


def test_blocks_of_commands_are_found() -> None:
    assert len(BLOCKS) >= 30 and {block.page for block in BLOCKS} >= {"README.md", "docs/training.md"}
    assert {block.mark[0] if block.mark else "" for block in BLOCKS} == {"run by", "not run", ""}
    (block,) = blocks_of(
        "page",
        "Text.\n<!-- not run: no -->\n```console\n$ python jobs/store.py gc \\\n    DIR  # all\nan answer\n```\n",
    )
    assert block.commands == ("python jobs/store.py gc DIR",) and block.mark == ("not run", "no")
    assert block.jobs == [("store", "gc")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_mark_stands_before_a_block(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    marked = [block for block in blocks_of(name, text) if block.mark is not None]
    assert len(re.findall(r"<!-- (?:run by|not run)", text)) == len(marked), f"{name}: a mark that marks nothing"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark and block.mark[0] == "run by"], ids=str)
def test_the_tests_that_run_a_block_exist_and_speak_of_its_commands(block: Block) -> None:
    assert block.mark is not None
    texts = []
    for target in block.mark[1].split(","):
        file, _, name = target.strip().partition("::")
        assert (ROOT / file).is_file(), file
        names, text = named_tests(file)
        assert name in names, target
        texts.append(text)
    said = "\n".join(texts)
    if f"docs/{Path(block.page).name}" in said or f'"{Path(block.page).name}"' in said:
        return  # the tests take the commands from the page
    for name, word in block.jobs:
        words = [name, *([word] if re.fullmatch(r"[a-z_]+", word) else [])]
        assert all(re.search(rf"\b{one}\b", said) for one in words), f"{block}: {words} in {block.mark[1]}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark is None], ids=str)
def test_a_block_without_a_mark_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_with(tmp_path / "DIR", "KEY", "other")
    monkeypatch.chdir(tmp_path)
    for command in block.commands:
        match = _JOB.match(command)
        assert match, (
            f"{block}: {command!r} is no job; say `<!-- run by: … -->` or `<!-- not run: … -->` before the block"
        )
        done = job(match[1] or "store", *shlex.split(command[match.end() :]))
        assert done.output.strip(), command
