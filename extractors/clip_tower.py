"""The network behind `clip`: open_clip's model, strictly loaded, its image tower run in inference mode."""

from __future__ import annotations

import os
import platform
import socket
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip import pretrained as hub
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from torch import nn

from extractors import clip_models, weights
from extractors.base import ExtractorError, FetchedWeights, Json, Model, OutputSpec, WeightsError
from extractors.preprocess import Preprocessing
from extractors.weights import HubTag, RandomWeights, WeightsFile

if TYPE_CHECKING:
    from extractors.clip import Clip

Tokens = Literal["cls", "patch", "patch_projected"]

# OpenAI's TorchScript archives keep three numbers about the architecture among their tensors.
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


class ClipModel(Model):
    """An open_clip image tower on one device.

    Parameters
    ----------
    visual:
        The tower, in evaluation mode; moved to `device`.
    tokens, output:
        Which tokens to return and their shape.
    preprocessing:
        Gives mean and std.
    device:
        A torch device.
    compute_dtype:
        `float32`, or the dtype of autocast.
    threads:
        CPU threads; None keeps torch's number.
    weights_sha256:
        Digest of the file the weights came from; None for random ones.
    """

    def __init__(
        self,
        visual: nn.Module,
        tokens: Tokens,
        output: OutputSpec,
        preprocessing: Preprocessing,
        device: str,
        compute_dtype: str,
        threads: int | None,
        weights_sha256: str | None,
    ) -> None:
        try:
            self._device = torch.device(device)
            self.visual = visual.eval().to(self._device).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise ExtractorError(f"device {device!r} cannot be used: {' '.join(str(error).split())}") from error
        self.visual.requires_grad_(False)
        self.output = output
        self._tokens = tokens
        # [1,3,1,1] float32, channel first like the tower's input.
        self._mean = torch.tensor(preprocessing.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=self._device).view(1, 3, 1, 1)
        self._compute_dtype = compute_dtype
        self._threads = threads or torch.get_num_threads()
        self._weights_sha256 = weights_sha256
        if self._device.type == "cuda":
            # TensorFloat-32 keeps 10 of 23 bits: a spec that says float32 means all of them.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """`uint8 [M,size,size,3]` RGB to `float32 [M, *step_shape]`."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        pixels = torch.from_numpy(batch)
        if self._device.type == "cuda":
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)
        with torch.inference_mode(), self._autocast():
            # NHWC memory seen as NCHW is torch's channels_last: no copy.
            images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
            features = self._embed(images)
            values: NDArray[np.float32] = features.float().cpu().contiguous().numpy()
        return values

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        """`float32 [M,3,size,size]` normalised to `[M, *step_shape]`."""
        if self._tokens == "cls":
            pooled = self.visual(images)
            # CoCa's tower also returns the tokens for its caption decoder.
            embedding: torch.Tensor = pooled[0] if isinstance(pooled, tuple) else pooled
            return embedding
        visual: Any = self.visual
        last = visual.forward_intermediates(
            images,
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        tokens = torch.cat([last["image_intermediates_prefix"][0], last["image_intermediates"][0]], dim=1)
        return tokens if self._tokens == "patch" else tokens @ visual.proj

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._compute_dtype == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=getattr(torch, self._compute_dtype))

    def numerics(self) -> dict[str, Json]:
        """Device, dtype, threads, library versions, and the digest of the file that a tag stood for."""
        on_cpu = self._device.type == "cpu"
        return {
            "device_type": self._device.type,
            "device_name": _cpu_name() if on_cpu else torch.cuda.get_device_name(self._device),
            "cpu_capability": torch.backends.cpu.get_cpu_capability() if on_cpu else None,
            "threads": self._threads if on_cpu else None,
            "compute_dtype": self._compute_dtype,
            "tf32": False,
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
            "weights_sha256": self._weights_sha256,
        }


def load(extractor: Clip, device: str, threads: int | None) -> ClipModel:
    """Build and load what `extractor` describes. Raises WeightsError, ExtractorError."""
    network, digest = _network(extractor)
    return ClipModel(
        network.visual,
        extractor.tokens,
        extractor.output(),
        extractor.preprocessing,
        device,
        extractor.compute_dtype,
        threads,
        digest,
    )


def fetch(extractor: Clip, tag: str, directory: Path) -> FetchedWeights:
    """Download a tag, load it strictly, write it as one safetensors file. Raises WeightsError."""
    network, digest = _network(extractor.model_copy(update={"image_size": None}))
    entry = clip_models.tag_entry(extractor.tower.model, tag)
    model = extractor.tower.model
    carried: dict[str, Json] = {
        "model": model,
        "tag": tag,
        "quick_gelu": bool(entry.get("quick_gelu", False)),
        "mean": list(entry["mean"]),
        "std": list(entry["std"]),
        "interpolation": entry["interpolation"],
        "resize_mode": entry["resize_mode"],
    }
    listed = {"extractor": extractor.name, "model": model, "tag": tag, "source_sha256": digest or ""}
    return weights.save(network.state_dict(), directory / f"{model}-{tag}.safetensors", carried, listed)


