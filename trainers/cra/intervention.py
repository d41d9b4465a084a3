"""Explicit Causal Intervention: front-door on the video, back-door on language (facts/cra.md sections 4.5, 4.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# The semantic graph of a question and its answer: question, question_type, subject, verbs, objects, answer,
# answer_verbs, answer_objects; (source, target), the same for every question.
NODES = 8
EDGES = ((0, 5), (0, 1), (0, 2), (0, 3), (0, 4), (2, 4), (2, 3), (4, 3), (5, 6), (5, 7), (6, 7), (2, 5))


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: ``[B, d]``, ``[K, d]``, ``[K, d]`` to ``[B, d]``."""
    return torch.softmax(query @ keys.T / math.sqrt(query.shape[-1]), dim=-1) @ values


class FrontDoor(nn.Module):
    """P(Y | do(V)), with the grounded segment as the mediator M between video X and answer Y.

    Parameters
    ----------
    dictionary : X_hat ``[K, F]``, cluster centres of training frames; trained on.
    dim : d.
    batch_mixing : a1 attends over the videos of the whole batch, as published. Otherwise a video attends to itself
        alone, so that a1 = 1 and the mediator enters through the residual: what the published code does for a batch of
        one.
    """

    def __init__(self, dictionary: Tensor, dim: int, batch_mixing: bool = False) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(dictionary.clone())
        self.prob_m = nn.Linear(dim, dim) if batch_mixing else None
        self.prob_x = nn.Linear(dim, dim)
        self.prob_x_hat = nn.Linear(dictionary.shape[1], dim)
        self.prob_x_m = nn.Linear(dim, dim)
        self.prob_x_hat_x = nn.Linear(dim, dim)
        self.out = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """x* (the mean frame) and m (the grounded segment), both ``[B, d]``, to z ``[B, d]``."""
        px = self.prob_x(x)
        ph = self.prob_x_hat(self.dictionary)  # [K, d]
        own = px if self.prob_m is None else attend(self.prob_m(m), px, px)
        u = self.prob_x_m(own)  # P(M | X)
        v = self.prob_x_hat_x(attend(px, ph, ph))  # P(Y | X_hat, M) P(X_hat)
        z: Tensor = self.norm(self.out(torch.cat([u, v], dim=-1)) + m)
        return z


def normalised_adjacency() -> Tensor:
    """``[8, 8]``: D^-1/2 (A + I) D^-1/2, row = target; D counts edges into a node, its own loop included."""
    adjacency = torch.eye(NODES)
    for source, target in EDGES:
        adjacency[target, source] = 1
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


class GraphConvolution(nn.Module):
    """One graph convolution (Kipf and Welling 2017) over the 8 nodes: A_hat X W + b."""

    adjacency: Tensor

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(in_dim, out_dim)))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.register_buffer("adjacency", normalised_adjacency(), persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """``[..., 8, in_dim]`` to ``[..., 8, out_dim]``."""
        return self.adjacency @ (nodes @ self.weight) + self.bias


class BackDoor(nn.Module):
    """P(Y | do(Q)): the query, adjusted by the confounders of a dictionary of semantic graphs.

    Parameters
    ----------
    dictionary : ``[K, 8, E]``, cluster centres of training questions' graphs; trained on.
    dim : d; each node gives d / 8 numbers of a confounder.
    """

    def __init__(self, dictionary: Tensor, dim: int) -> None:
        super().__init__()
        self.dictionary = nn.Parameter(dictionary.clone())
        self.graph = GraphConvolution(dictionary.shape[2], dim // NODES)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, query: Tensor) -> Tensor:
        """``[B, d]`` to ``[B, d]``."""
        confounders = self.graph(self.dictionary).flatten(1)  # Z [K, d]
        adjusted: Tensor = self.norm(attend(self.query(query), self.key(confounders), self.value(confounders)) + query)
        return adjusted
