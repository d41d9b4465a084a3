"""Documents that exist: every reference in code and documents resolves, and their words are the code's."""

from __future__ import annotations

import ast
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "RESULTS.md"])
CODE = sorted(
    path
    for package in (
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
    for suffix in ("py", "yaml", "sh", "j2")
    for path in (ROOT / package).rglob(f"*.{suffix}")
)
_REFERENCE = re.compile(r"docs/[a-z0-9_/]+\.md`{0,2}(?:[,\s#*]{1,8}(?:in )?sections? ([0-9]+(?:\.[0-9]+)*))?")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_FILE = re.compile(
    r"(?<![\w/.-])((?:settings|stores|extractors|parsers|pipeline|trainers|jobs|bench|examples|tests|docs)"
    r"/[\w/.-]+\.(?:py|md|yaml|sh|j2|json))\b"
)


@cache
def sections(document: Path) -> frozenset[str]:
    """The numbers of a document's headings."""
    heading = re.compile(r"^#+ (?:Section )?([0-9]+(?:\.[0-9]+)*)[. ]", re.M)
    return frozenset(heading.findall(document.read_text(encoding="utf-8")))


@cache
def facts() -> frozenset[str]:
    """The numbers of the facts in section 9 of the page about CRA."""
    text = (ROOT / "docs" / "facts" / "cra.md").read_text(encoding="utf-8")
    section = text[text.index("\n## 9. ") : text.index("\n## 10. ")]
    return frozenset(re.findall(r"^([0-9]+)\. ", section, re.M))


@pytest.mark.parametrize("path", [*CODE, *DOCUMENTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_document_and_section_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for match in _REFERENCE.finditer(text):
        document = ROOT / f"{match.group(0).partition('.md')[0]}.md"
        assert document.is_file(), match.group(0)
        if match.group(1):
            assert match.group(1) in sections(document), match.group(0)
    inside = "" if path.is_relative_to(ROOT / "docs") else r"(?<!docs/)\bfacts/|"
    stray = re.search(rf"\bfacts? sheets?|{inside}\bdesign §|§ ?[0-9]", text)
    assert path.parts[-2] == "facts" or not stray, (
        f"a reference to nothing: {text[stray.start() - 40 : stray.end() + 20]!r}"
    )
    if path in CODE:
        for numbers in re.findall(r"\bfacts? ([0-9]+(?:(?:, | and )[0-9]+)*)", text):
            assert "docs/facts/cra.md" in text, f"fact {numbers} of which page?"
            assert set(re.findall(r"[0-9]+", numbers)) <= facts(), numbers


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_and_file_in_a_document_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in _LINK.findall(text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), target
    if path.parent.name == "facts" or path.name == "CHANGELOG.md":
        return  # they name files of other projects, and files of other times
    for name in _FILE.findall(text):
        assert (ROOT / name).exists() or "my" in name, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_words_of_a_document(path: Path) -> None:
    """The rules of ``test_words_and_marks``, outside code and outside what a page quotes in order to forbid it."""
    text = re.sub(r"```.*?```|\"[^\"\n]*\"", "", path.read_text(encoding="utf-8"), flags=re.S)
    wrong = re.search(r"(?:^|^[-*] |[.:;|] )Of [a-z]|\(there is:? ", text, re.M)
    assert wrong is None, text[max(wrong.start() - 40, 0) : wrong.end() + 40]


def strings(path: Path) -> list[str]:
    """The docstrings and messages of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def docstrings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, holders) and (text := ast.get_docstring(node))]


def test_every_type_ignore_names_its_code_and_its_reason() -> None:
    files = [path for path in [*CODE, *(ROOT / "tests").rglob("*.py")] if path.suffix == ".py"]
    bare = re.compile(r"#\s*type:\s*ignore(?!\[[a-z, -]+\]  # \S).*")
    for path in files:
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                assert token.type != tokenize.COMMENT or not bare.match(token.string), f"{path}:{token.start[0]}"


@pytest.mark.parametrize(
    "path", [path for path in CODE if path.suffix == ".py"], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_words_and_marks(path: Path) -> None:
    """No sentence begins with "Of", nothing is listed as "there is: a, b", and code in docstrings has two backticks."""
    with tokenize.open(path) as file:
        comments = [
            token.string.lstrip("# ")
            for token in tokenize.generate_tokens(file.readline)
            if token.type == tokenize.COMMENT
        ]
    for text in [*strings(path), *comments]:
        assert not re.search(r"(?:^|[.:;] )Of [a-z]", text), text
        assert not re.search(r"\(?there is:? \{|\(there is: ", text), text
    for text in docstrings(path):
        single = re.search(r"(?<![`\w])`[^`\n]+`(?![`\w])", re.sub(r"``.+?``|:\w+:`[^`]+`", "", text, flags=re.S))
        assert single is None, single.group(0)
