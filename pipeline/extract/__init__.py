"""Turns videos into rows: plan what is missing, decode each video once, compute, write shards, commit."""

from pipeline.extract.config import PRESETS, Config, RunConfig, load_config, preset_names
from pipeline.extract.features import Feature, ready_features
from pipeline.extract.plan import Plan, PlanOptions, Reason, Unit
from pipeline.extract.planning import make_plan
from pipeline.extract.run import ExtractRequest, extract
from pipeline.extract.sources import SourceItem, Sources, read_source
from pipeline.extract.summary import ExtractResult

__all__ = [
    "PRESETS",
    "Config",
    "ExtractRequest",
    "ExtractResult",
    "Feature",
    "Plan",
    "PlanOptions",
    "Reason",
    "RunConfig",
    "SourceItem",
    "Sources",
    "Unit",
    "extract",
    "load_config",
    "make_plan",
    "preset_names",
    "read_source",
    "ready_features",
]
