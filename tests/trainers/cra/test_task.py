"""CRA trained from a small store, through the loop and through its command line's contract."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.cluster.embedding import EncoderConfig, embed, option_texts
from stores import Store
from stores.commit import create_store
from stores.errors import StoreError
from stores.format import layout
from tests._helpers import cra_worlds
from tests._helpers.building import commit_rows
from tests._helpers.cra_worlds import (
    MADE_OF,
    SPEC,
    STEPS,
    WIDTH,
    centres,
    questions,
    settings,
    shown,
    small_world,
    video,
)
from tests._helpers.question_worlds import put_questions, put_table
from trainers import checkpoint
from trainers.cra import spans
from trainers.cra.config import CraConfig
from trainers.cra.dictionaries import load_dictionary
from trainers.cra.intervention import EDGES, NODES, PARSED
from trainers.cra.task import CraTask, build
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.folder import BEST
from trainers.loop import evaluate
from trainers.loop import train as run_loop
from trainers.metrics.grounding import Answer, GroundedQuestion, score
from trainers.progress import Progress

RANKS = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cra_worlds.world(tmp_path_factory.mktemp("world") / "store")


def task_of(root: Path, config: CraConfig, ranks: Ranks = RANKS) -> CraTask:
    return build(config, Store.open(root, lease=False), ranks)


def train(task: CraTask, epochs: int) -> list[float]:
    """Train as the loop does, without files."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=task.config.loop.lr)
    losses = []
    for epoch in range(epochs):
        task.model.train()
        for step, batch in enumerate(task.batches(epoch, 0)):
            torch.manual_seed(epoch * 100 + step)
            optimizer.zero_grad()
            total = task.loss(batch)["total"]
            total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
            losses.append(total.item())
    return losses


def test_cra_learns_answers_and_where_they_show_without_seeing_a_span(world: Path) -> None:
    task = task_of(world, settings(loss={"vq": 0.0}))
    assert task.steps_per_epoch() == 3
    train(task, 15)
    metrics = evaluate(task, "val", task.config.loop, RANKS).metrics
    assert metrics["n"] == metrics["n_grounded"] == 16
    assert metrics["acc_vqa"] == 100
    assert metrics["miop"] > 50  # 25 by chance
    assert metrics["acc_gqa"] > 50


def test_predictions_are_what_the_evaluator_reads(world: Path) -> None:
    task = task_of(world, settings(evaluation={"interval": "window"}))
    scored = evaluate(task, "val", task.config.loop, RANKS)
    files = json.loads(json.dumps(scored.predictions))
    assert set(files["answers"]) == {f"v{number}_0" for number in range(48, 64)}
    assert files["times"]["v50"] == [step + 0.5 for step in range(STEPS)]
    assert sum(files["attention"]["v50_0"]) == pytest.approx(1)
    assert np.argmax(files["scores"]["v50_0"]) == files["answers"]["v50_0"]["prediction"]
    annotated = [
        GroundedQuestion(f"v{n}_0", f"v{n}", "CW", shown(n)[0], 3, 8.0, ((float(shown(n)[1]), shown(n)[1] + 2.0),))
        for n in range(48, 64)
    ]
    answers = {key: Answer(answer["prediction"], answer["answer"]) for key, answer in files["answers"].items()}
    scores = score(annotated, answers, {key: (start, end) for key, (start, end) in files["spans"].items()})
    for name in ("acc_vqa", "acc_gqa", "miop", "miou", "unfaithful"):
        assert scored.metrics[name] == pytest.approx(scores.overall[name])


@pytest.mark.parametrize("interval", [None, "posthoc", "window", "proposal", "merge"])
def test_a_model_that_proposes_spans_honours_the_rule_and_keeps_the_published_three(
    world: Path, interval: str | None
) -> None:
    model = {"method": "temp_clip", "proposal": "gaussian"}
    task = task_of(world, settings(model=model, evaluation={"interval": interval}))
    found = evaluate(task, "val", task.config.loop, RANKS).predictions
    files = {rule: found[f"spans_{rule}"] for rule in ("posthoc", "proposal", "merge")}
    for key in found["answers"]:
        attention, times = found["attention"][key], found["times"][key.partition("_")[0]]
        assert files["posthoc"][key] == tuple(spans.posthoc(attention, times))
        overlap = [max(files["posthoc"][key][0], files["proposal"][key][0])]
        overlap += [min(files["posthoc"][key][1], files["proposal"][key][1])]
        assert files["merge"][key] == (tuple(overlap) if overlap[0] <= overlap[1] else files["posthoc"][key])
        window = tuple(spans.span("window", attention, times, 8.0))
        assert (
            found["spans"][key]
            == {**{rule: file[key] for rule, file in files.items()}, "window": window}[interval or "proposal"]
        )
    assert files["posthoc"] != files["proposal"]


