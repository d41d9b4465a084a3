"""CRA: cross-modal causal relation alignment for grounded video question answering (facts/cra.md section 5.3)."""

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
    """Video and candidates to answers and frame weights.

    Parameters
    ----------
    text : candidates to ``[B, K, d]``, from :mod:`trainers.cra.text`.
    feature_dim : F.
    dictionaries : ``linguistic_dictionary [K, 8, E]`` if ``config.back``, ``visual_dictionary [K, F']`` if
        ``config.front``.
    """

    def __init__(
        self, config: ModelConfig, text: nn.Module, feature_dim: int, dictionaries: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        dim = config.dim
        self.text = text
        self.embedding = VideoEmbedding(feature_dim, dim, config.dropout)
        norm = UnbiasedLayerNorm if config.layer_norm == "unbiased" else nn.LayerNorm
        self.decoder = Decoder(dim, config.heads, config.layers, config.decoder_dropout, config.attention_dropout, norm)
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
        video : ``[B, T, F]``; ``valid [B, T] bool``, at least one frame each.
        candidates : ``[B, K, *]``, as the text module reads them; ``exists [B, K] bool``.
        right : ``[B] int64``. Given, the query is that candidate (questions that may belong to the video); else it is
            the maximum over candidates (options).
        """
        texts = self.text(candidates)
        frames = self.decoder(self.embedding(video), valid)  # x_bar
        query = query_of(texts, exists, right)
        if self.back is not None:
            query = self.back(query)
        if isinstance(self.grounding, Grounding):
            p, w = self.grounding(frames, query, valid)
        else:
            p = w = self.grounding(frames, valid)
        z = self.out(pool(frames, w))
        if self.front is not None:
            mean = valid / valid.sum(1, keepdim=True)
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
        """As :meth:`Cra.forward`."""
        grounded: Grounded = self.network(self.scale(video), valid, candidates, exists, right)
        return grounded


def build_model(
    config: ModelConfig,
    text: nn.Module,
    feature_dim: int,
    dictionaries: Mapping[str, Tensor],
    scale: Standardise | None = None,
) -> Cra | TempClip | ScaledFrames:
    """The network that the settings name, with random weights but for the dictionaries.

    Parameters
    ----------
    scale : of the frames, and of the visual dictionary, whose centres are frames too.
    """
    if scale is not None:
        frames = "visual_dictionary"
        dictionaries = {name: scale(each) if name == frames else each for name, each in dictionaries.items()}
    network = (
        TempClip(config, text, feature_dim)
        if config.method == "temp_clip"
        else Cra(config, text, feature_dim, dictionaries)
    )
    return network if scale is None else ScaledFrames(scale, network)
