"""What presets need of files to be planned: stand-ins, since neither a hub nor downloaded weights are there.

Configurations and feature extractors are those of the published models; only the weights are no weights.
"""

from __future__ import annotations

from pathlib import Path

import transformers

REPOSITORIES = {
    "MIT/ast-finetuned-audioset-10-10-0.4593": (transformers.ASTConfig(), transformers.ASTFeatureExtractor()),
    "laion/clap-htsat-unfused": (
        transformers.ClapConfig(),
        transformers.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50),
    ),
}
FILES = ("BEATs_iter3_plus_AS2M.pt",)


def make_hub(cache: Path) -> Path:
    """Write the cache of a hub that holds ``REPOSITORIES``; return it."""
    for name, parts in REPOSITORIES.items():
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / "abc"
        for part in parts:
            part.save_pretrained(snapshot)
        (snapshot / "model.safetensors").write_bytes(b"a stand-in for weights")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc")
    return cache


def make_files(folder: Path) -> Path:
    """Write stand-ins of the files that presets name; return the folder."""
    for name in FILES:
        (folder / name).write_bytes(b"a stand-in for weights")
    return folder