def test_a_model_without_proposals_leaves_one_file_of_spans(world: Path) -> None:
    task = task_of(world, settings())
    found = evaluate(task, "val", task.config.loop, RANKS).predictions
    assert [name for name in found if name.startswith("spans")] == ["spans"]


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_the_same_seed_gives_the_same_losses_and_any_step_can_be_resumed(world: Path, recipe: str) -> None:
    config = settings(data={"distractors": 0.5}).model_dump(mode="json")
    chosen = CraConfig.model_validate({**config, "recipe": recipe})
    first, second = (train(task_of(world, chosen), 2) for _ in range(2))
    assert first == second
    task = task_of(world, chosen)
    whole, rest = list(task.batches(1, 0)), list(task.batches(1, 2))
    assert len(rest) == 1
    torch.testing.assert_close(rest[0].options.candidates, whole[2].options.candidates)
    torch.testing.assert_close(rest[0].video, whole[2].video)


def test_ranks_share_no_question(world: Path) -> None:
    seen = []
    for rank in range(2):
        task = task_of(world, settings(data={"batch": 8}), Ranks(rank, 2, torch.device("cpu")))
        assert task.steps_per_epoch() == 3
        seen.append({tuple(row.flatten().tolist()) for batch in task.batches(0, 0) for row in batch.video})
    assert len(seen[0]) == len(seen[1]) == 24
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    "sections",
    [
        {"text": {"encoder": "stored"}},
        {"model": {"method": "temp_clip"}},
        {"model": {"method": "temp_clip", "proposal": "gaussian"}},
        {"model": {"gsg": False, "back": False}},
        {"loss": {"align": 0.0}},
        {"loss": {"vq": 0.0}},
    ],
)
def test_every_method_and_ablation_trains_and_answers(world: Path, sections: dict[str, Any]) -> None:
    task = task_of(world, settings(**sections))
    losses = task.loss(next(task.batches(0, 0)))
    weights = task.config.loss
    factor = {"vqa": weights.vqa, "vq": weights.vq, "align": weights.align}
    expected = sum(factor[name] * value.item() for name, value in losses.items() if name != "total")
    assert losses["total"].item() == pytest.approx(expected, rel=1e-5)
    assert ("align" in losses) == (task.config.model.method == "cra" and weights.align > 0)
    assert ("vq" in losses) == (weights.vq > 0)
    metrics = evaluate(task, "val", task.config.loop, RANKS).metrics
    assert 0 <= metrics["acc_gqa"] <= metrics["acc_vqa"] <= 100


def test_half_precision_changes_losses_little(world: Path) -> None:
    for recipe in ("paper", "released"):
        raw = settings().model_dump(mode="json")
        task = task_of(world, CraConfig.model_validate({**raw, "recipe": recipe}))
        task.model.eval()
        batch = next(task.batches(0, 0))
        losses = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses.append(task.loss(batch)["total"])
        assert losses[1].dtype == torch.float32
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)


def test_dictionaries_are_read_in_the_order_of_their_clusters(world: Path) -> None:
    model: Any = task_of(world, settings()).model
    expected = np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32)
    np.testing.assert_array_equal(model.front.dictionary.detach().numpy(), expected)
    assert model.back.dictionary.shape == (4, 8, 5)


def test_a_description_is_json_and_names_what_was_learned_from(world: Path) -> None:
    described = json.loads(json.dumps(task_of(world, settings()).describe()))
    assert described["vocabulary"] == {
        "version": 1,
        "words": ["blue", "colour", "does", "green", "it", "red", "show", "what"],
    }
    assert described["store_version"] == Store.open(world, lease=False).version
    assert (described["method"], described["settings"]["model"]["dim"]) == ("cra", 16)


PLAIN = {"model": {"front": False, "back": False}, "data": {"batch": 2}}


