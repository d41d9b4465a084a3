"""The network behind ``vggish``: torchvggish's own layers, strictly loaded, and AudioSet's post-processing.

Papers: Shawn Hershey, Sourish Chaudhuri, Daniel P. W. Ellis et al., "CNN Architectures for Large-Scale Audio
Classification", 2017, https://arxiv.org/abs/1609.09430; Jort F. Gemmeke, Daniel P. W. Ellis, Dylan Freedman et al.,
"Audio Set: An ontology and human-labeled dataset for audio events", ICASSP 2017.

Code: torchvggish, https://github.com/harritaylor/torchvggish, Apache-2.0 licence.

Weights: Google's release in TensorFlow's models, https://github.com/tensorflow/models (research/audioset/vggish),
Apache-2.0 licence, which torchvggish converted to torch.

Only the module with the layers is taken from the package: its ``__init__`` would import the resampler and the audio
reader, and its ``vggish()`` would download. The state has 18 tensors (six convolutions, three linear layers).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors import hub, tensors, weights
from extractors.base import Execution, ExtractorError, Json, OutputSpec, WeightsError
from extractors.torch_model import TorchModel, dtype_of
from extractors.weights import PinnedWeights, WeightsFile
from settings.files import check_regular
from settings.messages import one_line

_WIDTH = 128
_CLIP = 2.0
_LEVELS_PER_UNIT = 255 / (2 * _CLIP)


class PostProcessor:
    """AudioSet's PCA and its 8 bits, in float64, because truncation would make last-bit differences visible.

    Parameters
    ----------
    eigen_vectors
        ``[128, 128]``, one component per row.
    means
        ``[128]``.
    quantise
        Clip to -2..2, scale to 0..255, truncate.
    device
        Where to compute.
    """

    def __init__(self, eigen_vectors: NDArray[Any], means: NDArray[Any], quantise: bool, device: torch.device) -> None:
        self._eigen_vectors = torch.tensor(eigen_vectors, dtype=torch.float64, device=device)
        self._means = torch.tensor(means.reshape(-1), dtype=torch.float64, device=device)
        self._quantise = quantise

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Turn ``[M, 128]`` into ``float64 [M, 128]``: whitened, or 0..255."""
        whitened = (embeddings.double() - self._means) @ self._eigen_vectors.T
        if not self._quantise:
            return whitened
        return ((whitened.clamp(-_CLIP, _CLIP) + _CLIP) * _LEVELS_PER_UNIT).trunc()


class VggishModel(TorchModel):
    """VGGish on one device.

    Parameters
    ----------
    network
        torchvggish's module.
    post_processing
        Eigenvectors, means and whether to quantise; None leaves the embedding as it is.
    output, execution, weights_sha256
        As for every ``TorchModel``.
    """

    def __init__(
        self,
        network: nn.Module,
        post_processing: tuple[NDArray[Any], NDArray[Any], bool] | None,
        output: OutputSpec,
        execution: Execution,
        weights_sha256: str | None,
    ) -> None:
        # numpy computes the log-mel patches.
        libraries: dict[str, Json] = {
            "torchvggish": importlib.metadata.version("torchvggish"),
            "numpy": np.__version__,
        }
        super().__init__(network, output, execution, libraries, weights_sha256)
        self._post_process = None if post_processing is None else PostProcessor(*post_processing, self._device)

    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Turn log-mel ``float32 [M,96,64]`` into ``[M,128]``."""
        embeddings: torch.Tensor = network(batch.unsqueeze(1).to(dtype_of(network)))  # [M,1,96,64] to [M,128]
        return embeddings if self._post_process is None else self._post_process(embeddings)


def load(
    pinned: PinnedWeights,
    final_relu: bool,
    pca_file: Path | None,
    quantise: bool,
    output: OutputSpec,
    execution: Execution,
) -> VggishModel:
    """Build the network, load its weights and prepare its post-processing.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit, or the PCA file cannot be used.
    ExtractorError
        If torchvggish is not installed, or the device cannot be used.
    """
    post_processing = None if pca_file is None else (*read_pca(pca_file), quantise)
    network, sha256 = build_network(pinned)
    if not final_relu:
        network.embeddings = network.embeddings[:-1]
    return VggishModel(network, post_processing, output, execution, sha256)


def read_pca(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read a post-processing file.

    Returns
    -------
    eigen_vectors
        ``[128, 128]``, one component per row.
    means
        ``[128]``.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or holds other arrays.
    """
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_torch_arrays(path)
    for name in ("pca_eigen_vectors", "pca_means"):
        if name not in arrays:
            raise WeightsError(f"pca file {path} has no {name}")
    eigen_vectors, means = arrays["pca_eigen_vectors"], arrays["pca_means"]
    if eigen_vectors.shape != (_WIDTH, _WIDTH) or means.size != _WIDTH:
        shapes = f"{list(eigen_vectors.shape)} and {list(means.shape)}"
        raise WeightsError(f"pca file {path} holds {shapes} instead of [{_WIDTH}, {_WIDTH}] and [{_WIDTH}]")
    return eigen_vectors, means.reshape(-1)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        check_regular(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"pca file {path} cannot be read: {one_line(error)}") from error


