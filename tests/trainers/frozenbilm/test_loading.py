"""Published files are loaded whole or refused (``docs/facts/frozenbilm.md`` section 13)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests._helpers.frozenbilm import FEATURES, config, dead_parameters, make, published_state, save
from trainers.errors import TrainingError
from trainers.frozenbilm.loading import (
    load_checkpoint,
    load_language_model,
    load_weights,
    published_names,
    read_config,
)
from trainers.frozenbilm.model import FrozenBilm

KEYS = {"posthoc": 95, "gaussian": 113, "cra": 164}


def model_of(method: str, **chosen: Any) -> FrozenBilm:
    return make(config(method, **chosen), 16 if method == "cra" else FEATURES)


def state_of(method: str) -> dict[str, Tensor]:
    """A whole published state, dead parameters included."""
    return published_state(model_of(method)) | (dead_parameters(32, 16, 8) if method == "cra" else {})


def loaded(model: FrozenBilm) -> dict[str, Tensor]:
    own = dict(model.named_parameters())
    return {name: own[ours].detach() for ours, name in published_names(model).items()}


@pytest.mark.parametrize("method", KEYS)
def test_a_whole_file_is_loaded_exactly(method: str, tmp_path: Path) -> None:
    state = state_of(method)
    assert len(state) == KEYS[method]  # the published figure
    model = model_of(method)
    load_checkpoint(model, save(state, tmp_path / "whole.pth"), whole=True)
    for name, tensor in loaded(model).items():
        assert torch.equal(tensor, state[name]), name


def test_the_back_door_of_a_published_file_is_loaded_where_it_is_used(tmp_path: Path) -> None:
    model, state = model_of("cra", back=True), state_of("cra")
    load_checkpoint(model, save(state, tmp_path / "whole.pth"))
    found = loaded(model)
    assert torch.equal(found["do._lin_do.gcn.lin.weight"], state["do._lin_do.gcn.lin.weight"].T)
    assert torch.equal(found["do._lin_do.node"], state["do._lin_do.node"])


@pytest.mark.parametrize("method", KEYS)
def test_a_file_of_what_was_trained_is_loaded_over_the_rest(method: str, tmp_path: Path) -> None:
    model, state = model_of(method), state_of(method)
    names = published_names(model)
    trained = {names[name] for name, one in model.named_parameters() if one.requires_grad}
    kept = {name: one for name, one in state.items() if name in trained or name.startswith(("do._lin_do", "do.lin_"))}
    before = loaded(model)["deberta.embeddings.word_embeddings.weight"].clone()
    load_checkpoint(model, save(kept, tmp_path / "tuned.pth"))
    found = loaded(model)
    assert torch.equal(found["deberta.embeddings.word_embeddings.weight"], before)
    assert all(torch.equal(found[name], state[name]) for name in trained)
    with pytest.raises(TrainingError, match=r"tuned\.pth: has not the tensors of all of the whole model: it lacks"):
        load_checkpoint(model, tmp_path / "tuned.pth", whole=True)


def test_cra_starts_from_frozenbilm_and_keeps_its_own_head(tmp_path: Path) -> None:
    model, state = model_of("cra"), state_of("posthoc")
    before = loaded(model)["do.vis_norm.weight"].clone()
    load_checkpoint(model, save(state, tmp_path / "frozenbilm.pth"), whole=True)
    assert torch.equal(loaded(model)["do.vis_norm.weight"], before)
    name = "deberta.encoder.layer.1.output.adapter.down.weight"
    assert torch.equal(loaded(model)[name], state[name])


def test_answers_of_another_number_are_those_of_the_model(tmp_path: Path) -> None:
    model, state = model_of("posthoc"), state_of("posthoc")
    before = loaded(model)["answer_embeddings.weight"].clone()
    state["answer_embeddings.weight"], state["answer_bias"] = torch.ones(1000, 32), torch.ones(1000)
    load_checkpoint(model, save(state, tmp_path / "open.pth"), whole=True)
    assert torch.equal(loaded(model)["answer_embeddings.weight"], before)


def drop(state: dict[str, Tensor]) -> None:
    del state["deberta.encoder.conv.conv.bias"]


def add(state: dict[str, Tensor]) -> None:
    state["cls.predictions.bias"] = torch.zeros(40)


def untie(state: dict[str, Tensor]) -> None:
    state["lm_predictions.lm_head.decoder.weight"] = state["deberta.embeddings.word_embeddings.weight"] + 1


def widen(state: dict[str, Tensor]) -> None:
    state["deberta.embeddings.linear_video.weight"] = torch.zeros(32, 768)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop, r"it lacks deberta\.encoder\.conv\.conv\.bias$"),
        (add, r"it adds cls\.predictions\.bias$"),
        (untie, r"decoder\.weight is not deberta\.embeddings\.word_embeddings\.weight; published models tie them"),
        (widen, r"linear_video\.weight is 32×768; the model has 32×12: other sizes, or features of another width"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(change: Any, says: str, tmp_path: Path) -> None:
    state = state_of("posthoc")
    change(state)
    with pytest.raises(TrainingError, match=says) as caught:
        load_checkpoint(model_of("posthoc"), save(state, tmp_path / "bad.pth"))
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_weights_are_one_line(tmp_path: Path) -> None:
    torch.save({"model": {"a": 1}}, tmp_path / "numbers.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name, says in (("numbers", "holds no weights by name"), ("text", "not readable"), ("none", "not readable")):
        with pytest.raises(TrainingError, match=rf"{name}\.pth: {says}") as caught:
            load_checkpoint(model_of("posthoc"), tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


def test_a_file_of_microsoft_is_loaded_exactly(tmp_path: Path) -> None:
    """It has the position table and the head that transformers would drop, and an own head that nobody needs."""
    model, state = model_of("posthoc"), state_of("posthoc")
    own = {name: one for name, one in state.items() if "adapter" not in name and "answer_" not in name}
    own = {name: one.clone() for name, one in own.items() if "linear_video" not in name}
    torch.save({**own, "mask_predictions.dense.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    load_weights(model.language, tmp_path / "pytorch_model.bin")
    found = loaded(model)
    assert all(torch.equal(found[name], one) for name, one in own.items() if name in found)
    del own["deberta.embeddings.position_embeddings.weight"]
    save_file(own, tmp_path / "model.safetensors")
    with pytest.raises(TrainingError, match=r"the language model: it lacks .*position_embeddings\.weight"):
        load_weights(model.language, tmp_path / "model.safetensors")


def test_a_folder_without_its_parts_is_one_line(tmp_path: Path) -> None:
    chosen = config().model.model_copy(update={"weights": str(tmp_path / "nowhere")})
    with pytest.raises(TrainingError, match=r"nowhere': no such folder; name that of deberta-v2-xlarge, or random:"):
        load_language_model(chosen, FEATURES)
    chosen = config().model.model_copy(update={"weights": str(tmp_path)})
    with pytest.raises(TrainingError, match=r"has neither spm\.model nor tokenizer\.json"):
        load_language_model(chosen, FEATURES)
    with pytest.raises(TrainingError, match=r"config\.json: not readable"):
        read_config(tmp_path, chosen)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(TrainingError, match=r"config\.json: model_type 'bert', relative_attention None"):
        read_config(tmp_path, chosen)
