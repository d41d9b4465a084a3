"""History, difference and rollback of versions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.store import app
from stores import Store
from stores.commit import Changes, Failure, commit
from stores.describe import diff, history
from stores.errors import StoreDamageError, StoreNotFoundError
from stores.format.manifest import load, versions
from stores.upkeep import collect, compact, repair, rollback, verify
from tests._helpers.building import OTHER_SPEC, SPEC, commit_rows, flip, row, row_digests, store_with
from tests._helpers.question_worlds import put_questions, put_table, question


def lines(root: Path, before: int, after: int) -> list[str]:
    with Store.open(root, before, lease=False) as old, Store.open(root, after, lease=False) as new:
        return diff(old, new).lines()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Versions: 0 empty, 1 rows a b, 2 questions, 3 b changed and c new, 4 a question less, 5 another spec."""
    root = store_with(tmp_path / "store", "a", "b")
    put_questions(root, "nextgqa", "val", [question("a", 0), question("b", 0)])
    commit_rows(root, [row("b", content=1), row("c")])
    put_questions(root, "nextgqa", "val", [{**question("a", 0), "answer": "other"}])
    commit_rows(root, [row("a")], spec=OTHER_SPEC)
    return root


def test_history_says_what_each_version_changed(root: Path) -> None:
    old, new = (load(root, version).features["demo"].current for version in (1, 5))
    assert [version.changes for version in history(root)] == [
        [],
        ["demo: +2 rows"],
        ["questions nextgqa/val: +2 rows"],
        ["demo: +1 row"],
        ["questions nextgqa/val: -1 row"],
        [f"demo: spec {old[:8]} to {new[:8]}, 3 to 1 row"],
    ]
    shown = CliRunner().invoke(app, ["history", str(root), "--last", "2"])
    assert shown.output.count("(a program)") == 2 and "questions nextgqa/val: -1 row" in shown.output


def test_history_does_not_credit_a_version_with_what_it_did_not_do(root: Path) -> None:
    rollback(root, 4)
    (root / "versions" / "0000000003.json").write_text("[]")
    changes = {version.version: version.changes for version in history(root)}
    assert "damaged" in changes[3][0]
    assert changes[4] == ["since version 2: demo: +1 row", "since version 2: questions nextgqa/val: -1 row"]
    collect(root, grace_seconds=0)
    assert [one.changes for one in history(root)] == [["holds: demo: +3 rows", "holds: questions nextgqa/val: +1 row"]]


def test_repair_names_the_versions_that_it_lost(root: Path) -> None:
    for version in (4, 5):
        (root / "versions" / f"000000000{version}.json").write_text("{")
    outcome = CliRunner().invoke(app, ["repair", str(root)])
    assert "damaged: version 4, 5; went on from version 3" in outcome.output
    assert verify(root, deep=True).ok


def test_a_version_names_the_command_that_published_it(root: Path) -> None:
    assert CliRunner().invoke(app, ["rollback", str(root), "1"]).exit_code == 0
    assert load(root).command is not None and load(root).command.endswith(f"rollback {root} 1")


def test_diff_says_which_rows_and_questions_and_why(root: Path) -> None:
    assert lines(root, 1, 3) == [
        "demo: 1 added: 'c'",
        "demo: 1 changed (other content): 'b'",
        "nextgqa/val: 2 added: 'a_0', 'b_0'",
        "table questions nextgqa/val: added (2 rows)",
    ]
    assert lines(root, 2, 4)[-3:] == [
        "nextgqa/val: 1 removed: 'b_0'",
        "nextgqa/val: 1 changed (other answer): 'a_0'",
        "table questions nextgqa/val: other rows (2 to 1 row)",
    ]
    changed = lines(root, 4, 5)
    assert changed[0] == "demo: 2 removed: 'b', 'c'"
    assert changed[1] == "demo: 1 changed (other spec: note, revision, scale; 1 have equal values): 'a'"
    assert lines(root, 3, 3) == []


