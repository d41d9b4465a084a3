"""CRA: cross-modal causal relation alignment for grounded video question answering.

"Cross-modal Causal Relation Alignment for Video Question Grounding", Chen et al., CVPR 2025, arXiv:2503.07635. The
forward pass follows ``docs/facts/cra.md`` section 5.3, and the names of its variables are those of that section.

B questions, K candidates of each, T frames, F numbers of a frame's feature, d width of the network, C clusters of a
dictionary, E numbers of a node's text embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from trainers.cra.config import ModelConfig
from trainers.cra.grounding import FrameAttention, Grounding, pool
from trainers.cra.intervention import BackDoor, FrontDoor
from trainers.cra.outputs import Grounded, query_of
from trainers.cra.temp_clip import TempClip
from trainers.cra.video import Decoder, UnbiasedLayerNorm, VideoEmbedding
from trainers.scaling import Standardise


class Cra(nn.Module):
    """Answers a question about a video, and weights the frames by what they tell about the answer.

    Parameters
    ----------
    config
        Sizes, dropout, and which modules there are.
    text
        Maps candidates to ``[B, K, d]``; one of ``trainers.cra.text``.
    feature_dim
        F.
    dictionaries
        ``linguistic_dictionary [C, 8, E]`` if ``config.back``, ``visual_dictionary [C, F]`` if ``config.front``.
    """

    def __init__(
        self, config: ModelConfig, text: nn.Module, feature_dim: int, dictionaries: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        dim = config.dim
        self.text = text
        self.embedding = VideoEmbedding(feature_dim, dim, config.dropout)
        norm = UnbiasedLayerNorm if config.layer_norm == "unbiased" else nn.LayerNorm
        dropouts = (config.decoder_dropout, config.attention_dropout)
        self.decoder = Decoder(dim, config.heads, config.layers, *dropouts, norm, cloned=config.init == "published")
        self.back = BackDoor(dictionaries["linguistic_dictionary"], dim) if config.back else None
        self.grounding = (
            Grounding(dim, config.gaussian, config.double_softmax, config.gated) if config.gsg else FrameAttention(dim)
        )
        self.out = nn.Sequential(nn.Dropout(0.1), nn.Linear(dim, dim))
        self.front = FrontDoor(dictionaries["visual_dictionary"], dim, config.batch_mixing) if config.front else None

    def forward(
        self, video: Tensor, valid: Tensor, candidates: Tensor, exists: Tensor, right: Tensor | None = None
    ) -> Grounded:
        """Ground and answer.

        Parameters
        ----------
        video
            ``[B, T, F]``.
        valid
            ``[B, T] bool``, false for padding; at least one frame per row.
        candidates
            ``[B, K, *]``, as the text module reads them.
        exists
            ``[B, K] bool``, false for padding.
        right
            ``[B] int64``. If it is given, the query is the candidate with this index (questions that may belong to the
            video); else it is the elementwise maximum over the candidates (options).
        """
        texts = self.text(candidates)  # [B, K, d]
        frames = self.decoder(self.embedding(video), valid)  # x_bar [B, T, d]
        query = query_of(texts, exists, right)  # [B, d]
        if self.back is not None:
            query = self.back(query)
        if isinstance(self.grounding, Grounding):
            p, w = self.grounding(frames, query, valid)  # [B, T] each
        else:
            p = w = self.grounding(frames, valid)
        z = self.out(pool(frames, w))  # [B, d]
        if self.front is not None:
            mean = valid / valid.sum(1, keepdim=True)  # [B, T]
            z = self.front(self.out(pool(frames, mean)), z)
        return Grounded.of(texts, exists, z, p, w)


class ScaledFrames(nn.Module):
    """A network whose frames are standardised first."""

    def __init__(self, scale: Standardise, network: Cra | TempClip) -> None:
        super().__init__()
        self.scale, self.network = scale, network

    def forward(
        self, video: Tensor, valid: Tensor, candidates: Tensor, exists: Tensor, right: Tensor | None = None
    ) -> Grounded:
        """Ground and answer; see ``Cra.forward``."""
        grounded: Grounded = self.network(self.scale(video), valid, candidates, exists, right)
        return grounded


def build_model(
    config: ModelConfig,
    text: nn.Module,
    feature_dim: int,
    dictionaries: Mapping[str, Tensor],
    scale: Standardise | None = None,
) -> Cra | TempClip | ScaledFrames:
    """Make the network that the settings ask for, with random weights except for its dictionaries.

    Parameters
    ----------
    config
        Which network, and its sizes.
    text
        Maps candidates to ``[B, K, d]``.
    feature_dim
        F.
    dictionaries
        See ``Cra``.
    scale
        Standardises the frames, and the visual dictionary, whose centres are frames too.
    """
    if scale is not None and "visual_dictionary" in dictionaries:
        dictionaries = {**dictionaries, "visual_dictionary": scale(dictionaries["visual_dictionary"])}
    network = (
        TempClip(config, text, feature_dim)
        if config.method == "temp_clip"
        else Cra(config, text, feature_dim, dictionaries)
    )
    return network if scale is None else ScaledFrames(scale, network)
