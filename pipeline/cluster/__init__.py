"""Turns members into dictionaries: embed node texts or take frames of a training split, fit k-means, commit."""

from pipeline.cluster.embedding import WITHOUT_NETWORK, EncoderConfig, embed, missing_texts, option_texts, part_name
from pipeline.cluster.run import ClusterConfig, ClusterRequest, ClusterResult, cluster, load_cluster_config

__all__ = [
    "WITHOUT_NETWORK",
    "ClusterConfig",
    "ClusterRequest",
    "ClusterResult",
    "EncoderConfig",
    "cluster",
    "embed",
    "load_cluster_config",
    "missing_texts",
    "option_texts",
    "part_name",
]
