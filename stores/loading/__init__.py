"""PyTorch datasets, samplers and checks over a pinned store. Only this part of the package needs torch."""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("reelstore.loading needs PyTorch: pip install 'reelstore[torch]'") from error

from .ahead import read_ahead
from .batches import QuestionBatch, VideoBatch
from .collating import collate
from .completeness import Completeness, Finding, IncompleteError, Report, check
from .datasets import QuestionDataset, VideoDataset, identity
from .questions import Questions, load_questions, load_vectors
from .samplers import BatchSampler, CollectiveSampler, ShuffleSampler
from .views import View

__all__ = [
    "BatchSampler",
    "CollectiveSampler",
    "Completeness",
    "Finding",
    "IncompleteError",
    "QuestionBatch",
    "QuestionDataset",
    "Questions",
    "Report",
    "ShuffleSampler",
    "VideoBatch",
    "VideoDataset",
    "View",
    "check",
    "collate",
    "identity",
    "load_questions",
    "load_vectors",
    "read_ahead",
]
