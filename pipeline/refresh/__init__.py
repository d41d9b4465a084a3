"""Runs every stage of one dataset, incrementally: videos, questions, embeddings, dictionaries.

Each stage plans for itself and computes only what changed, so a refresh of an unchanged dataset is a few short plans.
"""

from pipeline.refresh.dataset import Dataset, load_dataset
from pipeline.refresh.run import RefreshResult, refresh

__all__ = ["Dataset", "RefreshResult", "load_dataset", "refresh"]
