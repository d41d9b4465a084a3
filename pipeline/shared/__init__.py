"""What the stages have in common: errors, results, the terminal, events, signals, sizing, staleness.

It imports no stage. ``ray_session`` imports Ray and is therefore not part of the face.
"""

from pipeline.shared import preflight
from pipeline.shared.errors import ConfigError, PreflightError, SourceError, UsageError
from pipeline.shared.events import EventLog, past_seconds_per_unit
from pipeline.shared.members import (
    Members,
    choose_dataset,
    current_members,
    graph_nodes,
    linguistic_members,
    rows_by_shard,
    spans,
    visual_members,
)
from pipeline.shared.results import ExecutorName, StageRequest, StageResult
from pipeline.shared.signals import StopRequestedError, StopSignals
from pipeline.shared.sizing import MachineConfig, Sizing, choose
from pipeline.shared.staleness import differences, mark_stale, stored_digests
from pipeline.shared.terminal import Terminal, duration, human_bytes

__all__ = [
    "ConfigError",
    "EventLog",
    "ExecutorName",
    "MachineConfig",
    "Members",
    "PreflightError",
    "Sizing",
    "SourceError",
    "StageRequest",
    "StageResult",
    "StopRequestedError",
    "StopSignals",
    "Terminal",
    "UsageError",
    "choose",
    "choose_dataset",
    "current_members",
    "differences",
    "duration",
    "graph_nodes",
    "human_bytes",
    "linguistic_members",
    "mark_stale",
    "past_seconds_per_unit",
    "preflight",
    "rows_by_shard",
    "spans",
    "stored_digests",
    "visual_members",
]