def test_versions_of_equal_segments_are_not_joined(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    index, table = Store.index, Store.table
    monkeypatch.setattr(Store, "index", lambda store, name: read.append(name) or index(store, name))
    monkeypatch.setattr(Store, "table", lambda store, *names: read.append("/".join(names)) or table(store, *names))
    assert lines(root, 2, 4) != [] and sorted(read) == ["demo"] * 2 + ["questions/nextgqa/val"] * 2
    read.clear()
    assert len(lines(root, 3, 4)) == 3 and sorted(read) == ["questions/nextgqa/val"] * 2
    read.clear()
    assert lines(root, 4, 4) == [] and not read


def test_rows_that_only_moved_are_the_same(root: Path) -> None:
    rollback(root, 4)
    commit_rows(root, [row("d")])
    before = load(root).version
    assert compact(root).rows
    assert lines(root, before, load(root).version) == []


def test_failures_and_stale_tables_are_named(root: Path) -> None:
    spec = load(root).features["demo"].current
    commit(root, Changes(failures=[Failure("x", "demo", spec, "corrupt", True, "no", "/x", "", 1)]))
    put_table(root, "visual_dictionary", pa.table({"cluster": [0]}), "d/t/c")
    commit(root, Changes(stale={("visual_dictionary", "d/t/c"): ("changed a",)}))
    assert lines(root, 5, 6) == ["failures added: 1: demo: 'x': corrupt"]
    assert lines(root, 7, 8) == ["table visual_dictionary d/t/c: stale: changed a"]
    assert history(root)[-1].changes == ["visual_dictionary d/t/c: stale"]


def test_rollback_publishes_an_old_version_as_a_new_one(root: Path) -> None:
    with Store.open(root, 3, lease=False) as store:
        keys = store.keys("demo")
        digests = [store.digest("demo", key) for key in keys]
    assert rollback(root, 3).version == 6
    with Store.open(root, lease=False) as store:
        assert store.keys("demo") == keys == ["a", "b", "c"]
        assert [store.digest("demo", key) for key in keys] == digests
        assert store.table("questions").num_rows == 2
    assert verify(root, deep=True).ok and versions(root) == list(range(7))
    assert lines(root, 3, 6) == []
    assert rollback(root, 3).version == 6  # it holds the same already
    commit_rows(root, [row("e")])
    assert "e" in {key for _, key in row_digests(root)}


def test_a_version_that_is_not_whole_is_refused(root: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no such version"):
        rollback(root, 99)
    collect(root, grace_seconds=0)
    with pytest.raises(StoreNotFoundError, match="no such version"):
        rollback(root, 1)
    second = store_with(root.parent / "second", "a")
    commit_rows(second, [row("b")])
    for shard in second.glob("features/*/*.h5"):
        shard.unlink()
    with pytest.raises(StoreDamageError, match=r"version 1 is not whole any more: .*; choose another version"):
        rollback(second, 1)
    assert CliRunner().invoke(app, ["rollback", str(second), "77"]).exit_code == 2


def test_repair_drops_together_what_was_committed_together(root: Path) -> None:
    for name in ("visual_dictionary", "visual_dictionary_members"):
        for part in ("d/t/clip", "d/t/other"):
            put_table(root, name, pa.table({"key": [part]}), part, spec={"kind": "visual"})
    entry = load(root).tables["visual_dictionary_members"].parts["d/t/clip"]
    (root / entry.files[0].path).unlink()
    outcome = CliRunner().invoke(app, ["repair", str(root)])
    assert "dropped the table visual_dictionary/d/t/clip" in outcome.output
    assert "dropped the table visual_dictionary_members/d/t/clip" in outcome.output
    with Store.open(root, lease=False) as store:
        assert list(store.parts("visual_dictionary")) == list(store.parts("visual_dictionary_members")) == ["d/t/other"]
    assert verify(root, deep=True).ok


@pytest.mark.parametrize("damage", ["missing", "", "{", "[]", "null", '{"format": "x"}', "flipped"])
def test_repair_writes_a_lost_identity_anew(root: Path, damage: str) -> None:
    identity, digests = root / "store.json", row_digests(root)
    if damage == "missing":
        identity.unlink()
    elif damage == "flipped":
        flip(identity, 7)
    else:
        identity.write_text(damage)
    outcome = CliRunner().invoke(app, ["repair", str(root)])
    assert outcome.exit_code == 0 and "wrote store.json anew" in outcome.output
    assert row_digests(root) == digests and verify(root, deep=True).ok
    assert not repair(root).rebuilt_identity


def test_repair_does_not_make_a_store_of_another_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(StoreNotFoundError):
        repair(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_specs_that_are_lost_are_named(root: Path) -> None:
    assert SPEC != OTHER_SPEC
    entry = load(root).features["demo"].current
    for path in [*root.glob(f"specs/{entry}.json"), *root.glob("features/*/*.json")]:
        path.unlink()
    outcome = CliRunner().invoke(app, ["repair", str(root)])
    assert f"dropped all rows of demo@{entry}: its spec is lost" in outcome.output
