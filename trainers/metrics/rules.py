"""How each dataset's published evaluator divides and counts its questions, by the dataset's name.

Source: ``docs/facts/videoqa.md`` and the repositories that each rule names. Accuracy is right answers over questions of
the group in all of them; a question without a prediction is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rule:
    """What one evaluator does.

    Attributes
    ----------
    text
        What it does, in one line, with its source; reports repeat it.
    merged
        Question type to the type under which it is counted.
    groups
        Name of a group to the types that it has, after merging.
    numbers
        Whether answers are numbers, scored by their distance.
    """

    text: str
    merged: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: bool = False


_FIRST_WORD = "accuracy by exact text, by the first word of the question; an answer outside the vocabulary is wrong"
_OPTIONS = "accuracy of the chosen option"
_NEXT = "TP counted as TN, as in eval_mc.py of NExT-QA"

RULES: Mapping[str, Rule] = {
    "msvd_qa": Rule(f"{_FIRST_WORD} (eval_oe.py of HQGA)"),
    "msrvtt_qa": Rule(f"{_FIRST_WORD} (eval_oe.py of HQGA)"),
    "activitynet_qa": Rule(
        "accuracy by exact text; Free is the six types from Yes/No to Other over their own questions. The published "
        "eval.py divides Free by the questions of other types, depending on their order (75.83 for 50.55 % on its own "
        "example); that number is not reproduced",
        groups={"Free": ("Yes/No", "Color", "Object", "Location", "Number", "Other")},
    ),
    "nextqa": Rule(
        f"{_OPTIONS}; {_NEXT}",
        merged={"TP": "TN"},
        groups={"Acc_C": ("CW", "CH"), "Acc_T": ("TN", "TC"), "Acc_D": ("DC", "DL", "DO")},
    ),
    "intentqa": Rule(
        f"{_OPTIONS}; {_NEXT} and eval_intentqa.py of IntentQA",
        merged={"TP": "TN"},
        groups={"Acc_C": ("CW", "CH"), "Acc_T": ("TN", "TC")},
    ),
    "tgif_action": Rule(_OPTIONS),
    "tgif_transition": Rule(_OPTIONS),
    "tgif_frameqa": Rule("accuracy by exact text"),
    "tgif_count": Rule("mean squared error under three rules, named below", numbers=True),
}
"""The rule of each dataset that has one of its own."""
