"""FrozenBiLM trained from a small store: losses, answers and spans, checkpoints, and the frozen part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from stores import Store
from tests._helpers import cra_worlds
from tests._helpers.frozenbilm import language_folder, save, settings
from trainers import checkpoint
from trainers.cra import spans
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.folder import BEST, LAST
from trainers.frozenbilm.config import FrozenBilmConfig
from trainers.frozenbilm.loading import published_names
from trainers.frozenbilm.losses import balanced_bce
from trainers.frozenbilm.prompts import load_tokeniser
from trainers.frozenbilm.task import FrozenBilmTask, build
from trainers.loop import evaluate, train
from trainers.parts import parts_of_frozenbilm
from trainers.progress import Progress

RANKS = Ranks(0, 1, torch.device("cpu"))
TEXTS = ["what colour does it show", *cra_worlds.COLOURS]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cra_worlds.world(tmp_path_factory.mktemp("world") / "store")


def task_of(root: Path, config: FrozenBilmConfig, ranks: Ranks = RANKS) -> FrozenBilmTask:
    return build(config, Store.open(root, lease=False), ranks)


def run(task: FrozenBilmTask, folder: Path) -> None:
    train(task, task.config.loop, folder, RANKS, Progress())


def test_cra_on_a_language_model_learns_answers_and_where_they_show(world: Path, tmp_path: Path) -> None:
    chosen = settings(model={"method": "cra"}, loss={"align": 0.1}, loop={"epochs": 25}, data={"batch": 8})
    task = task_of(world, chosen)
    run(task, tmp_path)
    checkpoint.load_best(tmp_path / BEST, task.model)
    metrics = evaluate(task, "val", chosen.loop, RANKS).metrics
    assert metrics["n"] == metrics["n_grounded"] == 16
    assert metrics["acc_vqa"] > 80  # 33 by chance
    assert metrics["miop"] > 50  # 25 by chance


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("method", ["posthoc", "gaussian", "cra"])
def test_losses_are_those_of_their_formula(world: Path, recipe: str, method: str) -> None:
    task = task_of(world, settings(recipe, model={"method": method}, loss={"vq": 0.5, "align": 0.25}))
    batch = next(task.batches(0, 0))
    torch.manual_seed(0)
    losses = task.loss(batch)
    assert set(losses) == {"total", "vqa", "vq", *(("align",) if method == "cra" else ())}
    expected = losses["vqa"] + 0.5 * losses["vq"] + 0.25 * losses.get("align", 0)
    assert losses["total"].item() == pytest.approx(expected.item(), rel=1e-5)
    scored = task.model(batch.video, batch.valid, batch.options.candidates, batch.options.exists)
    right = balanced_bce(scored.logits, batch.options.right, batch.options.exists)
    assert losses["vqa"].item() == pytest.approx(right.item(), rel=1e-5)
    metrics = evaluate(task, "val", task.config.loop, RANKS).metrics
    assert 0 <= metrics["acc_gqa"] <= metrics["acc_vqa"] <= 100


def test_spans_are_those_of_the_predicted_option(world: Path) -> None:
    for method, rule in (("posthoc", "posthoc"), ("cra", "posthoc"), ("gaussian", "proposal")):
        task = task_of(world, settings(model={"method": method}))
        found = evaluate(task, "val", task.config.loop, RANKS).predictions
        files = json.loads(json.dumps(found))
        assert ("spans_proposal" in files) == (method == "gaussian")
        assert files["spans"] == files.get(f"spans_{rule}", files["spans"])
        for key, answer in files["answers"].items():
            assert np.argmax(files["scores"][key]) == answer["prediction"]
            times = files["times"][key.partition("_")[0]]
            if method != "gaussian":
                assert files["spans"][key] == spans.posthoc(files["attention"][key], times)
        assert len(files["answers"]) == 16


def test_a_step_is_the_same_whenever_it_is_made(world: Path) -> None:
    task, again = (task_of(world, settings(model={"method": "cra"}, loss={"vq": 1.0})) for _ in range(2))
    one, other = next(task.batches(1, 1)), list(again.batches(1, 0))[1]
    assert torch.equal(one.options.candidates, other.options.candidates) and torch.equal(one.video, other.video)
    for left, right in zip(task.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert task.loss(one)["vqa"].item() == again.loss(other)["vqa"].item()


@pytest.mark.parametrize("method", ["posthoc", "gaussian", "cra"])
@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_every_trained_parameter_has_a_gradient_or_the_task_says_so(world: Path, method: str, recipe: str) -> None:
    """Several ranks could not average gradients otherwise."""
    for chosen in ({}, {"batch_mixing": False, "grounding": "published"}):
        task = task_of(world, settings(recipe, model={"method": method, **chosen}, loss={"align": 0.0}))
        task.loss(next(task.batches(0, 0)))["total"].backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        unused = [name for name, one in task.model.named_parameters() if one.requires_grad and one.grad is None]
        assert bool(unused) == task.leaves_parameters_unused, unused


def test_half_precision_changes_losses_little(world: Path) -> None:
    for method in ("posthoc", "gaussian", "cra"):
        task = task_of(world, settings(model={"method": method}))
        batch, losses = next(task.batches(0, 0)), []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses.append(task.loss(batch)["vqa"])
        assert losses[1].dtype == torch.float32
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.03)


def test_a_language_model_from_a_folder_stays_frozen_and_out_of_checkpoints(world: Path, tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "language", TEXTS)
    chosen = settings(model={"weights": str(folder), "trained": "adapters", "method": "cra", "reduction": 4})
    task = task_of(world, chosen)
    words = task.model.language.deberta.embeddings.word_embeddings.weight.clone()
    run(task, tmp_path / "run")
    assert torch.equal(task.model.language.deberta.embeddings.word_embeddings.weight, words)
    trained = {name for name, one in task.model.named_parameters() if one.requires_grad}
    with safe_open(tmp_path / "run" / BEST, "pt") as file:
        assert set(file.keys()) == trained
    last = checkpoint.load_last(tmp_path / "run")
    assert last is not None and set(last["model"]) == trained
    scored = evaluate(task, "val", chosen.loop, RANKS)
    again = task_of(world, chosen)
    checkpoint.load_best(tmp_path / "run" / BEST, again.model)
    if last["best_epoch"] == 2:
        assert evaluate(again, "val", chosen.loop, RANKS) == scored
    described = checkpoint.read_description(tmp_path / "run" / BEST)["task"]
    assert described["vocabulary"] is None and len(described["weights"]["language"]) == 64
    del last["model"]["top.norm.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*top\.norm\.weight"):
        again.model.load_state_dict(last["model"])


def test_a_run_does_not_go_on_with_another_language_model(world: Path, tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "language", TEXTS)
    chosen = settings(model={"weights": str(folder), "trained": "adapters"}, loop={"epochs": 1})
    run(task_of(world, chosen), tmp_path / "run")
    run(task_of(world, chosen), tmp_path / "run")
    language_folder(folder, [*TEXTS, "more"])
    with pytest.raises(TrainingError, match=r"holds a run with other settings \(task\.weights\.language: "):
        run(task_of(world, chosen), tmp_path / "run")


def test_random_weights_are_kept_with_their_words(world: Path, tmp_path: Path) -> None:
    chosen = settings(loop={"epochs": 1})
    task = task_of(world, chosen)
    run(task, tmp_path)
    described = checkpoint.read_description(tmp_path / BEST)["task"]
    assert described["weights"] == {"language": "random:0"}
    assert {"colour", "red", "yes", "subtitles"} <= set(described["vocabulary"]["words"])
    assert described["vocabulary"]["version"] == 1
    with safe_open(tmp_path / BEST, "pt") as file:
        assert set(file.keys()) == set(task.model.state_dict())
    assert (tmp_path / LAST).exists()


def test_frozen_random_weights_are_said(world: Path) -> None:
    with pytest.warns(UserWarning, match="the language model is frozen with random weights"):
        task_of(world, settings(model={"trained": "adapters"}))


def test_a_whole_checkpoint_needs_no_weights_beside_it(tmp_path: Path) -> None:
    """Its answers are those of an open-ended data set; ours are the words Yes and No of the same file."""
    root = cra_worlds.small_world(tmp_path / "store")
    folder = language_folder(tmp_path / "language", TEXTS)
    model = {"weights": str(folder), "trained": "adapters", "reduction": 4}
    first = task_of(root, settings(model=model))
    own = dict(first.model.named_parameters())
    state = {name: own[ours].detach() * 2 for ours, name in published_names(first.model).items()}
    words = state["deberta.embeddings.word_embeddings.weight"]
    state |= {"answer_embeddings.weight": torch.ones(1000, 32), "answer_bias": torch.ones(1000)}
    model["checkpoint"] = str(save(state, tmp_path / "frozenbilm.pth"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        task_of(root, settings(model={**model, "checkpoint": None}))
    task = task_of(root, settings(model=model))
    tokens = load_tokeniser(folder)
    chosen = words[[tokens.word("Yes"), tokens.word("No")]]
    assert torch.equal(task.model.language.answer_embeddings.weight, chosen) and not torch.equal(*chosen)
    described: Any = task.describe()
    assert described["weights"]["language"] == "" and len(described["weights"]["checkpoint"]) == 64
    trained = {name for name, one in task.model.named_parameters() if one.requires_grad}
    names = published_names(task.model)
    save({names[name]: state[names[name]] for name in trained}, tmp_path / "frozenbilm.pth")
    with pytest.raises(TrainingError, match=r"frozenbilm\.pth: has not the tensors of all of the whole model"):
        task_of(root, settings(model=model))


def test_what_weights_lack_is_drawn_from_the_seed(tmp_path: Path) -> None:
    root = cra_worlds.small_world(tmp_path / "store")
    model = {"weights": str(language_folder(tmp_path / "language", TEXTS)), "trained": "adapters"}
    one, other, third = (task_of(root, settings(model=model, loop={"seed": seed})).model for seed in (1, 1, 2))
    name = "language.deberta.encoder.layer.0.output.adapter.down.weight"
    assert torch.equal(one.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), third.get_parameter(name))


def test_all_that_keeps_a_run_from_starting_is_read_part_by_part(tmp_path: Path) -> None:
    root = cra_worlds.small_world(tmp_path / "store")
    chosen = settings(
        model={"weights": str(tmp_path / "none"), "trained": "adapters", "method": "cra", "checkpoint": "none.pth"}
    )
    said = []
    with Store.open(root, lease=False) as store:
        for part in parts_of_frozenbilm(chosen, store):
            try:
                part()
            except TrainingError as error:
                said.append(str(error))
    for obstacle in ("no linguistic dictionary", "no visual dictionary", "no such folder", "none.pth: not readable"):
        assert any(obstacle in line for line in said), said
