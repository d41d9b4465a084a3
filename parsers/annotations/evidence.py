"""What speaks against the split that a user names: the file's name, and official splits by their size and ids.

The sizes are those of ``docs/facts/cra.md`` sections 1.2 and 1.5, ``docs/facts/coqo.md`` section 2.1, and
``docs/facts/videoqa.md`` sections 0 and 8; the ids are known where a file was at hand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

_FAMILIES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WORD = re.compile(r"[A-Za-z]+")

OFFICIAL: Mapping[str, Mapping[str, int]] = {
    "nextgqa": {"train": 34132, "val": 3358, "test": 5553},
    "star": {"train": 45731, "val": 7098, "test": 7377},
    "music_avqa": {"train": 31927, "val": 4568, "test": 9129},
    "msvd_qa": {"train": 30933, "val": 6415, "test": 13157},
    "msrvtt_qa": {"train": 158581, "val": 12278, "test": 72821},
    "activitynet_qa": {"train": 32000, "val": 18000, "test": 8000},
    "tgif_action": {"test": 2274},
    "tgif_transition": {"test": 6232},
    "tgif_frameqa": {"test": 13691},
    "tgif_count": {"test": 3554},
    "nextqa": {"train": 34132, "val": 4996, "test": 8564},
    "intentqa": {"val": 2044, "test": 2134},
    "qvhighlights": {"train": 7218, "val": 1550, "test": 1542},
    "charades_sta": {"train": 12408, "test": 3720},
    "activitynet_captions": {"train": 37421, "val": 17505, "test": 17031},
    "tacos": {"train": 9790, "val": 4436, "test": 4001},
    "rextime": {"val": 921},
}
"""Number of questions of the official splits, by format."""

_IDS = {
    "1f63852a825be107500be804872041fec75b5c4d2edb37b2f8b95fb131bb656c": "NExT-GQA's val",
    "9cb27e5be68edd225847b0fc326ceb246b39f9f96a69272bcadaefdfda3e2c26": "MUSIC-AVQA's val",
}
"""sha256 over the sorted ids of an official split, one per line, and its name."""


def split_of_name(path: Path, split: str) -> str | None:
    """Return what the name of a file says against a split, or None."""
    meant, named = _families(split), _families(path.stem)
    if not meant or not named or meant & named:
        return None
    return f"{path.name} is named after {' and '.join(sorted(named))}"


def _families(text: str) -> set[str]:
    return {_FAMILIES[word] for word in _WORD.findall(text.lower()) if word in _FAMILIES}


def official_split(format: str, ids: Sequence[str], split: str) -> str | None:
    """Return which other official split the question ids of a file are those of, or None."""
    meant = _families(split)
    if not meant:
        return None
    known = _IDS.get(hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest())
    if known is not None:
        return None if known.endswith(tuple(meant)) else f"its {len(ids)} question ids are those of {known} split"
    sizes = OFFICIAL.get(format, {})
    for name, size in sizes.items():
        if size == len(ids) and name not in meant:
            return f"it holds {size} questions, as the official {name} split does"
    return None
