"""Small towers of every registered extractor, with random weights or with a weights file that may be spoilt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from extractors import build
from extractors.trained import Trained
from tests._helpers.beats_files import cfg_of, published_state
from tests._helpers.hf_models import save_model

State = dict[str, torch.Tensor]

SMALL: dict[str, dict[str, Any]] = {
    "beats": {"weights": "random:0"},
    "clip": {"model": "ViT-S-32-alt", "weights": "random:0", "image_size": 64},
    "internvideo2": {"model": "s14", "weights": "random:0", "image_size": 56, "frames": 2},
    "swin": {"model": "swin_tiny_patch4_window7_224", "weights": "random:0"},
    "timm": {"model": "test_convnext", "weights": "random:0", "form": "map"},
    "vggish": {"weights": "random:0"},
}
"""Options by name; the other extractors are small by default, or need a folder."""
_FOLDERS = {"hf": "dinov2", "hf_audio": "ast"}


def small_options(name: str, folder: Path) -> dict[str, Any]:
    """Return the options of a small extractor; what it needs of files is written into ``folder``."""
    if name in _FOLDERS:
        return {"model": str(save_model(folder / name, _FOLDERS[name]))}
    return SMALL.get(name, {})


def with_file(name: str, folder: Path) -> tuple[dict[str, Any], Path, State]:
    """Return the options of a small trained extractor whose weights lie in a file, the file, and its tensors.

    All numbers are zero, so that the file is small however large the network is.
    """
    options = small_options(name, folder)
    if name in _FOLDERS:
        file = Path(options["model"]) / "model.safetensors"
        return options, file, {key: value.clone() for key, value in load_file(file).items()}  # the file will change
    file = folder / f"{name}.pt"
    if name == "beats":
        # Numbers do not matter here, and the published names are those of every size.
        shapes = published_state()
        options = {"model": "tiny"}
    else:
        extractor = build(name, options)
        assert isinstance(extractor, Trained)
        shapes = extractor.build_network()[0].state_dict()
        options = {key: value for key, value in options.items() if key not in ("weights", "image_size")}
    if name == "internvideo2":
        options["f0"] = 2
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in shapes.items()}
    write_state(file, state)
    return {**options, "weights": str(file)}, file, state


def write_state(file: Path, state: State) -> None:
    """Write tensors as the file's extractor wants them: safetensors, or a checkpoint of torch."""
    if file.suffix == ".safetensors":
        save_file({key: value.clone().contiguous() for key, value in state.items()}, file, {"format": "pt"})
    elif file.stem == "beats":
        from tests._helpers.beats_files import TINY

        torch.save({"cfg": cfg_of(TINY), "model": state}, file)
    else:
        torch.save(state, file)


class Rogue:
    """What a file must not bring along: rebuilding it calls a function."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return json.loads, ("{}",)


def _nothing(file: Path, state: State) -> None:
    file.write_bytes(b"nothing")


def _cut(file: Path, state: State) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _absent(file: Path, state: State) -> None:
    file.unlink()


def _code(file: Path, state: State) -> None:
    torch.save({"model": state, "extra": Rogue()}, file)


def _script(file: Path, state: State) -> None:
    torch.jit.script(torch.nn.ReLU()).save(str(file))  # type: ignore[no-untyped-call]  # torch does not annotate it


def _other(file: Path, state: State) -> None:
    write_state(file, {"layer.weight": torch.zeros(3, 3), "layer.bias": torch.zeros(3)})


def _missing(file: Path, state: State) -> None:
    write_state(file, {key: value for key, value in state.items() if key != victim(state)})


def _surplus(file: Path, state: State) -> None:
    write_state(file, {**state, "surplus.weight": torch.zeros(2)})


def _reshaped(file: Path, state: State) -> None:
    write_state(file, {**state, victim(state): torch.zeros(7, dtype=state[victim(state)].dtype)})


def victim(state: State) -> str:
    """Return the name of a tensor that every extractor needs: the last bias of the network."""
    return [key for key in state if key.endswith("bias") and "head" not in key and "text" not in key][-1]


SPOILT: dict[str, tuple[Callable[[Path, State], None], str]] = {
    "absent": (_absent, "No such file|does not exist|no model.safetensors"),
    "nothing": (_nothing, "cannot be read"),
    "cut": (_cut, "cannot be read"),
    "code": (_code, "cannot be read"),
    "TorchScript": (_script, "TorchScript archive, which runs code|cannot be read"),
    "another architecture": (_other, "holds no encoder|cannot read it|missing"),
    "a missing tensor": (_missing, "1 missing"),
    "a surplus tensor": (_surplus, r"1 unexpected \(surplus.weight\)"),
    "a wrong size": (_reshaped, r"\[7\] instead of"),
}
"""Kind of fault to what spoils a file so, and what the line must say."""
