"""Extractors: frames or sound in, one float32 array per time step out.

Importing this package, building an extractor, and calling its ``spec()`` and ``prepare()`` import neither torch nor
open_clip nor timm, so that planning and decoding never pay for them. Only ``load()`` does.
"""

from extractors.base import (
    Extractor,
    ExtractorError,
    Model,
    ModelOutputError,
    OutputSpec,
    Steps,
    UnreachableError,
    WeightsError,
)
from extractors.batching import MicroBatcher
from extractors.faults import MachineFaultError, is_machine_fault, is_out_of_memory, names_machine
from extractors.registry import build, check_code, names

__all__ = [
    "Extractor",
    "ExtractorError",
    "MachineFaultError",
    "MicroBatcher",
    "Model",
    "ModelOutputError",
    "OutputSpec",
    "Steps",
    "UnreachableError",
    "WeightsError",
    "build",
    "check_code",
    "is_machine_fault",
    "is_out_of_memory",
    "names",
    "names_machine",
]