def _read_torch_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read torchvggish's ``.pth``, which holds numpy arrays: what rebuilds those is allowed and nothing else."""
    loaded = tensors.read_pickle(path, "pca file", _numpy_globals())
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"pca file {path} holds {type(loaded).__name__} instead of arrays by name")
    return {name: np.asarray(value) for name, value in loaded.items()}


def _numpy_globals() -> list[Any]:
    """List the functions and classes that rebuild arrays, as ``torch.serialization.safe_globals`` takes them."""
    reconstruct: Any = np.empty(0).__reduce__()[0]
    # Files of numpy 1 name the module by its old path.
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(number)) for number in (np.float32, np.float64)},
    ]


def build_network(pinned: PinnedWeights) -> tuple[Any, str | None]:
    """Build torchvggish's network and load its weights strictly.

    Returns
    -------
    network
        The network, on the CPU.
    sha256
        Digest of the file that the weights came from; None for random weights.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    ExtractorError
        If torchvggish is not installed.
    """
    network = _architecture(pinned.seed)
    path = weights.resolve(pinned, lambda _: _download())
    if path is None:
        return network, None
    tensors.load_strict(network, tensors.read_state_dict(path), f"{weights.label(pinned, path)} as VGGish")
    return network, weights.digest(path)


def check_files(pinned: PinnedWeights, pca_file: Path | None) -> None:
    """Check that a local weights file fits, by the names and shapes of its tensors, and that a PCA file can be used.

    Raises
    ------
    WeightsError
        If one does not.
    ExtractorError
        If torchvggish is not installed.
    """
    if pca_file is not None:
        read_pca(pca_file)
    if isinstance(pinned.source, WeightsFile):
        path = pinned.source.path
        with torch.device("meta"):
            network = _architecture(0)
        state = tensors.read_state_dict(path, shapes_only=True)
        tensors.check_fit(network.state_dict(), state, f"{weights.label(pinned, path)} as VGGish")


def _architecture(seed: int) -> Any:
    """Build the untrained network from its seed, without touching the process's random state."""
    layers = _layers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return layers.VGG(layers.make_layers(), postprocess=False)


@lru_cache(maxsize=1)
def _layers() -> Any:
    """Import the one module of torchvggish that holds the layers. Raises ExtractorError if it is not installed."""
    package = importlib.util.find_spec("torchvggish")
    locations = package.submodule_search_locations if package is not None else None
    path = Path(locations[0]) / "torchvggish.py" if locations else None
    spec = importlib.util.spec_from_file_location("_torchvggish_layers", path) if path and path.is_file() else None
    if spec is None or spec.loader is None:
        raise ExtractorError("the vggish extractor needs the package torchvggish 0.2")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _download() -> Path:
    """Return torchvggish's released file in torch.hub's cache; its sha256 begins as the file's name says.

    Raises
    ------
    WeightsError
        If the host cannot be reached, or the cached file is damaged.
    """
    address: str = _layers().VGGISH_WEIGHTS
    name = address.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    prefix = match[1] if match else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download(
            "VGGish 'torchvggish'",
            address,
            lambda: torch.hub.download_url_to_file(address, str(path), hash_prefix=prefix, progress=False),
        )
    if not weights.digest(path).startswith(prefix):
        raise WeightsError(f"weights file {path} is damaged: its sha256 does not begin with {prefix}; remove it")
    return path
