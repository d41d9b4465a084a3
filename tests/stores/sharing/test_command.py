"""``reelstore push`` and ``pull``, and the card that a hub reads."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from stores import Store
from stores.command import app
from stores.describe import render_card
from stores.describe.hub_head import size_category
from stores.format.manifest import newest_version
from stores.upkeep import verify
from tests._helpers.building import commit_rows, flip, row


def reelstore(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def head_of(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.S)
    assert found
    return dict(yaml.safe_load(found[1]))


def test_there_and_back(made: Path, address: str, tmp_path: Path) -> None:
    sent = reelstore("push", made, address)
    assert (sent.exit_code, sent.stderr) == (0, "")
    assert re.fullmatch(
        rf"version {newest_version(made)} is new there: \S.*: sent \d+ files, 0\.\d MB; 0 were there\n", sent.stdout
    )
    fetched = json.loads(reelstore("pull", address, tmp_path / "pulled", "--json").stdout)
    assert fetched["published"] and fetched["version"] == newest_version(made)
    assert verify(tmp_path / "pulled").ok
    assert (tmp_path / "pulled" / "README.md").exists()
    again = reelstore("push", tmp_path / "pulled", address)
    assert "was there" in again.stdout and "sent 0 files" in again.stdout
    with Store.open(address) as store:
        assert store.keys("maps") == list("abcd")


def test_a_part_and_its_card(made: Path, tmp_path: Path) -> None:
    options = ("--features", "maps", "--split", "nextgqa/val", "--license", "cc-by-4.0")
    assert reelstore("push", made, tmp_path / "place", *options).exit_code == 0
    card = (tmp_path / "place" / "README.md").read_text()
    head = head_of(card)
    assert head["license"] == "cc-by-4.0"
    assert [config["config_name"] for config in head["configs"]] == ["questions"]
    assert "## maps" in card and "## sound" not in card
    assert reelstore("pull", f"file://{tmp_path}/place", tmp_path / "pulled").exit_code == 0
    assert verify(tmp_path / "pulled", deep=True).ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("push", "{store}", "nothing://x/y"), "error: nothing://x/y: no filesystem is known for nothing://\n"),
        (("push", "{store}", "memory://x"), "error: memory://x: no two can publish there safely: "),
        (("push", "{store}", "{tmp}/place", "--features", "clip"), "error: --features clip: version "),
        (
            ("push", "{store}", "{tmp}/place", "--version", "99"),
            "error: {store}/versions/0000000099.json: no such version",
        ),
        (("push", "{tmp}/none", "{tmp}/place"), "error: {tmp}/none: no store here"),
        (("pull", "{tmp}/none", "{tmp}/pulled"), "error: {tmp}/none: no store was published here\n"),
        (("pull", "file://other/x", "{tmp}/pulled"), "error: file://other/x: a file:// address has three slashes"),
    ],
)
def test_what_goes_wrong_is_one_line(made: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    names = {"store": str(made), "tmp": str(tmp_path)}
    result = reelstore(*(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith(message.format(**names))
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "pulled").exists()


def test_damage_and_rivals_are_one_line(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "store")
    place = tmp_path / "place"
    shard = sorted((root / "features").rglob("*.h5"))[0]
    flip(shard, 8 * 2000)
    result = reelstore("push", root, place)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "do not match the digest" in result.stderr
    assert reelstore("push", made, place).exit_code == 0
    other = tmp_path / "other"
    Store.create(other).close()
    for number in range(newest_version(made) + 1):
        commit_rows(other, [row("x", content=number)])
    result = reelstore("push", other, place)
    assert result.exit_code == 2
    assert f"--over {newest_version(made)}" in result.stderr
    assert reelstore("push", other, place, "--over", str(newest_version(made))).exit_code == 0


def test_a_library_of_datasets_loads_the_tables(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    assert reelstore("push", made, tmp_path / "place").exit_code == 0
    loaded = datasets.load_dataset(str(tmp_path / "place"), cache_dir=str(tmp_path / "hf"))  # the default: questions
    with Store.open(made) as store:
        assert {name: split.num_rows for name, split in loaded.items()} == {
            name.replace("/", "_"): part.rows for name, part in store.parts("questions").items()
        }
        assert (
            loaded["nextgqa_val"]["question"] == store.table("questions", "nextgqa/val").column("question").to_pylist()
        )


def test_the_head_is_yaml_whatever_the_store_is_called(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / 'a: "strange" — name\n#')
    with Store.open(root, lease=False) as store:
        head = head_of(render_card(store))
    assert head["pretty_name"] == root.name
    assert (head["license"], head["size_categories"]) == ("unknown", ["n<1K"])
    assert "reelstore" in head["tags"]


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (70_000, "10K<n<100K"),
        (5 * 10**8, "100M<n<1B"),
        (10**10, "1B<n<10B"),
    ],
)
def test_sizes_are_said_as_hubs_say_them(rows: int, category: str) -> None:
    assert size_category(rows) == category
