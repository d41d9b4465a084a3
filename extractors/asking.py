"""Questions about models that only a heavy library can answer, asked without importing it here.

Planning and decoding must not pay for torch. What they have to know of a model, such as the shape of its output, is
therefore computed by a process of its own, which imports the library, builds the model without memory for its weights
and prints the answer as JSON. A process that has the library already, such as the one that runs the model, answers
itself. Each question is asked once per process; an extractor keeps its answer when it is pickled.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
from functools import lru_cache
from typing import Any

from extractors.base import ExtractorError, Json, WeightsError
from settings.messages import one_line

logger = logging.getLogger("reelstore.extractors.asking")

_CHILD = "from extractors.asking import _answer; _answer()"


def ask(noun: str, library: str, question: str, *arguments: Json) -> Any:
    """Return what a function returns, without importing the library that it needs into this process.

    Parameters
    ----------
    noun
        Who asks, for messages: ``the timm extractor``.
    library
        The package that the function's module imports.
    question
        ``module:function`` of this checkout. The function takes and returns JSON, follows from its arguments alone, and
        may raise ``ExtractorError``.
    arguments
        Its arguments.

    Raises
    ------
    ExtractorError
        If the library is not installed, or whatever the function raises.
    """
    if library not in sys.modules and importlib.util.find_spec(library) is None:
        raise ExtractorError(f"{noun} needs the package {library}; install it with pip install {library}")
    answered: dict[str, Any] = json.loads(_asked(library, question, json.dumps(arguments)))
    if "error" in answered:
        raise {"WeightsError": WeightsError}.get(answered["class"], ExtractorError)(answered["error"])
    return answered["value"]


@lru_cache(maxsize=256)
def _asked(library: str, question: str, arguments: str) -> str:
    if library in sys.modules:
        return _answered(question, arguments)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps([question, arguments]),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        logger.debug("%s %s failed: %s", question, arguments, done.stderr)
        reason = one_line((done.stderr.splitlines() or ["no output"])[-1])
        return json.dumps({"class": "ExtractorError", "error": f"{library} cannot be asked about a model ({reason})"})
    return done.stdout.splitlines()[-1]


def _answered(question: str, arguments: str) -> str:
    module, _, function = question.partition(":")
    try:
        return json.dumps({"value": getattr(importlib.import_module(module), function)(*json.loads(arguments))})
    except ExtractorError as error:
        return json.dumps({"class": type(error).__name__, "error": str(error)})


def _answer() -> None:
    """Answer the question on stdin; the last line on stdout is the answer."""
    sys.stdout.write(_answered(*json.load(sys.stdin)) + "\n")
