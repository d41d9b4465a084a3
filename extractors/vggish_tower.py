"""The network behind `vggish`: torchvggish's own layers, strictly loaded, and AudioSet's post-processing.

Only the module with the layers is taken from the package: its `__init__` would import the resampler and the audio
reader, and its `vggish()` would download. The state has 18 tensors (six convolutions, three linear layers).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
import re
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors import hub, weights
from extractors.base import ExtractorError, FetchedWeights, Json, OutputSpec, WeightsError
from extractors.torch_model import Execution, TorchModel
from extractors.weights import HubTag, RandomWeights, WeightsFile

if TYPE_CHECKING:
    from extractors.vggish import Vggish

_WIDTH = 128
_CLIP = 2.0
_LEVELS_PER_UNIT = 255 / (2 * _CLIP)


class PostProcessor:
    """AudioSet's PCA and its 8 bits, in float64: truncation would make last-bit differences visible.

    Parameters
    ----------
    eigen_vectors:
        `[128, 128]`, one component per row.
    means:
        `[128]`.
    quantise:
        Clip to -2..2, scale to 0..255, truncate.
    """

    def __init__(self, eigen_vectors: NDArray[Any], means: NDArray[Any], quantise: bool, device: torch.device) -> None:
        self._eigen_vectors = torch.tensor(eigen_vectors, dtype=torch.float64, device=device)
        self._means = torch.tensor(means.reshape(-1), dtype=torch.float64, device=device)
        self._quantise = quantise

    def __call__(self, embeddings: torch.Tensor) -> torch.Tensor:
        """`[M, 128]` to `float64 [M, 128]`: whitened, or 0..255."""
        whitened = (embeddings.double() - self._means) @ self._eigen_vectors.T
        if not self._quantise:
            return whitened
        return ((whitened.clamp(-_CLIP, _CLIP) + _CLIP) * _LEVELS_PER_UNIT).trunc()


class VggishModel(TorchModel):
    """VGGish on one device.

    Parameters
    ----------
    network:
        torchvggish's module.
    post_processing:
        Eigenvectors, means and whether to quantise; None leaves the embedding as it is.
    output, execution, weights_sha256:
        As for every tower.
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

    def _features(self, batch: torch.Tensor) -> torch.Tensor:
        """`float32 [M,96,64]` log-mel to `[M,128]`."""
        embeddings: torch.Tensor = self.network(batch.unsqueeze(1))
        return embeddings if self._post_process is None else self._post_process(embeddings)


def load(extractor: Vggish, device: str, threads: int | None) -> VggishModel:
    """Build and load what `extractor` describes. Raises WeightsError, ExtractorError."""
    path = extractor.pca_file
    post_processing = None if path is None else (*read_pca(path), extractor.quantise)
    network, digest = _network(extractor)
    if not extractor.final_relu:
        network.embeddings = network.embeddings[:-1]
    execution = Execution(device, extractor.compute_dtype, threads, extractor.compile)
    return VggishModel(network, post_processing, extractor.output(), execution, digest)


def fetch(extractor: Vggish, tag: str, directory: Path) -> FetchedWeights:
    """Download the tag, load it strictly, write it as one safetensors file. Raises WeightsError."""
    network, digest = _network(extractor)
    listed = {"extractor": extractor.name, "model": extractor.name, "tag": tag, "source_sha256": digest or ""}
    carried: dict[str, Json] = {"model": extractor.name, "tag": tag}
    return weights.save(network.state_dict(), directory / f"{extractor.name}-{tag}.safetensors", carried, listed)


def read_pca(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Eigenvectors `[128, 128]` and means `[128]` of a post-processing file.

    torchvggish's `.pth` holds numpy arrays: exactly what rebuilds those is allowed while it is read, nothing else.

    Raises
    ------
    WeightsError:
        The file is missing, damaged, or holds other arrays.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        else:
            with torch.serialization.safe_globals(_numpy_globals()):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
            found = {name: np.asarray(value) for name, value in loaded.items()}
        eigen_vectors, means = found["pca_eigen_vectors"], found["pca_means"]
    except (OSError, EOFError, ValueError, RuntimeError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"pca file {path} cannot be read: {' '.join(str(error).split())[:300]}") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(f"pca file {path} holds more than arrays; convert it to .npz") from error
    except KeyError as error:
        raise WeightsError(f"pca file {path} has no {error.args[0]}") from error
    if eigen_vectors.shape != (_WIDTH, _WIDTH) or means.size != _WIDTH:
        shapes = f"{list(eigen_vectors.shape)} and {list(means.shape)}"
        raise WeightsError(f"pca file {path} holds {shapes} instead of [{_WIDTH}, {_WIDTH}] and [{_WIDTH}]")
    return eigen_vectors, means.reshape(-1)


def _numpy_globals() -> list[Any]:
    reconstruct: Any = np.empty(0).__reduce__()[0]
    # Files of numpy 1 name the module by its old path.
    return [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in (np.float32, np.float64)},
    ]


def _network(extractor: Vggish) -> tuple[Any, str | None]:
    """torchvggish's network with its weights, and the digest of their file."""
    source = extractor.source
    network = _architecture(source.seed if isinstance(source, RandomWeights) else 0)
    if isinstance(source, RandomWeights):
        return network, None
    path = weights.resolve(source, extractor.name, extractor.sha256, _download)
    if isinstance(source, WeightsFile):
        weights.check_model(path, extractor.name)
    described = f"weights {source.tag!r}" if isinstance(source, HubTag) else f"weights file {path}"
    weights.load_strict(network, weights.read_state_dict(path), f"{described} as VGGish")
    return network, weights.digest(path)


def _architecture(seed: int) -> Any:
    """The untrained network, seeded, without touching the process's random state."""
    layers = _layers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return layers.VGG(layers.make_layers(), postprocess=False)


@lru_cache(maxsize=1)
def _layers() -> Any:
    """The module of torchvggish that holds the layers, alone. Raises ExtractorError if the package has none."""
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
    """torchvggish's released file in torch.hub's cache, its digest begun by what its name says.

    Raises
    ------
    WeightsError:
        The host cannot be reached, or the cached file is damaged.
    """
    address: str = _layers().VGGISH_WEIGHTS
    name = address.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    begins = match[1] if match else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download(
            "VGGish 'torchvggish'",
            address,
            lambda: torch.hub.download_url_to_file(address, str(path), hash_prefix=begins, progress=False),
        )
    if not weights.digest(path).startswith(begins):
        raise WeightsError(f"weights file {path} is damaged: its sha256 does not begin with {begins}; remove it")
    return path
