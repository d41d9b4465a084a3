"""Explicit Causal Intervention: front door on the video, back door on language.

``docs/facts/cra.md`` sections 4.5 and 4.6; with attention in another width than the network's, as on a large language
model, ``docs/facts/frozenbilm.md`` section 9. B questions, K clusters of a dictionary, d width of the network, i width
of the attention, F numbers of a frame's feature, E numbers of a node's text embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NODES = ("question", "question_type", "subject", "verbs", "objects", "answer", "answer_verbs", "answer_objects")
"""Nodes of the semantic graph of a question and its answer, in the order of a dictionary's rows."""
PARSED = ("subject", "verbs", "objects", "answer_verbs", "answer_objects")
"""The nodes whose texts a parser finds."""
EDGES = ((0, 5), (0, 1), (0, 2), (0, 3), (0, 4), (2, 4), (2, 3), (4, 3), (5, 6), (5, 7), (6, 7), (2, 5))
"""Edges (source, target) of the graph, as positions in ``NODES``; the same for every question."""


def attend(query: Tensor, keys: Tensor, values: Tensor, dim: int, present: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, ``[B, *]``.

    Parameters
    ----------
    query, keys, values
        ``[B, i]``, ``[K, i]`` and ``[K, *]``.
    dim
        d.
    present
        ``[K] bool``, keys that may be attended to; None allows all.
    """
    logits = query @ keys.T / math.sqrt(dim)
    if present is not None:
        logits = logits.masked_fill(~present, -torch.inf)
    return torch.softmax(logits, dim=-1) @ values


class Adjustment(nn.Module):
    """What the front door adds, with the grounded segment as the mediator M between video X and answer Y.

    Parameters
    ----------
    dictionary
        X_hat ``[K, F]``, cluster centres of training frames. They are parameters and change in training.
    dim
        d.
    batch_mixing
        Attend over the videos of the whole batch, as published (a1 in section 4.6). Otherwise each video attends only
        to itself, so that a1 = 1 and the mediator enters through the residual, as the published code does for a batch
        of one.
    inner
        i; None takes d.
    """

    def __init__(self, dictionary: Tensor, dim: int, batch_mixing: bool = False, inner: int | None = None) -> None:
        super().__init__()
        width = inner or dim
        self.dim = dim
        self.dictionary = nn.Parameter(dictionary.clone())
        self.prob_m = nn.Linear(dim, width) if batch_mixing else None
        self.prob_x = nn.Linear(dim, width)
        self.prob_x_hat = nn.Linear(dictionary.shape[1], width)
        self.prob_x_m = nn.Linear(width, dim)
        self.prob_x_hat_x = nn.Linear(width, dim)
        self.out = nn.Linear(2 * dim, dim)

    def adjust(self, x: Tensor, m: Tensor, present: Tensor | None = None) -> Tensor:
        """Return what x* (the mean frame) and m (the grounded segment), both ``[B, d]``, add to the answer: ``[B, d]``.

        Without ``batch_mixing`` it depends on x* alone; with it, ``present [B] bool`` are the samples that mix.
        """
        px = self.prob_x(x)  # [B, i]
        ph = self.prob_x_hat(self.dictionary)  # [K, i]
        own = px if self.prob_m is None else attend(self.prob_m(m), px, px, self.dim, present)  # a1 px
        u = self.prob_x_m(own)  # P(M | X)
        v = self.prob_x_hat_x(attend(px, ph, ph, self.dim))  # P(Y | X_hat, M) P(X_hat)
        added: Tensor = self.out(torch.cat([u, v], dim=-1))
        return added


class FrontDoor(Adjustment):
    """P(Y | do(V)): the grounded segment and its adjustment, normalised; see ``Adjustment``."""

    def __init__(self, dictionary: Tensor, dim: int, batch_mixing: bool = False) -> None:
        super().__init__(dictionary, dim, batch_mixing)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """Adjust x* (the mean frame) and m (the grounded segment), both ``[B, d]``, to z ``[B, d]``."""
        z: Tensor = self.norm(self.adjust(x, m) + m)
        return z


def normalised_adjacency() -> Tensor:
    """Return D^-1/2 (A + I) D^-1/2, ``[8, 8]``.

    Rows are targets. D counts the edges into a node, including the loop of I.
    """
    adjacency = torch.eye(len(NODES))
    for source, target in EDGES:
        adjacency[target, source] = 1
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


class GraphConvolution(nn.Module):
    """A graph convolution over the 8 nodes, A_hat X W + b (Kipf and Welling, ICLR 2017, arXiv:1609.02907)."""

    adjacency: Tensor

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(in_dim, out_dim)))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.register_buffer("adjacency", normalised_adjacency(), persistent=False)

    def forward(self, nodes: Tensor) -> Tensor:
        """Map ``[..., 8, in_dim]`` to ``[..., 8, out_dim]``."""
        return self.adjacency @ (nodes @ self.weight) + self.bias


class BackDoor(nn.Module):
    """P(Y | do(Q)): the query, adjusted for the confounders in a dictionary of semantic graphs.

    Parameters
    ----------
    dictionary
        ``[K, 8, E]``, cluster centres of the graphs of training questions. They are parameters and change in training.
    dim
        d.
    inner
        i; None takes d. Each of the 8 nodes gives i / 8 numbers of a confounder.
    """

    def __init__(self, dictionary: Tensor, dim: int, inner: int | None = None) -> None:
        super().__init__()
        width = inner or dim
        self.dim = dim
        self.dictionary = nn.Parameter(dictionary.clone())
        self.graph = GraphConvolution(dictionary.shape[2], width // len(NODES))
        self.query, self.key, self.value = nn.Linear(dim, width), nn.Linear(width, width), nn.Linear(width, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, query: Tensor) -> Tensor:
        """Adjust the query ``[B, d]``."""
        confounders = self.graph(self.dictionary).flatten(1)  # Z [K, i]
        found = attend(self.query(query), self.key(confounders), self.value(confounders), self.dim)
        adjusted: Tensor = self.norm(found + query)
        return adjusted
