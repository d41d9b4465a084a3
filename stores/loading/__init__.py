"""What trainers read: PyTorch datasets, samplers and checks over a pinned store. Only this package needs torch."""

from .ahead import read_ahead
from .batches import QuestionBatch, VideoBatch
from .completeness import Finding, IncompleteError, Report, check
from .datasets import QuestionDataset, VideoDataset, identity
from .samplers import BatchSampler, CollectiveSampler, ShuffleSampler
from .views import View

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
