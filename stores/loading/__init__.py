"""What trainers read: PyTorch datasets, samplers and checks over a pinned store. Only this package needs torch."""

from stores.loading.ahead import read_ahead
from stores.loading.batches import QuestionBatch, VideoBatch
from stores.loading.completeness import Finding, IncompleteError, Report, check
from stores.loading.datasets import QuestionDataset, VideoDataset, identity
from stores.loading.samplers import BatchSampler, CollectiveSampler, ShuffleSampler
from stores.loading.views import View

__all__ = [
    "BatchSampler",
    "CollectiveSampler",
    "Finding",
    "IncompleteError",
    "QuestionBatch",
    "QuestionDataset",
    "Report",
    "ShuffleSampler",
    "VideoBatch",
    "VideoDataset",
    "View",
    "check",
    "identity",
    "read_ahead",
]
