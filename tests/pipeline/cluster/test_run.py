"""Dictionaries in the store: the training split only, the same bytes always, stale when a member changes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.text.base import TextModel, build_text_encoder
from pipeline.cluster import embedding
from pipeline.cluster.run import ClusterConfig, ClusterRequest, cluster, load_cluster_config
from pipeline.shared import staleness
from pipeline.shared.errors import ConfigError, PreflightError, SourceError, UsageError
from pipeline.shared.staleness import mark_stale, stale_members
from stores import Store
from stores.commit import Changes, commit
from stores.describe import DictionaryKind, describe_dictionary
from stores.format.manifest import Manifest, load
from stores.upkeep.verification import verify
from tests._helpers.building import commit_rows, row
from tests._helpers.dictionaries import SPEC, fill, nodes, questions, write_features, write_questions
from tests._helpers.runs import Done

CONFIG: dict[str, Any] = {"encoder": {"name": "hashed", "size": 32}, "kmeans": {"k": 6}}


def run(root: Path, kind: DictionaryKind, allow_failures: bool = False, **more: Any) -> Done:
    config = ClusterConfig.model_validate(CONFIG)
    return Done.of(cluster(ClusterRequest(store=str(root), kind=kind, config=config, **more)), allow_failures)


def dictionary_files(root: Path, kind: str) -> dict[str, str]:
    """sha256 of every file of a dictionary."""
    with Store.open(root, lease=False) as store:
        names = (f"{kind}_dictionary", f"{kind}_dictionary_members")
        return {name: file.sha256 for name in names for file in store.parts(name)[""].files}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fill(tmp_path / "store")


def test_a_linguistic_dictionary_is_k_means_over_the_embedded_nodes(store: Path) -> None:
    result = run(store, "linguistic")
    assert result.exit_code == 0
    assert result.summary["members"] == 24
    encoder = build_text_encoder("hashed", {"size": 32})
    asked = sorted((q for q in questions() if q["split"] == "train"), key=lambda q: q["question_id"])
    flat = np.stack([encoder.load("cpu").encode(q["nodes"]).reshape(-1) for q in asked])
    with Store.open(store) as opened:
        clusters = opened.table("linguistic_dictionary")
        members = opened.table("linguistic_dictionary_members")
    assert members.column("key").to_pylist() == [q["question_id"] for q in asked]
    assert members.column("time_s").null_count == 24
    means = np.array(clusters.column("mean").to_pylist(), np.float32)
    assigned = members.column("cluster").to_numpy()
    assert means.shape == (6, 8 * 32)
    for index in np.unique(assigned):
        np.testing.assert_allclose(means[index], flat[assigned == index].mean(axis=0), atol=1e-6)
    assert clusters.column("count").to_pylist() == np.bincount(assigned, minlength=6).tolist()


@pytest.mark.parametrize("kind", ["linguistic", "visual"])
def test_val_and_test_never_enter(kind: DictionaryKind, store: Path, tmp_path: Path) -> None:
    """The dictionary of a store without any other split has the same bytes; no key of theirs is a member."""
    run(store, kind)
    alone = fill(tmp_path / "alone", [q for q in questions() if q["split"] == "train"])
    run(alone, kind)
    assert dictionary_files(store, kind) == dictionary_files(alone, kind)
    with Store.open(store) as opened:
        keys = opened.table(f"{kind}_dictionary_members").column("key").to_pylist()
        texts = opened.table("embeddings").column("text").to_pylist() if kind == "linguistic" else []
    assert all(key.startswith("train") for key in keys)
    assert not [text for text in texts if "val" in text or "test" in text]


def test_a_graph_enters_by_its_question_not_by_its_own_split(tmp_path: Path) -> None:
    """A graph filed under train whose question is of the test split is left out."""
    records = questions()
    root = fill(tmp_path / "store", records)
    leak = next(q for q in records if q["split"] == "test")
    graphs = [{**q, "question": None} for q in records] + [{**leak, "split": "train", "options": None, "answer": None}]
    write_questions(root, graphs)
    run(root, "linguistic")
    with Store.open(root) as opened:
        assert opened.table("graphs").column("question_id").to_pylist().count(leak["question_id"]) == 2
        assert leak["question_id"] not in opened.table("linguistic_dictionary_members").column("key").to_pylist()


def test_a_visual_dictionary_is_of_the_valid_frames(store: Path) -> None:
    run(store, "visual")
    with Store.open(store) as opened:
        members = opened.table("visual_dictionary_members").to_pylist()
        # every third step of these rows is padding
        assert [(m["key"], m["step"]) for m in members] == [(f"train{v:02d}", s) for v in range(12) for s in (0, 1)]
        assert [m["time_s"] for m in members[:2]] == opened.times("clip", "train00")[:2].tolist()
        assert members[0]["digest"] == opened.digest("clip", "train00")
        centers = np.array(opened.table("visual_dictionary").column("center").to_pylist(), np.float32)
        for member in members:
            frame = opened.row("clip", member["key"])[member["step"]].astype(np.float32)
            apart = np.linalg.norm(frame - centers, axis=1)
            assert member["distance"] == pytest.approx(apart[member["cluster"]], rel=1e-5)
            assert apart.argmin() == member["cluster"]


@pytest.mark.parametrize("kind", ["linguistic", "visual"])
def test_bytes_do_not_depend_on_the_order_of_commits(kind: DictionaryKind, store: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other", list(reversed(questions()))[:20])
    run(other, kind, allow_failures=True)
    write_questions(other, list(reversed(questions())))
    write_features(other, sorted({q["video_id"] for q in questions()}, reverse=True))
    run(store, kind)
    run(other, kind)
    assert dictionary_files(store, kind) == dictionary_files(other, kind)


@pytest.mark.parametrize("kind", ["linguistic", "visual"])
def test_nothing_changed_is_nothing_to_do(kind: DictionaryKind, store: Path) -> None:
    assert run(store, kind).summary["computed"]
    before = load(store).version
    again = run(store, kind)
    assert (again.exit_code, again.summary["computed"], load(store).version) == (0, False, before)
    assert verify(store).ok


def test_plan_says_why_and_writes_nothing(store: Path) -> None:
    before = load(store).version
    planned = run(store, "linguistic", plan_only=True)
    assert planned.summary["why"] == ["not built yet"]
    assert load(store).version == before


def test_another_recipe_is_made_anew(store: Path) -> None:
    run(store, "visual")
    other = ClusterConfig.model_validate({**CONFIG, "kmeans": {"k": 5}})
    result = Done.of(cluster(ClusterRequest(store=str(store), kind="visual", config=other)))
    assert result.summary["why"] == ["its recipe changed"]
    with Store.open(store) as opened:
        assert opened.table("visual_dictionary").num_rows == 5


def test_changed_members_make_it_stale_and_a_new_fit_fresh(store: Path) -> None:
    run(store, "linguistic")
    run(store, "visual")
    assert mark_stale(store) == {}
    version = load(store).version

    records = [q for q in questions() if q["question_id"] != "train05_11"]
    records[3] = {**records[3], "nodes": nodes("cat", "paint", "train")}
    records.append({**records[0], "question_id": "train99_0"})
    write_questions(store, records)
    commit_rows(store, [row("train02", content=1)], feature="clip", spec=SPEC)
    found = mark_stale(store)
    assert found == {
        "linguistic_dictionary": ("changed train01_3", "removed train05_11", "added train99_0"),
        "visual_dictionary": ("changed train02",),
    }
    with Store.open(store) as opened:
        assert {name: opened.stale(name) for name in found} == found
        assert opened.version == version + 3
    mark_stale(store)
    assert load(store).version == version + 3

    assert run(store, "linguistic").summary["why"] == list(found["linguistic_dictionary"])
    with Store.open(store) as opened:
        assert opened.stale("linguistic_dictionary") == ()
        assert opened.stale("visual_dictionary") == ("changed train02",)
    assert run(store, "visual").summary["computed"]
    with Store.open(store) as opened:
        assert stale_members(opened) == {}
        assert opened.stale("visual_dictionary") == ()


def test_a_change_taken_back_is_not_stale(store: Path) -> None:
    run(store, "linguistic")
    changed = questions()
    changed[0] = {**changed[0], "nodes": nodes("cat", "paint", "train")}
    write_questions(store, changed)
    assert mark_stale(store)
    write_questions(store, questions())
    assert mark_stale(store) == {}
    with Store.open(store) as opened:
        assert opened.stale("linguistic_dictionary") == ()


def test_val_questions_do_not_make_it_stale(store: Path) -> None:
    run(store, "linguistic")
    write_questions(store, [q for q in questions() if q["split"] != "val"] + [{**questions()[-1], "question_id": "x"}])
    assert mark_stale(store) == {}


def test_another_spec_of_the_feature_makes_it_stale(store: Path) -> None:
    run(store, "visual")
    commit_rows(store, [row("train02")], feature="clip", spec={**SPEC, "epoch": 1})
    current = load(store).features["clip"].current
    assert mark_stale(store) == {"visual_dictionary": (f"feature clip now has the spec {current[:8]}",)}
    assert run(store, "visual", plan_only=True).summary["why"] == ["its recipe changed"]


def test_many_changes_are_counted(tmp_path: Path) -> None:
    root = fill(tmp_path / "store", questions({"train": 60}))
    run(root, "linguistic")
    write_questions(root, questions({"train": 30}))
    found = mark_stale(root)["linguistic_dictionary"]
    assert len(found) == 21
    assert found[-1] == "… and 10 more"


def test_missing_rows_are_reported_and_end_in_exit_code_3(store: Path) -> None:
    commit(store, Changes(removed=[("clip", "train03")]))
    result = run(store, "visual")
    assert result.exit_code == 3
    assert result.summary["missing"] == [{"key": "train03", "reason": "no row"}]
    assert run(store, "visual", allow_failures=True).exit_code == 0
    write_features(store, ["train03"])
    assert mark_stale(store) == {"visual_dictionary": ("added train03",)}


def test_missing_graphs_are_reported(tmp_path: Path) -> None:
    records = questions()
    records[4] = {**records[4], "nodes": None}
    result = run(fill(tmp_path / "store", records), "linguistic")
    assert result.exit_code == 3
    assert result.summary["missing"] == [{"key": records[4]["question_id"], "reason": "no graph"}]


def test_random_weights_are_stated(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit_rows(
        store, [row(f"train{v:02d}") for v in range(12)], feature="noise", spec={**SPEC, "random_weights": True}
    )
    with pytest.warns(UserWarning, match="random weights"):
        result = run(store, "visual", feature="noise")
    assert result.summary["random_weights"] is True
    assert "feature 'noise' has random weights" in capsys.readouterr().err
    with Store.open(store) as opened:
        assert describe_dictionary(opened, "visual")["spec"]["random_weights"] is True


def test_what_a_user_must_change_is_one_line(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="--store s3://bucket: a store lives on a filesystem"):
        cluster(ClusterRequest(store="s3://bucket", kind="visual", config=ClusterConfig.model_validate(CONFIG)))
    with pytest.raises(SourceError, match=r"no feature 'swin' \(available: clip\)"):
        run(store, "visual", feature="swin")
    with pytest.raises(SourceError, match="no questions of split 'dev'"):
        run(store, "linguistic", split="dev")
    with pytest.raises(UsageError, match="512 clusters need as many members, there are 24"):
        config = ClusterConfig.model_validate({"encoder": {"name": "hashed"}})
        cluster(ClusterRequest(store=str(store), kind="visual", config=config))
    star = [{**q, "dataset": "star"} for q in questions()]
    write_questions(store, star)
    with pytest.raises(SourceError, match="belong to nextgqa, star: name one with --dataset"):
        run(store, "visual")
    assert run(store, "visual", dataset="star").exit_code == 0
    map_like = {**SPEC, "step_shape": [7, 7, 4]}
    commit_rows(store, [row("train00", step_shape=(7, 7, 4))], feature="map", spec=map_like)
    with pytest.raises(SourceError, match=r"feature 'map' has steps of shape \[7, 7, 4\]"):
        run(store, "visual", feature="map", dataset="star")
    no_graphs = fill(tmp_path / "bare", [{**q, "nodes": None} for q in questions()])
    with pytest.raises(SourceError, match=r"none of the 24 members of nextgqa/train has a graph; run jobs/parse.py first"):
        run(no_graphs, "linguistic")


def test_a_stop_keeps_the_embedded_strings(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = embedding._encode, []

    def encode(model: TextModel, texts: list[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(model, texts)

    monkeypatch.setattr(embedding, "_TEXTS_AT_ONCE", 10)
    monkeypatch.setattr(embedding, "_encode", encode)
    assert run(store, "linguistic").exit_code == 143
    with Store.open(store) as opened:
        assert opened.table("embeddings").num_rows == 10
        assert "linguistic_dictionary" not in opened.tables
    assert run(store, "linguistic").exit_code == 0


def test_settings_name_the_wrong_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings: kmeans.kk: unknown key"):
        load_cluster_config(None, ["kmeans.kk=3"])
    with pytest.raises(ConfigError, match="encoder: unknown text encoder 'clop', did you mean 'clip'"):
        load_cluster_config(None, ["encoder.name=clop"])
    with pytest.raises(ConfigError, match="unknown option 'sise', did you mean 'size'"):
        load_cluster_config(None, ["encoder.name=hashed", "encoder.sise=3"])
    file = tmp_path / "cluster.yaml"
    file.write_text("encoder: {name: hashed, size: 64}\nkmeans: {k: 3}\n")
    config = load_cluster_config(file, ["kmeans.seed=7"])
    assert (config.encoder.build().dim, config.kmeans.k, config.kmeans.seed) == (64, 3, 7)


def test_describe_tells_the_nearest_members(store: Path) -> None:
    run(store, "linguistic")
    run(store, "visual")
    with Store.open(store) as opened:
        told = describe_dictionary(opened, "linguistic", nearest=2)
        assert json.loads(json.dumps(told)) == told
        assert [each["cluster"] for each in told["clusters"]] == list(range(6))
        first = told["clusters"][0]["nearest"]
        assert len(first) == 2
        assert first[0]["distance"] <= first[1]["distance"]
        asked = {q["question_id"]: q for q in questions()}
        assert first[0]["question"] == asked[first[0]["question_id"]]["question"]
        assert first[0]["answer"] == asked[first[0]["question_id"]]["answer"]
        (one,) = describe_dictionary(opened, "visual", cluster=3)["clusters"]
        assert one["cluster"] == 3
        for member in one["nearest"]:
            assert member["time_s"] == opened.times("clip", member["video_id"])[member["step"]]
        assert told["record"]["threads"] == 1


def test_a_dictionary_made_while_it_is_being_marked_stays_fresh(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, "linguistic")
    write_questions(store, questions()[1:])

    def late(root: Path, changes: Changes) -> Manifest:
        monkeypatch.setattr(staleness, "commit", commit)
        run(store, "linguistic")
        return commit(root, changes)

    monkeypatch.setattr(staleness, "commit", late)
    assert mark_stale(store) == {}
    with Store.open(store) as opened:
        assert opened.stale("linguistic_dictionary") == ()
