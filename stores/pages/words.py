"""Specs in words, for people who have not read the source."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

_PADDING = {
    "repeat": "a shorter video repeats its last frame, marked as padding",
    "zero": "a shorter video is filled with zeros, marked as padding",
    "error": "a shorter video fails",
}
_POLICIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "uniform": lambda s: f"{s.get('n')} equal slots over the video, each the frame on screen in its middle",
    "keyframes": lambda s: f"{s.get('n')} equal slots over the video, each the key frame nearest to its middle",
    "segments": lambda s: f"{s.get('t')} segments of {s.get('seconds')} s from the start, each in its middle",
    "clips": lambda s: (
        f"{s.get('t')} segments of {s.get('seconds')} s from the start, each a clip of {s.get('frames')} frames"
    ),
    "fps": lambda s: f"{s.get('rate')} steps per second of the video, as many as it has",
    "nextgqa32": lambda _: "32 of the images of a dump at 6 frames per second, as published for NExT-GQA",
    "star32": lambda _: "32 of the raw frames, by number, as published for STAR",
    "music_avqa60": lambda _: "the middle frame of each of 60 seconds, by number, as published for MUSIC-AVQA",
}
_CROPS = {
    "center_crop": "the short side is scaled and the centre cut out",
    "squash": "scaled to a square, which distorts",
    "letterbox": "scaled to fit, with bars",
}


def spec_in_words(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a spec says as (subject, sentence), of what is known; the spec itself says everything."""
    if spec.get("external"):
        return [("Origin", "imported from files that were made elsewhere; how is not known here")]
    told = [
        ("Steps", _sampling(spec)),
        ("Decoding", _decoding(spec.get("decode"))),
        ("Preparation", _preparation(_part(spec, "model").get("preprocessing"))),
        ("Model", _model(spec)),
        ("Weights", _weights(spec)),
        ("Values", _values(spec)),
    ]
    return [(subject, sentence) for subject, sentence in told if sentence]


def _part(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = spec.get(name)
    return part if isinstance(part, Mapping) else {}


def _sampling(spec: Mapping[str, Any]) -> str:
    sampling = _part(spec, "sampling")
    if not sampling:
        return ""
    policy = str(sampling.get("policy"))
    known = _POLICIES.get(policy)
    words = known(sampling) if known else json.dumps(sampling, sort_keys=True)
    padding = _PADDING.get(str(sampling.get("pad")), "")
    return f"{words}{'; ' if padding else ''}{padding} ({policy})"


def _decoding(decode: object) -> str:
    if not isinstance(decode, Mapping):
        return ""
    backend = f"by {decode.get('backend')} {decode.get('version', '')}".rstrip()
    damage = {"conceal": "damage is concealed and marked", "fail": "damage fails the row"}
    truncated = {"fail": "a file that is cut short fails", "keep": "a file that is cut short keeps what it has"}
    rest = [damage.get(str(decode.get("damage")), ""), truncated.get(str(decode.get("truncated")), "")]
    return "; ".join([backend, *filter(None, [decode.get("audio"), *rest])])


def _preparation(steps: object) -> str:
    if not isinstance(steps, Mapping):
        return ""
    size = steps.get("size")
    parts = [
        f"{size} × {size} pixels" if isinstance(size, int) else "",
        _CROPS.get(str(steps.get("crop")), ""),
        f"{steps['interpolation']} interpolation" if "interpolation" in steps else "",
        f"{steps['bands']} mel bands at {steps.get('rate')} Hz" if "bands" in steps else "",
        f"by {steps['library']}" if "library" in steps else "",
    ]
    return ", ".join(filter(None, parts))


def _model(spec: Mapping[str, Any]) -> str:
    model = _part(spec, "model")
    name = " ".join(dict.fromkeys(str(part) for part in (spec.get("extractor"), model.get("model")) if part))
    parts = [
        name,
        f"from its {model['layer']}" if "layer" in model else "",
        f"activation {model['activation']}" if "activation" in model else "",
        f"computed in {model['compute_dtype']}" if "compute_dtype" in model else "",
    ]
    return ", ".join(filter(None, parts))


def _weights(spec: Mapping[str, Any]) -> str:
    if spec.get("random_weights"):
        return "random: the rows are placeholders"
    weights = _part(spec, "model").get("weights")
    if weights is None:
        return "none: nothing in it is learned" if _part(spec, "model") else ""
    return (
        ", ".join(f"{name} {value}" for name, value in weights.items())
        if isinstance(weights, Mapping)
        else str(weights)
    )


def _values(spec: Mapping[str, Any]) -> str:
    steps = "T" if spec.get("steps") is None else str(spec["steps"])
    shape = " × ".join([steps, *map(str, spec["step_shape"] if isinstance(spec.get("step_shape"), list) else [])])
    units = spec.get("units")
    return f"{shape} {spec.get('dtype', '')}".rstrip() + (f": {units}" if units else "")
