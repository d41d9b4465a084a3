"""Dictionaries in the store: the training split only, the same bytes always, stale when a member changes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from extractors.text import build_text_encoder
from pipeline.cluster import embedding
from pipeline.cluster.run import ClusterConfig, ClusterRequest, cluster, load_cluster_config
from pipeline.shared.errors import ConfigError, PreflightError, SourceError, UsageError
from pipeline.shared.staleness import mark_stale
from pipeline.shared.terminal import Terminal
from stores import Store
from stores.commit import Changes, commit
from stores.describe import DictionaryKind, describe_dictionary, find_dictionary
from stores.format.manifest import load
from stores.upkeep.verification import verify
from tests._helpers.building import commit_rows, row
from tests._helpers.dictionaries import SPEC, fill, questions, write_features, write_questions
from tests._helpers.runs import CLUSTERING, Done, make_dictionary


def dictionary_files(root: Path, kind: str) -> dict[str, str]:
    """sha256 of every file of a dictionary."""
    with Store.open(root, lease=False) as store:
        names = (f"{kind}_dictionary", f"{kind}_dictionary_members")
        return {name: file.sha256 for name in names for part in store.parts(name).values() for file in part.files}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return fill(tmp_path / "store")


def test_a_linguistic_dictionary_is_k_means_over_the_embedded_nodes(store: Path) -> None:
    result = make_dictionary(store, "linguistic")
    assert result.exit_code == 0
    assert result.summary["members"] == 24
    encoder = build_text_encoder("hashed", {"size": 32})
    members_now = sorted((q for q in questions() if q["split"] == "train"), key=lambda q: q["question_id"])
    flat = np.stack([encoder.load("cpu").encode(q["nodes"]).reshape(-1) for q in members_now])
    with Store.open(store) as opened:
        clusters = opened.table("linguistic_dictionary")
        members = opened.table("linguistic_dictionary_members")
    assert members.column("key").to_pylist() == [q["question_id"] for q in members_now]
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
    make_dictionary(store, kind)
    alone = fill(tmp_path / "alone", [q for q in questions() if q["split"] == "train"])
    make_dictionary(alone, kind)
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
    make_dictionary(root, "linguistic")
    with Store.open(root) as opened:
        assert opened.table("graphs").column("question_id").to_pylist().count(leak["question_id"]) == 2
        assert leak["question_id"] not in opened.table("linguistic_dictionary_members").column("key").to_pylist()


def test_a_visual_dictionary_is_of_the_valid_frames(store: Path) -> None:
    make_dictionary(store, "visual")
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
    make_dictionary(other, kind, allow_failures=True)
    write_questions(other, list(reversed(questions())))
    write_features(other, sorted({q["video_id"] for q in questions()}, reverse=True))
    make_dictionary(store, kind)
    make_dictionary(other, kind)
    assert dictionary_files(store, kind) == dictionary_files(other, kind)


@pytest.mark.parametrize("kind", ["linguistic", "visual"])
def test_nothing_changed_is_nothing_to_do(kind: DictionaryKind, store: Path) -> None:
    assert make_dictionary(store, kind).summary["computed"]
    before = load(store).version
    again = make_dictionary(store, kind)
    assert (again.exit_code, again.summary["computed"], load(store).version) == (0, False, before)
    assert verify(store).ok


def test_plan_says_why_and_writes_nothing(store: Path) -> None:
    before = load(store).version
    planned = make_dictionary(store, "linguistic", plan_only=True)
    assert planned.summary["why"] == ["not built yet"]
    assert load(store).version == before


def test_another_spec_is_built_anew(store: Path) -> None:
    make_dictionary(store, "visual")
    other = ClusterConfig.model_validate({**CLUSTERING, "kmeans": {"k": 5}})
    result = Done.of(cluster(ClusterRequest(store=str(store), kind="visual", config=other)))
    assert result.summary["why"] == ["its spec changed"]
    with Store.open(store) as opened:
        assert opened.table("visual_dictionary").num_rows == 5


def test_missing_rows_are_reported_and_end_in_exit_code_3(store: Path) -> None:
    commit(store, Changes(removed=[("clip", "train03")]))
    result = make_dictionary(store, "visual")
    assert result.exit_code == 3
    assert result.summary["missing"] == [{"key": "train03", "reason": "no row"}]
    assert make_dictionary(store, "visual", allow_failures=True).exit_code == 0
    write_features(store, ["train03"])
    assert mark_stale(store) == {("visual_dictionary", "nextgqa/train/clip"): ("added train03",)}


def test_missing_graphs_are_reported(tmp_path: Path) -> None:
    records = questions()
    records[4] = {**records[4], "nodes": None}
    result = make_dictionary(fill(tmp_path / "store", records), "linguistic")
    assert result.exit_code == 3
    assert result.summary["missing"] == [{"key": records[4]["question_id"], "reason": "no graph"}]


def test_random_weights_are_stated(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit_rows(
        store, [row(f"train{v:02d}") for v in range(12)], feature="noise", spec={**SPEC, "random_weights": True}
    )
    result = make_dictionary(store, "visual", feature="noise")
    assert result.summary["random_weights"] is True
    assert "feature 'noise' has random weights" in capsys.readouterr().err
    with Store.open(store) as opened:
        assert describe_dictionary(opened, find_dictionary(opened, "visual"))["spec"]["random_weights"] is True


def test_what_a_user_must_change_is_one_line(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="--store s3://bucket: a store lives on a filesystem"):
        cluster(ClusterRequest(store="s3://bucket", kind="visual", config=ClusterConfig.model_validate(CLUSTERING)))
    with pytest.raises(SourceError, match=r"no feature 'swin' \(available: clip\)"):
        make_dictionary(store, "visual", feature="swin")
    with pytest.raises(SourceError, match="no questions of split 'dev'"):
        make_dictionary(store, "linguistic", split="dev")
    with pytest.raises(UsageError, match="512 clusters need at least as many members, but there are 24"):
        config = ClusterConfig.model_validate({"encoder": {"name": "hashed"}})
        cluster(ClusterRequest(store=str(store), kind="visual", config=config))
    star = [{**q, "dataset": "star"} for q in questions()]
    write_questions(store, star)
    with pytest.raises(SourceError, match="belong to nextgqa, star; name one with --dataset"):
        make_dictionary(store, "visual")
    assert make_dictionary(store, "visual", dataset="star").exit_code == 0
    map_like = {**SPEC, "step_shape": [7, 7, 4]}
    commit_rows(store, [row("train00", step_shape=(7, 7, 4))], feature="map", spec=map_like)
    with pytest.raises(SourceError, match=r"feature 'map' has steps of shape \[7, 7, 4\]"):
        make_dictionary(store, "visual", feature="map", dataset="star")
    no_graphs = fill(tmp_path / "bare", [{**q, "nodes": None} for q in questions()])
    with pytest.raises(
        SourceError, match=r"none of the 24 members of nextgqa/train has a graph; run jobs/parse.py first"
    ):
        make_dictionary(no_graphs, "linguistic")


def test_a_stop_keeps_the_embedded_strings(
    store: Path, monkeypatch: pytest.MonkeyPatch, before_encoding: Callable[..., None]
) -> None:
    def stop(chunk: int) -> None:
        if chunk == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 10)
    before_encoding(stop)
    assert make_dictionary(store, "linguistic").exit_code == 143
    with Store.open(store) as opened:
        assert opened.table("embeddings").num_rows == 10
        assert "linguistic_dictionary" not in opened.tables
    assert make_dictionary(store, "linguistic").exit_code == 0


class Recorder(Terminal):
    """Keeps what it is to show, and calls back."""

    def __init__(self, callback: Callable[[str], None] = lambda name: None) -> None:
        super().__init__(quiet=True)
        self.shown: list[tuple[str, int, int]] = []
        self._callback = callback

    def stage(self, name: str, done: int, total: int, note: str = "") -> None:
        self.shown.append((name, done, total))
        self._callback(name)


def test_every_part_of_a_fit_shows_its_progress(store: Path) -> None:
    terminal = Recorder()
    config = ClusterConfig.model_validate(CLUSTERING)
    cluster(ClusterRequest(store=str(store), kind="linguistic", config=config), terminal)
    assert list(dict.fromkeys(name for name, _, _ in terminal.shown)) == [
        "embed",
        "check",
        "initial",
        "fit",
        "assign",
        "describe",
    ]
    last = {name: (done, total) for name, done, total in terminal.shown}
    assert all(done == total for done, total in last.values())
    assert last["check"] == last["assign"] == last["describe"] == (24, 24)


@pytest.mark.parametrize("stage", ["check", "initial", "fit", "assign", "describe"])
def test_a_stop_during_a_fit_stores_nothing(store: Path, stage: str) -> None:
    def stop(name: str) -> None:
        if name == stage:
            signal.raise_signal(signal.SIGTERM)

    config = ClusterConfig.model_validate(CLUSTERING)
    result = cluster(ClusterRequest(store=str(store), kind="visual", config=config), Recorder(stop))
    assert Done.of(result).exit_code == 143
    with Store.open(store) as opened:
        assert "visual_dictionary" not in opened.tables
    assert make_dictionary(store, "visual").exit_code == 0


def test_too_few_members_are_found_before_anything_is_embedded_or_read(
    store: Path, before_encoding: Callable[..., None]
) -> None:
    def refuse(chunk: int) -> None:
        raise AssertionError("strings are embedded")

    before_encoding(refuse)
    for kind in ("linguistic", "visual"):
        config = ClusterConfig.model_validate({**CLUSTERING, "kmeans": {"k": 25}})
        terminal = Recorder()
        with pytest.raises(UsageError, match="25 clusters need at least as many members, but there are 24; set k to"):
            cluster(ClusterRequest(store=str(store), kind=kind, config=config), terminal)
        assert terminal.shown == []
    with Store.open(store) as opened:
        assert "embeddings" not in opened.tables


def test_settings_name_the_wrong_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"settings: kmeans.kk: unknown key"):
        load_cluster_config(None, ["kmeans.kk=3"])
    with pytest.raises(
        ConfigError, match=r"encoder: unknown text encoder 'clop'; did you mean 'clip'\? \(available: clip, "
    ):
        load_cluster_config(None, ["encoder.name=clop"])
    with pytest.raises(ConfigError, match=r"unknown option 'sise'; did you mean 'size'\?"):
        load_cluster_config(None, ["encoder.name=hashed", "encoder.sise=3"])
    file = tmp_path / "cluster.yaml"
    file.write_text("encoder: {name: hashed, size: 64}\nkmeans: {k: 3}\n")
    config = load_cluster_config(file, ["kmeans.seed=7"])
    assert (config.encoder.build().dim, config.kmeans.k, config.kmeans.seed) == (64, 3, 7)


def test_describe_names_the_nearest_members(store: Path) -> None:
    make_dictionary(store, "linguistic")
    make_dictionary(store, "visual")
    with Store.open(store) as opened:
        description = describe_dictionary(opened, find_dictionary(opened, "linguistic"), nearest=2)
        assert json.loads(json.dumps(description)) == description
        assert [cluster["cluster"] for cluster in description["clusters"]] == list(range(6))
        first = description["clusters"][0]["nearest"]
        assert len(first) == 2
        assert first[0]["distance"] <= first[1]["distance"]
        by_id = {q["question_id"]: q for q in questions()}
        assert first[0]["question"] == by_id[first[0]["question_id"]]["question"]
        assert first[0]["answer"] == by_id[first[0]["question_id"]]["answer"]
        (one,) = describe_dictionary(opened, find_dictionary(opened, "visual"), cluster=3)["clusters"]
        assert one["cluster"] == 3
        for member in one["nearest"]:
            assert member["time_s"] == opened.times("clip", member["video_id"])[member["step"]]
        assert description["record"]["threads"] == 1