def test_what_a_store_lacks_is_named(tmp_path: Path) -> None:
    root = small_world(tmp_path / "a", visual_dictionary={**MADE_OF, "feature": "resnet"})
    with pytest.raises(
        TrainingError,
        match=r"no linguistic dictionary toy/train .* --kind linguistic, or set model\.back to false",
    ):
        task_of(root, settings())
    for part, spec in (
        ("", {**MADE_OF, "feature": "resnet"}),
        ("b", {**MADE_OF, "split": "val", "feature": "clip"}),
        ("c", {**MADE_OF, "dataset": "star", "feature": "clip"}),
    ):
        put_table(root, "visual_dictionary", centres((WIDTH,)), part, spec=spec)
        with pytest.raises(TrainingError, match=r"no visual dictionary toy/train/clip in .* \(available: toy/tr"):
            task_of(root, settings(model={"back": False}))
    other = {**MADE_OF, "feature": "clip", "feature_spec": "0123456789abcdef"}
    put_table(root, "visual_dictionary", centres((WIDTH,)), "d", spec=other)
    with pytest.raises(
        TrainingError,
        match=rf"the visual dictionary toy/train/clip was made from spec 01234567 of 'clip', not "
        rf"{layout.digest(SPEC)[:8]}; run",
    ):
        task_of(root, settings(model={"back": False}))
    assert task_of(root, settings(**PLAIN)).steps_per_epoch() == 2
    with pytest.raises(StoreError, match="embedding"):
        put_table(
            root,
            "embeddings",
            pa.table({"text": ["x"], "vector": pa.FixedSizeListArray.from_arrays(np.zeros(2, np.float32), 2)}),
            part="e",
        )
        task_of(root, settings(**PLAIN, text={"encoder": "stored"}))


def test_a_dictionary_of_other_graphs_is_refused(tmp_path: Path) -> None:
    """Its rows are the nodes that the back door convolves over; in another order they would mean something else."""
    graph = {"nodes": list(NODES), "edges": [list(edge) for edge in EDGES]}
    root = small_world(tmp_path / "store", linguistic_dictionary={**MADE_OF, **graph})
    only_back = settings(model={"front": False}, data={"batch": 2})
    assert task_of(root, only_back).steps_per_epoch() == 2
    for part, value in (("nodes", graph["nodes"][::-1]), ("edges", graph["edges"][:-1])):
        put_table(root, "linguistic_dictionary", centres((8, 5)), spec={**MADE_OF, **graph, part: value})
        with pytest.raises(TrainingError, match=f"has graphs with other {part} than CRA's back door; run jobs/cluster"):
            task_of(root, only_back)


def test_unfit_stores_are_refused_unless_allowed(tmp_path: Path) -> None:
    root = small_world(tmp_path / "random", spec={**SPEC, "random_weights": True})
    with pytest.raises(StoreError, match="random_weights"):
        task_of(root, settings(**PLAIN))
    allowed = {**PLAIN, "data": {"batch": 2, "allow": ["random_weights"]}}
    with pytest.warns(UserWarning, match="random weights"):
        task_of(root, settings(**allowed))


