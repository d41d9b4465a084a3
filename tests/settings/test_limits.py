"""Settings of strangers: aliases that multiply, depth, size, and code that they name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import jobs.cluster
import jobs.extract
import jobs.refresh
import jobs.weights
import settings
from extractors import check_code, registry

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
MERGED = "a0: &a0 {k: v}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{','.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, r"line \d: more than 20000 values, with aliases written out"),
        (MERGED, r"line \d: more than 20000 values, with aliases written out"),
        ("a:\n" + "- 0\n" * 30_000, "line 20001: more than 20000 values"),
        ("a: " + "[" * 150 + "]" * 150, "more than 100 levels"),
        ("a: 1" + ":1" * 2_000, "a number of 4001 characters"),
        ("a: &a {b: [1, {c: *a}]}", "a value that holds itself"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
    ],
    ids=["aliases", "merges", "values", "levels", "number", "circle", "bytes"],
)
def test_a_hostile_file_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(settings.SettingsError, match=words) as caught:
        settings.read_yaml(path, str(path))
    assert str(path) in str(caught.value) and len(str(caught.value)) < 400
    if len(text) < 100_000:
        with pytest.raises(settings.SettingsError):
            settings.override({}, "a={" + text.replace("\n", ", ") + "}")


def test_aliases_that_do_not_multiply_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: &x [1, 2]\ntwo: *x\nthree: [*x, *x]\n")
    assert settings.read_yaml(tmp_path / "a.yaml", "a") == {"one": [1, 2], "two": [1, 2], "three": [[1, 2], [1, 2]]}


class Numbers(settings.Section):
    value: int = 0


def test_a_wrong_value_and_a_thousand_wrong_keys_are_cut() -> None:
    with pytest.raises(settings.SettingsError) as caught:
        settings.validate(Numbers, {"value": ["x" * 1000] * 100, **{f"{n}{'k' * 500}": 1 for n in range(3000)}}, "o")
    line = str(caught.value)
    assert len(line) < 4000 and line.endswith("and 2993 more") and "…" in line


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a mark when it is imported."""
    (tmp_path / "spying.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
        "from extractors.rgb_grid import RgbGrid\nclass Spy(RgbGrid):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spying", raising=False)
    return tmp_path / "mark"


def test_code_that_settings_name_is_not_imported_unasked(spy: Path, tmp_path: Path, videos: Path) -> None:
    config = tmp_path / "spy.yaml"
    config.write_text("features:\n  rgb: {extractor: 'spying:Spy', grid: 2, sampling: {policy: uniform, n: 2}}\n")
    dataset = tmp_path / "dataset.yaml"
    dataset.write_text(
        json.dumps({"store": "s", "videos": {"source": str(videos), "config": str(config)}, "compact": {"above": None}})
    )
    embeddings = tmp_path / "embeddings.yaml"
    embeddings.write_text(json.dumps({"store": "s", "option_embeddings": [{"name": "spying:Spy"}]}))
    store = ("--store", str(tmp_path / "s"))
    runner = CliRunner()
    for app, arguments in (
        (jobs.extract.app, [str(videos), *store, "--config", str(config)]),
        (jobs.extract.app, [str(videos), *store, "--config", str(config), "--plan"]),
        (jobs.extract.app, [str(videos), *store, "--config", str(config), "--show-config"]),
        (jobs.refresh.app, [str(dataset), "--plan"]),
        (jobs.refresh.app, [str(embeddings), "--plan"]),
        (jobs.weights.app, ["check", "--config", str(config)]),
        (jobs.cluster.app, [*store, "--kind", "linguistic", "--set", "encoder.name=spying:Spy"]),
    ):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert "spying:Spy is code" in done.stderr and "--allow-code" in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2
    assert not spy.exists() and not (tmp_path / "s").exists()
    done = runner.invoke(jobs.extract.app, [str(videos), *store, "--config", str(config), "--plan", "--allow-code"])
    assert done.exit_code == 0 and spy.exists(), done.output
    assert runner.invoke(jobs.refresh.app, [str(dataset), "--plan", "--allow-code"]).exit_code == 0


def test_an_installed_class_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {"features": {"a": {"extractor": "some.package:Tower"}, "b": {"extractor": "clip"}}}
    with pytest.raises(settings.SettingsError, match=r"^x: features\.a\.extractor: some\.package:Tower is code"):
        check_code(raw, "x", False)
    check_code(raw, "x", True)
    monkeypatch.setattr(registry, "_entries", lambda: {"tower": "some.package:Tower"})
    check_code(raw, "x", False)
