"""What README and docs tell people to type exists: commands, options, settings, presets, imports, extras, codes."""

from __future__ import annotations

import ast
import importlib
import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

import jobs._cli
import settings
from pipeline.cluster import ClusterConfig
from pipeline.extract import load_config, preset_names
from pipeline.extract.config import Config
from pipeline.parse import ParseConfig
from pipeline.refresh import Dataset
from pipeline.shared import UsageError
from settings import SettingsError
from tests.conftest import ROOT
from trainers import METHODS, PRESETS, find_method
from trainers.cra.config import RELEASED, CraConfig
from trainers.frozenbilm.config import RELEASED as RELEASED_FROZENBILM
from trainers.frozenbilm.config import FrozenBilmConfig

pytestmark = pytest.mark.usefixtures("preset_files")

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if not path.stem.startswith("_"))
EVERYWHERE = {"--debug", "--help", "-h"}  # ``--debug`` is explained below the options, not among them

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMAND = re.compile(r"(?:\bjobs/(?P<job>\w+)\.py|^(?:\$ )?(?:\S+/)?(?P<reader>reelstore)(?=\s))(?P<words>.*)")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
_OWN = re.compile(r"\bmy_\w")  # a package or method of the reader's own, which tests/test_extending.py makes
_ASSIGNMENT = re.compile(r"^[a-z_]\w*(?:\.\w+)+=\S+$")


@dataclass(frozen=True)
class Line:
    """A command line of a document: its job, and what follows the name of the job."""

    page: Path
    job: str
    words: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.job}{self.words}"[:120]

    @property
    def verbs(self) -> list[str]:
        """The verbs of a job that has several; ``a|b|c`` stands for each of them."""
        return self.words.split()[0].split("|") if self.words and isinstance(app_of(self.job)[1], dict) else []

    @property
    def assignments(self) -> list[str]:
        """What ``--set`` is given, without placeholders."""
        texts = re.findall(r"--set[= ]('[^']+'|\"[^\"]+\"|\S+)", self.words)
        return [shlex.split(text)[0] for text in texts if not re.match(r"[a-z]\.b=c|A\.B=C|[A-Z]+$|…", text)]

    def value(self, option: str) -> str | None:
        """What an option is given; None if it is absent or its value is a placeholder."""
        match = re.search(rf"--{option}[= ]([a-z][\w.-]*)", self.words)
        return match.group(1) if match else None


def fences(page: Path, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def typed(page: Path) -> Iterator[str]:
    """The lines that a reader types: those of console blocks, continued by indentation or ``\\``, and inline code."""
    for body in fences(page, "", "console", "bash", "sh"):
        joined = re.sub(r"\\\n\s*|\n[ \t]+(?=\S)", " ", body)
        yield from (re.sub(r"\s+#\s.*", "", line) for line in joined.splitlines())
    yield from _INLINE.findall(prose(page))


def command_lines() -> list[Line]:
    lines = []
    for page in PAGES:
        for text in typed(page):
            match = _COMMAND.search(text)
            if match and ("python" in text or "torchrun" in text or match["reader"]):
                lines.append(Line(page, match["job"] or "store", match["words"]))
    return lines


LINES = command_lines()


@cache
def app_of(job: str) -> tuple[Any, dict[str, set[str]] | set[str]]:
    """The application of a job and the options that its help lists, by verb if it has several."""
    app = importlib.import_module(f"jobs.{job}").app
    if len(app.registered_commands) == 1:
        return app, listed(app)
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    return app, {name: listed(app, name) for name in names}


def listed(app: Any, *verb: str) -> set[str]:
    done = CliRunner().invoke(app, [*verb, "--help"], terminal_width=120)
    assert done.exit_code == 0, done.output
    return set(re.findall(r"^ +(?:-h, )?(--[a-z-]+)", done.output, re.M))


def test_the_pages_have_command_lines() -> None:
    """A regular expression that finds nothing would prove nothing."""
    assert {line.job for line in LINES} == set(JOBS)
    assert len([line for line in LINES if line.page.name == "README.md"]) >= 9
    assert sum(len(line.assignments) for line in LINES) >= 3


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_and_option_exists(line: Line) -> None:
    assert line.job in JOBS
    _, options = app_of(line.job)
    if isinstance(options, dict):
        assert set(line.verbs) <= set(options), f"verbs: {sorted(options)}"
        known = set[str]().union(*(options[verb] for verb in line.verbs))
    else:
        known = options
    # In a synopsis, ``[--plan]`` and ``auto|local`` are not what is typed, but the options in it are.
    words = re.sub(r"--set[= ]\S+", "--set", line.words)
    unknown = set(_OPTION.findall(words)) - known - EVERYWHERE
    assert not unknown, f"{sorted(unknown)}: not options of {line.job}"


STAGES: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "parse": (ParseConfig, {}),
    "cluster": (ClusterConfig, {}),
    "refresh": (Dataset, {"store": "out/store"}),
}
"""Settings of the stages without presets, and what they must be given besides ``--set``."""


