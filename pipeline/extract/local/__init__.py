"""The executor of one machine: shared decode workers, one lane per device, one writer."""

from pipeline.extract.local.executor import LocalExecutor

__all__ = ["LocalExecutor"]
