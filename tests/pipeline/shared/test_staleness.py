"""A dictionary is stale when a member changes, and only then; the manifest says what changed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shared import staleness
from pipeline.shared.staleness import differences, mark_stale, stale_members
from stores import Store
from stores.commit import Changes, commit
from stores.format.manifest import Manifest, load
from tests._helpers.building import commit_rows, row
from tests._helpers.dictionaries import SPEC, fill, nodes, questions, write_questions
from tests._helpers.runs import make_dictionary

LINGUISTIC = ("linguistic_dictionary", "nextgqa/train")
VISUAL = ("visual_dictionary", "nextgqa/train/clip")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fill(tmp_path / "store")


def test_differences_are_sorted_by_key_whatever_they_are() -> None:
    before = pa.table({"key": ["b", "c", "d"], "digest": ["1", "1", "1"]})
    after = pa.table({"key": ["d", "c", "a"], "digest": ["1", "2", "1"]})
    assert differences(before, after) == [
        "added a",
        "removed b",
        "changed c",
    ]


def differences_of_mappings(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The comparison key by key."""
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            lines.append(f"removed {key}")
        elif key not in before:
            lines.append(f"added {key}")
        elif before[key] != after[key]:
            lines.append(f"changed {key}")
    return lines


MEMBERS = st.dictionaries(st.text(alphabet="aé\U0001f600\uffff\0 z", max_size=3), st.sampled_from("123"), max_size=12)


@given(MEMBERS, MEMBERS, st.integers(1, 3))
def test_columns_are_compared_as_mappings_are(before: dict[str, str], after: dict[str, str], cut: int) -> None:
    def table(members: Mapping[str, str]) -> pa.Table:
        columns = {"key": pa.array(members.keys(), pa.string()), "digest": pa.array(members.values(), pa.string())}
        whole = pa.table(columns)
        return pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])  # in two chunks

    assert differences(table(before), table(after)) == differences_of_mappings(before, after)


def test_a_million_members_are_compared_in_columns() -> None:
    """No Python object is made for a member that did not change."""
    count = 1_000_000
    keys = pc.binary_join_element_wise("video", pa.array(np.arange(count)).cast(pa.string()), "")
    before = pa.table({"key": keys, "digest": keys})
    changed = pc.if_else(pc.equal(pa.array(np.arange(count)), 77), "new", keys)
    tracemalloc.start()
    assert differences(before, pa.table({"key": keys, "digest": changed})) == ["changed video77"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * count


def test_a_store_without_dictionaries_has_nothing_stale_and_no_new_version(store: Path) -> None:
    version = load(store).version
    assert mark_stale(store) == {}
    assert load(store).version == version


def test_changed_members_make_it_stale_and_a_new_fit_fresh(store: Path) -> None:
    make_dictionary(store, "linguistic")
    make_dictionary(store, "visual")
    assert mark_stale(store) == {}
    version = load(store).version

    records = [q for q in questions() if q["question_id"] != "train05_11"]
    records[3] = {**records[3], "nodes": nodes("cat", "paint", "train")}
    records.append({**records[0], "question_id": "train99_0"})
    write_questions(store, records)
    commit_rows(store, [row("train02", content=1)], feature="clip", spec=SPEC)
    stale = mark_stale(store)
    assert stale == {
        LINGUISTIC: ("changed train01_3", "removed train05_11", "added train99_0"),
        VISUAL: ("changed train02",),
    }
    with Store.open(store) as opened:
        assert {place: opened.stale(*place) for place in stale} == stale
        assert opened.version == version + 3
    mark_stale(store)
    assert load(store).version == version + 3

    assert make_dictionary(store, "linguistic").summary["why"] == list(stale[LINGUISTIC])
    with Store.open(store) as opened:
        assert opened.stale("linguistic_dictionary") == ()
        assert opened.stale("visual_dictionary") == ("changed train02",)
    assert make_dictionary(store, "visual").summary["computed"]
    with Store.open(store) as opened:
        assert stale_members(opened) == {}
        assert opened.stale("visual_dictionary") == ()


def test_a_change_taken_back_is_not_stale(store: Path) -> None:
    make_dictionary(store, "linguistic")
    changed = questions()
    changed[0] = {**changed[0], "nodes": nodes("cat", "paint", "train")}
    write_questions(store, changed)
    assert mark_stale(store)
    write_questions(store, questions())
    assert mark_stale(store) == {}
    with Store.open(store) as opened:
        assert opened.stale("linguistic_dictionary") == ()


def test_val_questions_do_not_make_it_stale(store: Path) -> None:
    make_dictionary(store, "linguistic")
    write_questions(store, [q for q in questions() if q["split"] != "val"] + [{**questions()[-1], "question_id": "x"}])
    assert mark_stale(store) == {}


def test_another_spec_of_the_feature_makes_it_stale(store: Path) -> None:
    make_dictionary(store, "visual")
    commit_rows(store, [row("train02")], feature="clip", spec={**SPEC, "epoch": 1})
    current = load(store).features["clip"].current
    assert mark_stale(store) == {VISUAL: (f"feature clip now has the spec {current[:8]}",)}
    assert make_dictionary(store, "visual", plan_only=True).summary["why"] == ["its spec changed"]


def test_many_changes_are_counted(tmp_path: Path) -> None:
    root = fill(tmp_path / "store", questions({"train": 60}))
    make_dictionary(root, "linguistic")
    write_questions(root, questions({"train": 30}))
    changes = mark_stale(root)[LINGUISTIC]
    assert len(changes) == 21
    assert changes[-1] == "… and 10 more"


def test_a_dictionary_whose_members_are_lost_is_stale_and_made_anew(store: Path) -> None:
    """Repair of an older release dropped one table of the two."""
    make_dictionary(store, "visual")
    commit(store, Changes(tables={"visual_dictionary_members": {VISUAL[1]: None}}))
    assert mark_stale(store) == {VISUAL: ("the list of its members is lost",)}
    assert make_dictionary(store, "visual").summary["why"] == ["the list of its members is lost"]
    assert mark_stale(store) == {}


def test_a_dictionary_of_an_older_release_is_found_by_what_it_is_made_of(store: Path) -> None:
    """Its part is unnamed; it is up to date while its members are, and a new one takes its place."""
    make_dictionary(store, "visual")
    tables = ("visual_dictionary", "visual_dictionary_members")
    parts = load(store).tables
    renamed = {name: {VISUAL[1]: None, "": parts[name].parts[VISUAL[1]]} for name in tables}
    commit(store, Changes(tables=renamed))
    assert not make_dictionary(store, "visual").summary["computed"]
    commit_rows(store, [row("train02", content=1)], feature="clip", spec=SPEC)
    assert mark_stale(store) == {("visual_dictionary", ""): ("changed train02",)}
    assert make_dictionary(store, "visual").summary["computed"]
    with Store.open(store) as opened:
        assert [list(opened.parts(name)) for name in tables] == [[VISUAL[1]]] * 2


def test_a_dictionary_made_while_it_is_being_marked_stays_fresh(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_dictionary(store, "linguistic")
    write_questions(store, questions()[1:])

    def late(root: Path, changes: Changes) -> Manifest:
        monkeypatch.setattr(staleness, "commit", commit)
        make_dictionary(store, "linguistic")
        return commit(root, changes)

    monkeypatch.setattr(staleness, "commit", late)
    assert mark_stale(store) == {}
    with Store.open(store) as opened:
        assert opened.stale("linguistic_dictionary") == ()