def test_rows_of_unknown_times_have_answers_and_no_spans(tmp_path: Path) -> None:
    """They are refused; allowed by name, they give an accuracy, and no second is ever named."""
    root = small_world(tmp_path / "store", spec={**SPEC, "extractor": "external"})
    unknown = {"times": "unknown", "duration": "unknown"}
    imported = [replace(video(n), time_s=np.full(STEPS, np.nan), duration_s=math.nan, media=unknown) for n in range(6)]
    commit_rows(root, imported, feature="imported", spec={**SPEC, "extractor": "external"})
    data = {"batch": 2, "feature": "imported"}
    with pytest.raises(StoreError, match="'imported': 4 of 4 imported rows whose times are not known"):
        task_of(root, settings(**{**PLAIN, "data": data}))
    task = task_of(root, settings(**{**PLAIN, "data": {**data, "allow": ["times_unknown"]}}))
    evaluation = task.evaluate("val")
    assert set(evaluation.metrics) == {"n", "acc_vqa"} and evaluation.metrics["n"] == 2
    assert evaluation.predictions["spans"] == {} == evaluation.predictions["times"]
    assert len(evaluation.predictions["answers"]) == len(evaluation.predictions["attention"]) == 2
    whole = task_of(root, settings(**PLAIN)).evaluate("val")
    assert whole.metrics["n_grounded"] == 2 and len(whole.predictions["spans"]) == 2


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"options": [], "answer_index": None}, "has 0 options"),
        ({"answer": None, "answer_index": None}, "no answers to learn from"),
    ],
)
def test_questions_that_cannot_be_learned_from_are_named(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        task_of(small_world(tmp_path / "b", train=columns), settings(**PLAIN))


def test_standardised_features_train_and_their_scale_is_saved(world: Path, tmp_path: Path) -> None:
    task = task_of(world, settings(data={"standardise": True}, loop={"epochs": 1, "tensorboard": False}))
    run_loop(task, task.config.loop, tmp_path, RANKS, Progress())
    again = task_of(world, task.config)
    again.model.scale.mean.zero_()
    checkpoint.load_best(tmp_path / BEST, again.model)
    with Store.open(world, lease=False) as store:
        rows = np.concatenate([store.row("clip", f"v{number}") for number in range(48)])
    np.testing.assert_allclose(again.model.scale.mean, rows.mean(0), atol=1e-5)
    assert evaluate(again, "val", task.config.loop, RANKS) == evaluate(task, "val", task.config.loop, RANKS)


def test_questions_about_videos_without_a_row_are_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    root = small_world(tmp_path / "missing")
    put_questions(root, "toy", "train", questions((77, 0, 1, 2)))
    with pytest.raises(StoreError, match="allow: missing"):
        task_of(root, settings(**PLAIN))
    with pytest.warns(UserWarning, match="'train': 1 questions about 1 videos without a row are left out"):
        task = task_of(root, settings(**{**PLAIN, "data": {"batch": 3, "allow": ["missing"]}}))
    [batch] = task.batches(0, 0)
    assert len(batch.video) == 3 and bool(task.loss(batch)["total"].isfinite())


def test_the_released_recipe_tells_spans_by_the_published_times(tmp_path: Path) -> None:
    """The published times run 0.40 s late; a store has them beside the true ones (``docs/facts/cra.md`` fact 16)."""
    root = tmp_path / "store"
    create_store(root)
    late = [replace(video(number), published_time_s=np.arange(STEPS) + 0.7) for number in range(6)]
    commit_rows(root, late, feature="clip", spec=SPEC)
    for split, numbers in (("train", range(4)), ("val", (4, 5))):
        put_questions(root, "toy", split, questions(numbers))
    for recipe, first in (("paper", 0.5), ("released", 0.7)):
        config = settings(**PLAIN).model_dump(exclude_unset=True) | {"recipe": recipe}
        task = task_of(root, CraConfig.model_validate(config))
        assert evaluate(task, "val", task.config.loop, RANKS).predictions["times"]["v4"][0] == first


def test_options_that_are_embedded_in_the_store(tmp_path: Path) -> None:
    root = small_world(tmp_path / "stored")
    with pytest.raises(
        StoreError, match=r"no text embeddings in version \d+; list the text encoder under option_embed"
    ):
        task_of(root, settings(**PLAIN, text={"encoder": "stored"}))
    with Store.open(root, lease=False) as store:
        texts = option_texts(store.table("questions"))
    embed(root, EncoderConfig(name="hashed").build(), texts)
    task = task_of(root, settings(**PLAIN, text={"encoder": "stored"}))
    assert bool(task.loss(next(iter(task.batches(0, 0))))["total"].isfinite())
    with pytest.raises(ValueError, match="no embeddings of paraphrases"):
        settings(data={"paraphrases": "p.json"}, text={"encoder": "stored"})


def test_what_the_published_recipe_needs_and_lacks_is_said(tmp_path: Path) -> None:
    root = small_world(tmp_path / "store")
    with pytest.warns(UserWarning, match="no question is paraphrased: .* name it as data.paraphrases"):
        task_of(root, settings(**{**PLAIN, "data": {"batch": 2, "paraphrase": 0.3}}))


def test_a_model_that_perceives_questions_alone_sees_no_frame(world: Path) -> None:
    blind = task_of(world, settings(data={"inputs": "question"}))
    assert not next(iter(blind.batches(0, 0))).video.any()
    seeing = task_of(world, settings())
    assert next(iter(seeing.batches(0, 0))).video.any()
    by_text: dict[tuple[str, ...], set[tuple[float, ...]]] = {}
    found = evaluate(blind, "val", blind.config.loop, RANKS).predictions["scores"]
    dataset = blind._datasets["val"].questions
    for video_id, text, options in zip(dataset.video_ids, dataset.texts, dataset.options, strict=True):
        rounded = tuple(np.round(found[f"{video_id}_0"], 5).tolist())
        by_text.setdefault((text, *options), set()).add(rounded)
    assert all(len(scores) == 1 for scores in by_text.values())  # equal questions of other videos, equal answers


def test_what_the_parser_found_can_be_dealt_anew_or_taken_out_of_the_dictionary(world: Path) -> None:
    with Store.open(world, lease=False) as store:
        parsed, shuffled, dropped = (
            load_dictionary(store, "linguistic_dictionary", settings(data={"graphs": graphs}).data)
            for graphs in ("parsed", "shuffled", "dropped")
        )
    assert not torch.equal(shuffled, parsed)
    for number, node in enumerate(NODES):
        if node in PARSED:
            assert not dropped[:, number].any()
            assert sorted(shuffled[:, number].tolist()) == sorted(parsed[:, number].tolist())
        else:
            assert torch.equal(shuffled[:, number], parsed[:, number])
            assert torch.equal(dropped[:, number], parsed[:, number])
