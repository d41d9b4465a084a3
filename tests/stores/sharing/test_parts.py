"""Parts of a version: some features, some splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stores import Store
from stores.errors import MissingKeyError, SharingError
from stores.format import StorePath
from stores.format.manifest import Manifest, load, newest_version
from stores.sharing import Selection, open_place, pull, push
from stores.sharing.parts import select
from stores.upkeep import verify
from tests._helpers.building import commit_rows, row
from tests._helpers.shared import objects

VAL = Selection(("maps",), ("nextgqa/val",))


def part_of(root: Path, selection: Selection) -> Manifest:
    return select(StorePath.of(root), load(root), selection)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "store")


@pytest.mark.parametrize(
    ("selection", "keys", "tables"),
    [
        (Selection(("maps",)), {"maps": "abcd"}, ["avqa/val", "nextgqa/train", "nextgqa/val"]),
        (Selection(("sound", "maps"), ("nextgqa/train",)), {"maps": "ab", "sound": "ab"}, ["nextgqa/train"]),
        (
            Selection((), ("avqa/val", "nextgqa/val")),
            {"demo": "", "maps": "cd", "sound": "cd"},
            ["avqa/val", "nextgqa/val"],
        ),
    ],
)
def test_a_part_has_what_was_selected(
    root: Path, tmp_path: Path, selection: Selection, keys: dict[str, str], tables: list[str]
) -> None:
    pull(open_place(_pushed(root, tmp_path)), tmp_path / "part", selection)
    assert verify(tmp_path / "part", deep=True).ok
    with Store.open(root) as whole, Store.open(tmp_path / "part") as part:
        assert {name: "".join(part.keys(name)) for name in part.features} == keys
        assert list(part.parts("questions")) == tables
        for name, letters in keys.items():
            assert part.spec(name) == whole.spec(name)
            assert [part.digest(name, key) for key in letters] == [whole.digest(name, key) for key in letters]
        failed = part.failures().column("video_id").to_pylist()
        assert failed == (["gone"] if not selection.splits or "avqa/val" in selection.splits else [])


def _pushed(root: Path, tmp_path: Path) -> str:
    address = str(tmp_path / "place")
    push(root, load(root), open_place(address))
    return address


def test_shards_without_a_wanted_row_stay_behind(root: Path, tmp_path: Path) -> None:
    pull(open_place(_pushed(root, tmp_path)), tmp_path / "part", VAL)
    assert len(list((tmp_path / "part" / "features").rglob("*.h5"))) == 1
    assert len(list((root / "features").rglob("*.h5"))) == 6


def test_a_part_that_is_pushed_is_the_one_that_is_pulled(root: Path, tmp_path: Path, address: str) -> None:
    pull(open_place(_pushed(root, tmp_path)), tmp_path / "from whole", VAL)
    push(root, load(root), open_place(address), VAL)
    pull(open_place(address), tmp_path / "from part")
    texts = {load(tmp_path / name).encode() for name in ("from whole", "from part")}
    assert texts == {part_of(root, VAL).encode()}
    lying = [name for name in objects(open_place(address)) if name.endswith(".h5")]
    assert len(lying) == 1


def test_the_same_part_again_sends_nothing_and_later_versions_follow(root: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "place")
    push(root, load(root), open_place(address), VAL)
    again = push(root, load(root), open_place(address), VAL)
    assert (again.published, again.files) == (False, 0)
    pull(open_place(address), tmp_path / "part")
    commit_rows(root, [row("new")])
    more = push(root, load(root), open_place(address), VAL)
    assert (more.published, more.files, more.version) == (True, 0, newest_version(root))  # of maps, nothing is new
    assert pull(open_place(address), tmp_path / "part").published
    assert verify(tmp_path / "part", deep=True).ok


def test_another_selection_goes_to_another_place(root: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "place")
    push(root, load(root), open_place(address), VAL)
    with pytest.raises(SharingError, match=r"but not the one of .*\(everything\)"):
        push(root, load(root), open_place(address))
    commit_rows(root, [row("new")])
    with pytest.raises(SharingError, match=r"is not that of .*\(--features sound\)"):
        push(root, load(root), open_place(address), Selection(("sound",)))
    whole = str(tmp_path / "whole")
    push(root, load(root), open_place(whole))
    pull(open_place(whole), tmp_path / "part", VAL)
    with pytest.raises(SharingError, match=r"\(--features sound\); pull into another folder"):
        pull(open_place(whole), tmp_path / "part", Selection(("sound",)))


def test_the_order_and_repetition_of_names_do_not_matter(root: Path) -> None:
    texts = {
        part_of(root, Selection(features, splits)).encode()
        for features in (("maps", "sound"), ("sound", "maps", "sound"))
        for splits in (("avqa/val", "nextgqa/val"), ("nextgqa/val", "avqa/val"))
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(("clip",)), r"--features clip: .*no such feature \(available: demo, maps, sound\)"),
        (
            Selection((), ("nextgqa/test",)),
            r"--split nextgqa/test: .*\(available: avqa/val, nextgqa/train, nextgqa/val\)",
        ),
    ],
)
def test_what_is_not_there_is_said(root: Path, tmp_path: Path, selection: Selection, message: str) -> None:
    address = _pushed(root, tmp_path)
    with pytest.raises(MissingKeyError, match=message):
        push(root, load(root), open_place(address), selection)
    with pytest.raises(MissingKeyError, match=message):
        pull(open_place(address), tmp_path / "part", selection)
    assert not (tmp_path / "part").exists()