def read_settings(job: str, assignments: Sequence[str], method: str = "", preset: str | None = None) -> None:
    """Read settings as a job does; raise ``SettingsError`` or ``UsageError`` if it would refuse them."""
    if job in ("extract", "weights"):
        load_config(preset, None, assignments)
        return
    if job == "train":
        model: type[BaseModel] = find_method(method).settings
        raw, _ = settings.read(PRESETS, preset or method, None, assignments)
    else:
        model, needed = STAGES[job]
        raw = dict(needed)
        for assignment in assignments:
            settings.override(raw, assignment)
    settings.validate(model, raw, job)


def is_accepted(assignment: str) -> bool:
    """Return whether some job takes a setting, with one of its presets."""
    attempts = [
        *(partial(read_settings, "extract", [assignment], preset=name) for name in preset_names()),
        *(partial(read_settings, "train", [assignment], name) for name in METHODS),
        *(partial(read_settings, job, [assignment]) for job in STAGES),
    ]
    for attempt in attempts:
        with suppress(SettingsError, UsageError):
            attempt()
            return True
    return False


def settings_in_text() -> list[tuple[str, str]]:
    """Return (page, ``a.b=c``) for inline code that is a setting, with or without ``--set``."""
    pairs = []
    for page in PAGES:
        for code in _INLINE.findall(prose(page)):
            texts = re.findall(r"--set ([^\s…]+=[^\s…]+)", code) or [code]
            pairs += [(page.name, text) for text in texts if _ASSIGNMENT.match(text) and not _OWN.search(code)]
    return pairs


WITH_SETTINGS = [line for line in LINES if (line.assignments or line.value("preset")) and not _OWN.search(line.words)]


@pytest.mark.parametrize("line", WITH_SETTINGS, ids=str)
def test_every_setting_and_preset_of_a_command_is_accepted(line: Line) -> None:
    words = line.words.split()
    preset = words[1] if line.job == "weights" else line.value("preset")
    read_settings(line.job, line.assignments, words[0], preset)


@pytest.mark.parametrize(("page", "assignment"), settings_in_text())
def test_every_setting_in_the_text_is_accepted(page: str, assignment: str) -> None:
    assert is_accepted(assignment)


def test_settings_in_the_text_are_found() -> None:
    assert len(settings_in_text()) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_settings_file_is_valid(page: Path) -> None:
    for body in fences(page, "yaml"):
        raw = yaml.safe_load(body)
        if "features" in raw and not _OWN.search(body):
            Config.model_validate(raw)
        elif "store" in raw:
            Dataset.model_validate(raw)


def test_the_python_of_the_readme_compiles_and_what_it_imports_exists() -> None:
    blocks = fences(ROOT / "README.md", "python")
    assert len(blocks) == 2
    for body in blocks:
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None and node.module.split(".")[0] == "reelstore"
                # In the checkout the package ``reelstore`` is ``stores``; tests/test_install.py imports it by its name.
                module = importlib.import_module(node.module.replace("reelstore", "stores", 1))
                assert {alias.name for alias in node.names} <= set(module.__all__)


def test_what_the_readme_calls_on_a_store_exists() -> None:
    from stores import Store

    names = {name for body in fences(ROOT / "README.md", "python") for name in re.findall(r"\bstore\.(\w+)", body)}
    assert names and all(hasattr(Store, name) for name in names)


