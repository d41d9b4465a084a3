"""The networks give the figures of the published code at small width (``docs/facts/frozenbilm.md`` section 12)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests._helpers.frozenbilm import ALL, FRAMES, GOLDEN, IDS, MASK, SHORT, published, video
from trainers.cra.spans import best_window
from trainers.frozenbilm.grounding import Options, Top
from trainers.frozenbilm.losses import balanced_bce
from trainers.frozenbilm.model import FrozenBilm
from trainers.frozenbilm.tower import JointStates

TOLERANCE = 1e-5


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(expected), atol=TOLERANCE, rtol=0)


def summed(found: Tensor, expected: Any) -> None:
    """Compare with a summary: the shape, sums, and first and last entries."""
    flat = found.detach().flatten()
    assert list(found.shape) == expected["shape"]
    assert flat.sum().item() == pytest.approx(expected["sum"], abs=1e-4)
    assert flat.abs().sum().item() == pytest.approx(expected["abs_sum"], abs=1e-4)
    close(flat[: len(expected["first"])], expected["first"])
    close(flat[-len(expected["last"]) :], expected["last"])


def read(model: FrozenBilm, valid: Tensor, ids: Tensor = IDS, frames: Tensor | None = None) -> JointStates:
    frames = video() if frames is None else frames
    at = (ids == MASK).int().argmax(1)
    sequence: JointStates = model.language(frames, valid, ids, at, attention=True)
    return sequence


@torch.no_grad()
def test_frozenbilm(tmp_path: Path) -> None:
    model, golden = published(tmp_path), GOLDEN["frozenbilm"]
    sequence = read(model, SHORT)
    close(model.language.answer_bias, golden["answer_bias"])
    close(model.language.answer_scores(sequence.masked), golden["mask_logits"])
    summed(model.language.answer_scores(sequence.states[sequence.present]), golden["logits_valid"])
    close(sequence.attention, golden["att_last_mask_row"])  # type: ignore[arg-type]  # it was asked for
    scored = model(video(), SHORT, IDS[:, None], torch.ones(2, 1, dtype=torch.bool))
    close(torch.sigmoid(scored.logits[:, 0]), golden["p_yes"])
    close(scored.weights[:, 0], golden["att_last_mask_row"])


@torch.no_grad()
def test_the_plain_layers_are_those_of_transformers(tmp_path: Path) -> None:
    """The last plain state is none of ours: transformers computes it from our parameters."""
    model = published(tmp_path)
    embeddings = model.language.deberta.embeddings
    joint = torch.cat([embeddings.linear_video(video()), embeddings.word_embeddings(IDS)], 1)
    present = torch.cat([SHORT, IDS != 0], 1)
    plain = model.language.deberta(inputs_embeds=joint, attention_mask=present.long()).last_hidden_state
    summed(plain[present], GOLDEN["frozenbilm"]["hidden_last"])


@torch.no_grad()
def test_words_are_scored_by_their_embeddings(tmp_path: Path) -> None:
    model, golden = published(tmp_path), GOLDEN["frozenbilm"]
    sequence = read(model, SHORT)
    summed(model.language.word_scores(sequence.masked), golden["mlm_logits_mask_row"])
    states = torch.stack([sequence.states[0, FRAMES + 3], sequence.states[1, FRAMES + 5]])
    loss = functional.cross_entropy(model.language.word_scores(states), torch.tensor([7, 9]))
    assert loss.item() == pytest.approx(golden["mlm_loss"], abs=TOLERANCE)


@torch.no_grad()
def test_text_alone(tmp_path: Path) -> None:
    model = published(tmp_path)
    alone = read(model, torch.ones(2, 0, dtype=torch.bool), frames=torch.zeros(2, 0, 12))
    close(model.language.answer_scores(alone.masked), GOLDEN["frozenbilm"]["text_only_mask_logits"])


@torch.no_grad()
def test_the_published_gaussian_reaches_no_answer(tmp_path: Path) -> None:
    model, golden = published(tmp_path, "gaussian"), GOLDEN["frozengqa_ng"]
    sequence = read(model, SHORT)
    top: Top = model.top(sequence, Options(torch.ones(2, 1, dtype=torch.bool), IDS != 0))  # type: ignore[misc]  # it has one
    assert torch.equal(top.state, sequence.masked)
    close(model.language.answer_scores(top.state), golden["mask_logits"])
    assert golden["mask_logits"] == GOLDEN["frozenbilm"]["mask_logits"]  # in the published code, too
    centre, width = torch.tensor(golden["extra"]["gcenter"]), torch.tensor(golden["extra"]["gwidth"])
    assert top.interval is not None
    close(top.interval[:, 0], (centre - width / 9).clamp_min(0).tolist())
    close(top.interval[:, 1], (centre + width / 9).clamp_max(1).tolist())


@torch.no_grad()
def test_the_published_gaussian_changes_the_frames(tmp_path: Path) -> None:
    """What no answer reads is what was published, too: states of frames after the second pass, and the Gaussian."""
    model, golden = published(tmp_path, "gaussian"), GOLDEN["frozengqa_ng"]
    sequence, kept = read(model, SHORT), []
    top: Any = model.top
    top.block.register_forward_hook(lambda module, inputs, out: kept.append((inputs, out)))
    top(sequence, Options(torch.ones(2, 1, dtype=torch.bool), IDS != 0))
    (_, _, g), changed = kept[1]
    close(g, golden["extra"]["gweight"])
    states = torch.cat([changed, sequence.states[:, FRAMES:]], 1)
    summed(model.language.answer_scores(states[sequence.present]), golden["logits_valid"])


@torch.no_grad()
def test_cra(tmp_path: Path) -> None:
    model, golden = published(tmp_path, "cra"), GOLDEN["cra"]
    kept: list[Tensor] = []
    top: Any = model.top
    top.front.prob_x.register_forward_hook(lambda module, inputs, out: kept.append(inputs[0]))
    adjust = top.front.adjust
    top.front.adjust = lambda *given: kept.append(adjust(*given)) or kept[-1]
    scored = model(video(), ALL, IDS[:, None], torch.ones(2, 1, dtype=torch.bool))
    close(torch.sigmoid(scored.logits[:, 0]), golden["p_yes"])
    close(scored.weights[:, 0], golden["key"])
    close(scored.attention[:, 0], golden["ori_key"])
    summed(scored.text[:, 0], golden["x_dot"])
    summed(scored.video[:, 0], golden["x_bar"])
    summed(kept[0], golden["x_star"])
    summed(kept[1], golden["prob_x"])
    windows = [best_window(row) for row in scored.weights[:, 0].numpy()]
    assert [[start, start + width] for start, width in windows] == golden["max_indices"]
    expected = torch.tensor(golden["mask_logits"])
    close(scored.logits[:, 0], (expected[:, 0] - expected[:, 1]).tolist())


@torch.no_grad()
def test_cra_alone_is_cra_in_a_batch_where_it_does_not_depend_on_it(tmp_path: Path) -> None:
    """Published answers depend on the batch and on its padding; two settings make them those of each sample alone."""
    model, golden = published(tmp_path, "cra"), torch.tensor(GOLDEN["cra"]["mask_logits_alone"])
    alone = (golden[:, 0] - golden[:, 1]).tolist()
    exists = torch.ones(1, 1, dtype=torch.bool)
    for row, length in enumerate((7, 9)):
        own = model(video()[row : row + 1], ALL[:1], IDS[row : row + 1, None, :length], exists)
        close(own.logits[0], [alone[row]])
    top: Any = model.top
    model.mask_padding, top.mixes, top.front.prob_m = True, False, None
    together = model(video(), ALL, IDS[:, None], torch.ones(2, 1, dtype=torch.bool))
    close(together.logits[:, 0], alone)


@torch.no_grad()
def test_padding_of_cra_reaches_to_the_longest_text_of_the_same_option(tmp_path: Path) -> None:
    """Options are read at once, but published code pads each option by itself."""
    model = published(tmp_path, "cra")
    exists = torch.ones(2, 2, dtype=torch.bool)
    longer = torch.nn.functional.pad(IDS, (0, 4))
    second = longer.clone()
    second[1, 8:] = torch.tensor([7, 7, 7, 7, 2])
    both = model(video(), ALL, torch.stack([longer, second], 1), exists)
    first = model(video(), ALL, IDS[:, None], exists[:, :1])
    torch.testing.assert_close(both.logits[:, :1], first.logits, atol=TOLERANCE, rtol=0)


def test_the_balanced_loss() -> None:
    scores = torch.tensor([[0.9, 0.2, 0.3, 0.4, 0.1], [0.3, 0.6, 0.2, 0.5, 0.25]])
    right = torch.tensor([0, 1])
    loss = balanced_bce(scores.logit(), right, torch.ones(2, 5, dtype=torch.bool))
    assert loss.item() == pytest.approx(GOLDEN["cra"]["balanced_bce"][2], abs=1e-6)
    padded = torch.nn.functional.pad(scores.logit(), (0, 1), value=-torch.inf)
    exists = torch.ones(2, 6, dtype=torch.bool)
    exists[:, 5] = False
    padded.requires_grad_(True)
    again = balanced_bce(padded, right, exists)
    assert again.item() == pytest.approx(loss.item(), abs=1e-7)
    again.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    assert padded.grad is not None and bool(padded.grad.isfinite().all())
