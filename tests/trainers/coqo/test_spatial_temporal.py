"""The divided transformer: repeated questions, chunks and recomputation give what they should."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests._helpers.coqo_building import settings
from trainers.coqo.spatial_temporal import DividedQGT, SpatialQGT

DIM = 32


def spatial(**model: Any) -> SpatialQGT:
    torch.manual_seed(0)
    return SpatialQGT(settings(**model).model).eval()


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q_mask = torch.tensor([[True, True, True], [True, False, False]])
    return torch.randn(2, 5, 3, 3, DIM, generator=generator), torch.randn(2, 3, DIM, generator=generator), q_mask


def test_each_frame_alone_with_repeated_questions_gives_the_same() -> None:
    """``docs/facts/coqo.md`` section 3.5 repeats F_t for each of B*T frames; here nothing is repeated."""
    module = spatial()
    x, questions, q_mask = data()
    together = module(x, questions, q_mask)
    frames = x.flatten(0, 1)[:, None]  # every frame as a video of its own
    alone = module(frames, questions.repeat_interleave(5, 0), q_mask.repeat_interleave(5, 0))
    torch.testing.assert_close(together, alone.view(2, 5, DIM))


@pytest.mark.parametrize("guidance", ["shared", "per_question"])
def test_chunks_and_recomputation_change_neither_values_nor_gradients(guidance: str) -> None:
    x, questions, q_mask = data()
    results = []
    for chunk, checkpoint in ((5, False), (2, False), (5, True), (2, True)):
        module = spatial(spatial_chunk=chunk, checkpoint=checkpoint, qgt={"guidance": guidance})
        out = module(x, questions, q_mask)
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad for parameter in module.parameters())])
    assert all(grad is not None for grad in results[0])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-4)


def test_recomputation_keeps_a_fraction_of_the_activations() -> None:
    def kept(**model: Any) -> int:
        module, (x, questions, q_mask) = spatial(**model), data()
        weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = module(x.repeat(1, 8, 1, 1, 1), questions, q_mask)
        assert out.requires_grad
        return sum(storages.values())

    assert kept(checkpoint=True) < 0.15 * kept(checkpoint=False)


def test_left_and_right_differ_only_with_positions() -> None:
    x, questions, q_mask = data()
    mirrored = x.flip(3)
    for positions, same in (("none", True), ("sinusoidal", False)):
        module = spatial(positions=positions)
        close = torch.allclose(module(x, questions, q_mask), module(mirrored, questions, q_mask), atol=1e-5)
        assert close == same


def test_pooled_features_skip_the_spatial_stage() -> None:
    module = DividedQGT(settings().model, spatial=False).eval()
    x, questions, q_mask = data()
    pooled = x.mean((2, 3))
    valid = torch.ones(2, 5, dtype=torch.bool)
    out = module(pooled, torch.zeros_like(pooled), valid, questions, q_mask)
    torch.testing.assert_close(out, module.temporal(pooled, valid, questions, q_mask))