def rows_of_table(page: Path, first: str) -> list[list[str]]:
    """The cells of the rows below the header that begins with ``first``."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    assert any(line.startswith(f"| {first} |") for line in lines), f"{page.name} has no table {first!r}"
    next(lines)
    rows = takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.mark.parametrize("name", ["README.md", "docs/failures.md"])
def test_exit_codes_are_those_of_the_jobs(name: str) -> None:
    assert jobs._cli.__doc__ is not None
    _, _, stated = jobs._cli.__doc__.partition("Exit codes:")
    codes = {" ".join(code.split()) for code in re.findall(r"(?:^|;)\s*(\d+(?: \+ N)?) ", stated)}
    table = {row[0]: row[1] for row in rows_of_table(ROOT / name, "exit code")}
    assert set(table) == codes == {"0", "2", "3", "128 + N"}
    assert "wanted is stored" in table["0"] and "--allow-failures" in table["0"]
    assert "change" in table["2"]
    assert "missing" in table["3"]
    assert "130 after SIGINT" in table["128 + N"] and "143 after SIGTERM" in table["128 + N"]


def test_the_presets_of_extraction_are_listed_with_their_sizes() -> None:
    rows = rows_of_table(ROOT / "docs" / "configuration.md", "preset")
    assert sorted(row[0].strip("`") for row in rows) == preset_names()
    for row in rows:
        size = 0
        for feature in load_config(row[0].strip("`")).features.values():
            steps = feature.policy.steps
            assert steps is not None
            size += steps * math.prod(feature.build().output().step_shape) * (2 if feature.dtype == "float16" else 4)
        assert row[3] == f"{size:,}", row[0]


def test_the_presets_of_training_are_listed_with_their_method() -> None:
    rows = rows_of_table(ROOT / "docs" / "training.md", "preset")
    assert sorted(row[0].strip("`") for row in rows) == settings.preset_names(PRESETS)
    for row in rows:
        raw, origin = settings.read(PRESETS, row[0].strip("`"), None, [])
        settings.validate(find_method(row[1]).settings, raw, origin)


@pytest.mark.parametrize(
    ("heading", "settings_of", "released", "elsewhere"),
    [
        ("setting", CraConfig, RELEASED, ()),
        ("of `frozenbilm`", FrozenBilmConfig, RELEASED_FROZENBILM, ("data", "evaluation")),
    ],
)
def test_the_recipes_are_what_the_tables_say(
    heading: str, settings_of: type[BaseModel], released: Any, elsewhere: Sequence[str]
) -> None:
    rows = rows_of_table(ROOT / "docs" / "recipes.md", heading)
    paper = settings_of().model_dump()
    stated: dict[str, dict[str, Any]] = {}
    for name, as_paper, as_released, _ in rows:
        section, _, key = name.strip("`").partition(".")
        values = [yaml.safe_load(_INLINE.findall(cell)[0]) for cell in (as_paper, as_released)]
        assert values[0] == paper[section][key], name
        stated.setdefault(section, {})[key] = values[1]
    assert stated == {section: values for section, values in released.items() if section not in elsewhere}
    assert all(released[section] == RELEASED[section] for section in elsewhere)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_and_targets_of_make_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name.strip() for names in re.findall(r"(?:'\.|reelstore)\[([a-z, ]+)\]", text) for name in names.split(",")
    }
    assert extras <= set(project["optional-dependencies"])
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)) <= set(targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_anchor_is_a_heading(page: Path) -> None:
    targets = re.findall(r"(?:\]\(|^\[\w+\]: )([^)#\s:]*)#([\w-]+)", page.read_text(encoding="utf-8"), re.M)
    for name, anchor in targets:
        target = page.parent / name if name else page
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{page.name}: {name}#{anchor}"


def test_the_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_numbers_are_those_of_the_benches() -> None:
    def target(bench: str, place: int) -> float:
        value: float = json.loads((ROOT / f"bench/results/{bench}.json").read_text())["targets"][place]["value"]
        return value

    numbers = (ROOT / "README.md").read_text().partition("## Numbers")[2].partition("\n## ")[0]
    assert f"H.264 clip | {target('decode', 0):.2f}×" in numbers
    assert f"VGGish at once | {target('one-decode', 0):.2f}× |" in numbers
    seconds, gigabytes = target("planning-million", 0), target("planning-million", 1)
    assert f"3 features | {seconds:.1f} s, {gigabytes:.1f} GB |" in numbers
    assert f"on 2 CPUs | {target('parsing', 1):.0f}× |" in numbers