def _network(extractor: Clip) -> tuple[Any, str | None]:
    """The whole open_clip model (image and text tower) with its weights, and the digest of their file."""
    tower, source = extractor.tower, extractor.source
    native, size = tower.image_size, extractor.preprocessing.size
    path = None
    if isinstance(source, HubTag | WeightsFile):
        path = weights.resolve(source, tower.model, extractor.sha256, lambda: _download(tower.model, extractor.weights))
    seed = source.seed if isinstance(source, RandomWeights) else 0
    network = _architecture(extractor, native if tower.kind == "timm" else size, seed)
    digest = None
    if path is not None:
        digest = weights.digest(path)
        state = _state_dict(network, path, digest)
        if size != native and tower.kind == "vit":
            resize_pos_embed(state, network)
        weights.load_strict(network, state, f"{_described(source, path)} as {extractor.model}")
    if size != native and tower.kind == "timm":
        network.visual.set_input_size(size)
    return network, digest


def _architecture(extractor: Clip, image_size: int, seed: int) -> Any:
    """The untrained model, seeded, without touching the process's random state or the network.

    open_clip's `create_model` is not used: it would warn that weights are missing before they are loaded, and may
    download the text tower's base weights.
    """
    described = deepcopy(clip_models.config(extractor.model))
    described["vision_cfg"]["image_size"] = image_size
    described["vision_cfg"]["timm_model_pretrained"] = False
    described["text_cfg"]["hf_model_pretrained"] = False
    described["quick_gelu"] = {"quick_gelu": True, "gelu": False}.get(
        extractor.resolved_activation(), extractor.tower.quick_gelu
    )
    custom_text = described.pop("custom_text", False) or "hf_model_name" in described["text_cfg"]
    if not custom_text:
        cls = open_clip.CLIP
    else:
        cls = open_clip.CoCa if "multimodal_cfg" in described else open_clip.CustomTextCLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return cls(**described)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ExtractorError(f"open_clip cannot build {extractor.model}: {reason}") from error


def _state_dict(network: Any, path: Path, digest: str) -> dict[str, torch.Tensor]:
    """A file's tensors under open_clip's names; only renaming and the shape of two scalars are forgiven."""
    released = clip_models.openai_digests().get(digest)
    state = weights.read_state_dict(path, trust_torchscript=released is not None)
    if released is not None:
        state = {name: value for name, value in state.items() if name not in _ARCHIVE_EXTRAS}
    state = dict(convert_state_dict(network, state))
    if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
        state = dict(convert_to_custom_text_state_dict(state))
    return {name: _like(value, network, name) for name, value in state.items()}


def _like(value: torch.Tensor, network: Any, name: str) -> torch.Tensor:
    scalar = getattr(network, name, None) if name in ("logit_scale", "logit_bias") else None
    return value.reshape(scalar.shape) if scalar is not None and value.numel() == 1 else value


def _download(model: str, tag: str) -> Path:
    """A tag's file in the hub cache; no request is sent if it is there already.

    Raises
    ------
    WeightsError:
        The hub cannot be reached or refuses.
    """
    entry: dict[str, Any] = clip_models.tag_entry(model, tag)
    repository, name = os.path.split(entry["hf_hub"])
    safe = Path(name).with_suffix(".safetensors").name if name else HF_SAFE_WEIGHTS_NAME
    for candidate in (safe, name or HF_WEIGHTS_NAME):
        cached = huggingface_hub.try_to_load_from_cache(repository, candidate)
        if isinstance(cached, str):
            return Path(cached)
    try:
        _reach(huggingface_hub.constants.ENDPOINT if repository else entry["url"])
        return Path(hub.download_pretrained(entry))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        advice = "where there is a network, run jobs/weights.py fetch, then set weights to the file it wrote"
        raise WeightsError(f"{model} {tag!r} cannot be downloaded ({reason}); {advice}") from error


def _reach(address: str) -> None:
    """Raise OSError at once where the host cannot be reached: the hub's client would retry for half a minute."""
    parts = urlsplit(address)
    if parts.hostname and not getproxies():
        socket.create_connection((parts.hostname, parts.port or 443), timeout=10).close()


def _described(source: weights.Weights, path: Path) -> str:
    return f"weights {source.tag!r}" if isinstance(source, HubTag) else f"weights file {path}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
