"""What a network computes in: the option ``compute_dtype``, its entry in a spec, and what that entry prescribes.

A spec says the same on every machine. A rule, which gives each kind of device a dtype, is therefore in the spec as a
rule; the dtype that was really used is in the numerics. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from extractors.base import Json

ComputeDtype: TypeAlias = Literal["float32", "float16", "bfloat16", "auto"]

RULE: Final = {"cuda": "float16", "cpu": "float32"}
"""What ``auto`` means: device type to dtype."""
_HALVES: Final = ("float16", "bfloat16")
# Specs of before 2026-12 name a half type alone: its weights stayed in float32 and were cast in each forward.
_CAST_ONCE: Final = {"weights": "cast once"}
_DEVICES: Final = {"cuda": "GPUs", "cpu": "CPUs"}


def used_on(device: str, compute_dtype: ComputeDtype) -> str:
    """Return the dtype that the option means on a device, such as ``cuda:1``."""
    return RULE.get(device.partition(":")[0], "float32") if compute_dtype == "auto" else compute_dtype


def spec_entry(compute_dtype: ComputeDtype) -> Json:
    """Return what a spec says of the option: ``float32``, or an object with the half type or the rule."""
    if compute_dtype == "auto":
        return {**RULE, **_CAST_ONCE}
    return {"dtype": compute_dtype, **_CAST_ONCE} if compute_dtype in _HALVES else compute_dtype


def prescribed(entry: object, device_type: str) -> str | None:
    """Return the dtype that an entry of a spec prescribes on a kind of device.

    None if the entry says nothing of it, or names a half type as specs did when weights were not cast once.
    """
    if isinstance(entry, Mapping):
        dtype = entry.get("dtype", entry.get(device_type))
        return dtype if isinstance(dtype, str) else None
    return entry if isinstance(entry, str) and entry not in _HALVES else None


def describe(entry: object, device_type: str) -> str | None:
    """Return an entry of a spec as a person reads it, for example ``float16 on GPUs, float32 on CPUs (here: float32)``.

    None if it is neither a rule nor a half type.
    """
    if not isinstance(entry, Mapping):
        return None
    here = prescribed(entry, device_type)
    by_device = [f"{entry[device]} on {name}" for device, name in _DEVICES.items() if device in entry]
    return f"{', '.join(by_device)} (here: {here})" if by_device else here


def same_on(first: Mapping[str, Any], second: Mapping[str, Any], numerics: Mapping[str, Any]) -> bool:
    """Return whether two specs prescribe the dtype that the numerics of some rows name.

    Parameters
    ----------
    first, second
        Extractors' specs, the part called ``model`` in a feature's.
    numerics
        Those under which the rows were computed.
    """
    entries = (first.get("compute_dtype"), second.get("compute_dtype"))
    if entries[0] == entries[1]:
        return True
    used, device = numerics.get("compute_dtype"), numerics.get("device_type")
    return isinstance(used, str) and all(prescribed(entry, str(device)) == used for entry in entries)
