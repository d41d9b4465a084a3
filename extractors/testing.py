"""Checks of the contracts of extractors and text encoders, for whoever writes one.

::

    from extractors import build
    from extractors.testing import check_extractor

    def test_my_backbone_keeps_the_contract():
        check_extractor(build("my_package.my_module:MyBackbone", {"weights": "random:0"}))

A broken promise is an AssertionError whose line names the promise. The checks need no test framework. They load the
network twice and run it a dozen times on two steps, so a small model with random weights keeps them fast.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from extractors.base import Description, Extractor, ExtractorError, Model, OutputSpec, spec_digest
from extractors.batching import MicroBatcher
from extractors.text import TextEncoder, TextModel
from settings.messages import one_line

TEXTS = (
    "why did the boy pick up the ball",
    "a train leaves the station",
    "",
    "Ball",
    "¿qué? ☃",
    "how many people were in the room while the dog was barking at the postman",
)

_HEAVY = ("jax", "open_clip", "tensorflow", "timm", "torch", "torchaudio", "torchvision", "transformers")
_CHILD = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer);"
    "from extractors.testing import _describe_in_child; _describe_in_child()"
)
_MICRO_BATCH = 2
_STEPS = 5

_Described = TypeVar("_Described", bound=Description)


def check_extractor(extractor: Extractor, *, device: str = "cpu", threads: int | None = 1) -> None:
    """Check that an extractor keeps the contract of ``extractors.base``.

    The spec is JSON, complete and the same in every process. The extractor can be pickled, and describing it or
    preparing input imports no network library. ``prepare`` changes nothing and treats each step, and each frame of a
    clip, alone. ``forward``
    returns finite values of the promised shape and dtype that depend neither on the steps beside them nor on order.

    Parameters
    ----------
    extractor
        The extractor.
    device
        Device to load its network on.
    threads
        CPU threads of the network.

    Raises
    ------
    AssertionError
        If a promise is broken; one line that names it.
    ExtractorError
        If the extractor cannot load its network.
    """
    inputs = _inputs(extractor, _STEPS)
    _check_spec(extractor, "extractor")
    _check_output(extractor)
    _check_pickling(extractor)
    prepared = _check_prepare(extractor, inputs)
    pictures = extractor.input != "audio"
    if pictures:
        _check_prepare(extractor, _inputs(extractor, 2, height=90, width=40))
    if extractor.input == "clips":
        _check_clips(extractor, inputs, prepared)
    if pictures and extractor.prepares_tensors:
        _check_prepare_tensor(extractor, inputs, prepared)
    _check_json_or_none(extractor, extractor.preparation())
    _check_refusal(extractor, inputs)
    _check_new_process(extractor, inputs)
    model = extractor.load(device, threads)
    values = _check_forward(extractor, model, prepared)
    _check_rows(extractor, model, prepared)
    again = extractor.load(device, threads).forward(prepared[:_MICRO_BATCH].copy())
    _require(_same(again, values), extractor, "a second load() gives other values; weights must follow from the spec")


def check_text_encoder(
    encoder: TextEncoder, texts: Sequence[str] = TEXTS, *, device: str = "cpu", threads: int | None = 1
) -> None:
    """Check that a text encoder keeps the contract of ``extractors.text``.

    The spec is JSON, complete and the same in every process. The encoder can be pickled, and describing it imports no
    network library. ``encode`` returns finite values of the promised shape and dtype, and each vector depends on its
    own text only.

    Parameters
    ----------
    encoder
        The encoder.
    texts
        At least two different strings to encode.
    device
        Device to load the network on.
    threads
        CPU threads of the network.

    Raises
    ------
    AssertionError
        If a promise is broken; one line that names it.
    ExtractorError
        If the encoder cannot load its network.
    """
    _check_spec(encoder, "encoder")
    _require(_is_size(encoder.dim), encoder, f"dim is {encoder.dim!r}; it must be a positive whole number")
    _check_pickling(encoder)
    _check_new_process(encoder, None)
    model = encoder.load(device, threads)
    vectors = _check_encode(encoder, model, list(texts))
    again = encoder.load(device, threads).encode(list(texts))
    _require(_same(again, vectors), encoder, "a second load() gives other vectors; weights must follow from the spec")


def _describe_in_child() -> None:
    """Describe what is on stdin; write its spec digest and the heavy packages that this imported to stdout."""
    description, inputs = pickle.load(sys.stdin.buffer)
    digest = spec_digest(description.spec())
    if isinstance(description, Extractor):
        description.output()
        description.prepare(inputs)
    sys.stdout.write(json.dumps([digest, sorted(set(_HEAVY) & set(sys.modules))]) + "\n")


def _require(kept: bool, description: Description, promise: str) -> None:
    if not kept:
        raise AssertionError(f"{description.name}: {promise}")


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Compare two arrays bit by bit."""
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _shape(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _is_size(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _inputs(extractor: Extractor, steps: int, height: int = 48, width: int = 64) -> NDArray[Any]:
    """Make noise of the kind that the extractor reads, different in every step."""
    generator = np.random.default_rng(0)
    if extractor.input != "audio":
        frames = extractor.prepared_shape()[:1] if extractor.input == "clips" else ()
        return generator.integers(0, 256, (steps, *frames, height, width, 3), np.uint8)
    return generator.uniform(-0.5, 0.5, (steps, extractor.window_samples)).astype(np.float32)


def _check_json(description: Description, method: str, value: object) -> None:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{description.name}: {method} is not JSON ({one_line(error)})") from error
    _require(
        isinstance(value, dict) and json.loads(text) == value,
        description,
        f"{method} is not the same when read back from JSON; use a dict with strings as keys and lists as values",
    )


def _check_prepare_tensor(extractor: Extractor, frames: NDArray[Any], prepared: NDArray[Any]) -> None:
    import torch

    tensor = extractor.prepare_tensor(torch.from_numpy(frames))
    if tensor is not None:
        _require(_same(tensor.numpy(), prepared), extractor, "prepare_tensor() does not give what prepare() gives")


def _check_json_or_none(extractor: Extractor, preparation: object) -> None:
    if preparation is not None:
        _check_json(extractor, "preparation()", preparation)


def _check_spec(description: Description, noun: str) -> None:
    spec = description.spec()
    _check_json(description, "spec()", spec)
    _require(description.spec() == spec, description, "spec() gives another spec when called again")
    rebuilt = type(description).model_validate(description.model_dump())
    _require(rebuilt.spec() == spec, description, "spec() differs for another object of the same options")
    _require(spec.get(noun) == description.name, description, f"spec() has no {noun!r} that is the name")
    _require(spec.get("version") == description.version, description, "spec() has no 'version' that is the version")


def _check_output(extractor: Extractor) -> None:
    output = extractor.output()
    shape = output.step_shape
    _require(
        isinstance(output, OutputSpec) and isinstance(shape, tuple) and len(shape) > 0 and all(map(_is_size, shape)),
        extractor,
        f"output() has the step shape {shape!r}; it must be a tuple of positive whole numbers",
    )
    _require(output.dtype == "float32", extractor, f"output() promises {output.dtype}; it must promise float32")
    _require(bool(output.units), extractor, "output() does not say what the numbers are; set units")


def _check_pickling(description: _Described) -> None:
    try:
        copy: _Described = pickle.loads(pickle.dumps(description))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"{description.name}: it cannot be pickled ({one_line(error)})") from error
    _require(copy == description and copy.spec() == description.spec(), description, "pickling changes it")


def _check_new_process(description: Description, inputs: NDArray[Any] | None) -> None:
    """Check the spec and the imports of a process that only describes, with strings hashed in another way."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=pickle.dumps(sys.path) + pickle.dumps((description, inputs)),
        env={**os.environ, "PYTHONHASHSEED": "random"},
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        reason = one_line(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        raise AssertionError(f"{description.name}: it cannot be used in a new process ({reason})")
    digest, imported = json.loads(done.stdout.splitlines()[-1])
    _require(digest == spec_digest(description.spec()), description, "spec() differs in another process")
    _require(not imported, description, f"importing or describing it imports {', '.join(imported)}; only load() may")


def _check_prepare(extractor: Extractor, inputs: NDArray[Any]) -> NDArray[Any]:
    original = inputs.copy()
    prepared = extractor.prepare(inputs)
    _require(_same(inputs, original), extractor, "prepare() changes its input")
    promised = (len(inputs), *extractor.prepared_shape())
    _require(
        prepared.shape == promised and prepared.dtype == np.dtype(extractor.prepared_dtype),
        extractor,
        f"prepare() returns {_shape(prepared)}; promised is {extractor.prepared_dtype} {list(promised)}",
    )
    _require(_same(extractor.prepare(inputs), prepared), extractor, "prepare() gives other values when called again")
    strided = np.repeat(inputs, 2, axis=1)[:, ::2]
    _require(_same(extractor.prepare(strided), prepared), extractor, "prepare() gives other values for a strided array")
    backwards = extractor.prepare(inputs[::-1].copy())[::-1]
    alone = [extractor.prepare(inputs[step : step + 1]) for step in range(len(inputs))]
    _require(
        _same(backwards, prepared) and _same(np.concatenate(alone), prepared),
        extractor,
        "prepare() lets the result of a step depend on the steps beside it",
    )
    return prepared.copy()


def _check_clips(extractor: Extractor, clips: NDArray[Any], prepared: NDArray[Any]) -> None:
    """Check that a clip can be prepared frame by frame, as it is while a video is decoded."""
    single = [extractor.prepare(clips[:, place : place + 1]) for place in range(clips.shape[1])]
    _require(
        _same(np.concatenate(single, axis=1), prepared),
        extractor,
        "prepare() lets a frame of a clip depend on the frames beside it, or takes no clips of one frame",
    )


def _check_refusal(extractor: Extractor, inputs: NDArray[Any]) -> None:
    expected, wrong = ("float32", np.int16) if extractor.input == "audio" else ("uint8", np.float32)
    try:
        extractor.prepare(inputs.astype(wrong))
    except ExtractorError:
        return
    _require(False, extractor, f"prepare() takes {np.dtype(wrong)}; it must raise ExtractorError unless {expected}")


def _check_forward(extractor: Extractor, model: Model, prepared: NDArray[Any]) -> NDArray[np.float32]:
    output = extractor.output()
    _require(model.output == output, extractor, "the model's output is not the output() of its extractor")
    batch = prepared[:_MICRO_BATCH]
    values = model.forward(batch.copy())
    promised = (len(batch), *output.step_shape)
    _require(
        values.shape == promised and values.dtype == np.float32,
        extractor,
        f"forward() returns {_shape(values)}; promised is float32 {list(promised)}",
    )
    _require(bool(np.isfinite(values).all()), extractor, "forward() returns values that are not finite")
    kept = values.copy()
    model.forward(prepared[-_MICRO_BATCH:].copy())
    _require(_same(values, kept), extractor, "forward() overwrites the array that it returned before")
    _require(_same(model.forward(batch.copy()), kept), extractor, "forward() gives other values for the same batch")
    reference = model.reference(batch.copy())
    _require(
        reference is None or (reference.shape == promised and reference.dtype == np.float32),
        extractor,
        f"reference() must return None or float32 {list(promised)}",
    )
    _check_json(extractor, "numerics()", model.numerics())
    return kept


def _check_rows(extractor: Extractor, model: Model, prepared: NDArray[Any]) -> None:
    """Run rows of 1, 3 and 1 steps in batches of two: in order, backwards, and each alone."""
    rows = [("first", prepared[:1]), ("second", prepared[1:-1]), ("third", prepared[-1:])]
    batcher = MicroBatcher(model, _MICRO_BATCH)
    together, backwards = dict(batcher.run(rows)), dict(batcher.run(rows[::-1]))
    alone = dict(batcher.run([row])[0] for row in rows)
    _require(
        all(_same(together[key], backwards[key]) and _same(together[key], alone[key]) for key, _ in rows),
        extractor,
        "forward() lets the values of a step depend on the steps beside it or on their order",
    )


def _check_encode(encoder: TextEncoder, model: TextModel, texts: list[str]) -> NDArray[np.float32]:
    vectors = model.encode(texts)
    promised = (len(texts), encoder.dim)
    _require(
        vectors.shape == promised and vectors.dtype == np.float32,
        encoder,
        f"encode() returns {_shape(vectors)}; promised is float32 {list(promised)}",
    )
    _require(bool(np.isfinite(vectors).all()), encoder, "encode() returns values that are not finite")
    kept = vectors.copy()
    nothing = model.encode([])
    _require(
        nothing.shape == (0, encoder.dim) and nothing.dtype == np.float32,
        encoder,
        f"encode([]) returns {_shape(nothing)}; promised is float32 {[0, encoder.dim]}",
    )
    _require(_same(model.encode(texts), kept), encoder, "encode() gives other vectors for the same texts")
    _require(_same(vectors, kept), encoder, "encode() overwrites the array that it returned before")
    around = model.encode([*texts[::-1], "another text", *texts])
    alone = np.concatenate([model.encode([text]) for text in texts])
    _require(
        _same(around[: len(texts)][::-1], kept) and _same(around[-len(texts) :], kept) and _same(alone, kept),
        encoder,
        "encode() lets a vector depend on the texts beside it or on their order",
    )
    _check_json(encoder, "numerics()", model.numerics())
    return kept
