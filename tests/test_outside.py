"""What strangers hand us is opened in one way: a walk through the code finds every call that opens a file otherwise."""

from __future__ import annotations

import ast
from collections import Counter

from tests.test_houses import is_in, modules

# Rooms that open what users or tables name. The store's own files have rules of their own (stores/format).
ROOMS = ("settings", "extractors", "parsers", "pipeline", "trainers", "jobs", "stores.exchange", "stores.files")
CALLS = {
    *("read_text", "read_bytes", "open", "fdopen"),
    *("File", "open_memmap", "load", "load_file", "safe_open", "ZipFile", "from_pretrained", "from_file"),
}
LIBRARIES = {"h5py", "np", "torch", "zipfile", "av", "fsspec", "os", "transformers"}
ANY_OBJECT = {"read_text", "read_bytes", "open", "open_memmap", "from_pretrained", "from_file"}

# Module to (call, how often, why it is no file that somebody names, or how it is asked for before).
ALLOWED: dict[str, dict[str, tuple[int, str]]] = {
    "settings.files": {"os.open": (1, "the way itself"), "os.fdopen": (1, "the way itself")},
    "stores.files": {"os.open": (1, "the way itself"), "os.fdopen": (1, "the way itself")},
    "extractors.base": {"read_bytes": (1, "the source of a class")},
    "extractors.clip_models": {"read_text": (1, "of the installed open_clip")},
    "extractors.clip_table": {"read_text": (1, "of the installed open_clip")},
    "extractors.hf_loading": {"from_pretrained": (3, "read_config has checked the folder")},
    "extractors.text.sentence_tower": {
        "from_file": (1, "its digest was taken through open_regular"),
        "from_pretrained": (1, "its digest was taken through open_regular"),
    },
    "extractors.tensors": {
        "load_file": (1, "check_regular stands before it"),
        "safe_open": (1, "check_regular stands before it"),
        "torch.load": (1, "check_regular stands before it"),
        "zipfile.ZipFile": (1, "check_regular stands before it"),
    },
    "extractors.torch_model": {"read_text": (1, "of /proc")},
    "extractors.vggish_tower": {"np.load": (1, "check_regular stands before it")},
    "parsers.stanza_parser": {
        "read_text": (1, "of the installed Stanza"),
        "torch.load": (1, "its digest was taken through open_regular"),
    },
    "pipeline.media.child": {"read_text": (1, "of /proc")},
    "pipeline.media.inputs": {"os.open": (1, "the way of the decoding child")},
    "pipeline.media.source": {"av.open": (1, "the file is open already")},
    "pipeline.shared.sizing": {"read_text": (1, "of /proc and /sys")},
    "pipeline.extract.remote": {"fsspec.open": (1, "allowed by its protocol, bounded in bytes and time")},
    "stores.exchange.published": {"os.open": (1, "a file of its own export")},
    "stores.exchange.files": {
        "h5py.File": (1, "FileRows has asked for every file"),
        "open_memmap": (1, "FileRows has asked for every file"),
    },
    "trainers.checkpoint": {
        "safe_open": (1, "check_regular stands before it"),
        "torch.load": (1, "check_regular stands before it"),
        "zipfile.ZipFile": (1, "check_regular stands before it"),
    },
    "trainers.cra.text": {"from_pretrained": (2, "check_folder stands before it")},
    "trainers.frozenbilm.loading": {
        "load_file": (1, "check_regular stands before it"),
        "torch.load": (1, "check_regular stands before it"),
    },
    "trainers.frozenbilm.prompts": {"from_pretrained": (1, "check_folder stands before it")},
    "trainers.owner": {"read_text": (2, "of /proc"), "os.open": (2, "its own, never waited for: read and write")},
    "trainers.folder": {"os.open": (1, "a folder")},
    "trainers.panels.clip": {"av.open": (2, "the file is open already")},
    "trainers.relay": {"open": (1, "its own")},
    "trainers.run": {"read_bytes": (1, "the store's own")},
    "trainers.stopping": {"read_text": (1, "its own")},
    "pipeline.extract.sources.folders": {"os.open": (1, "a folder")},
}


def opened_by(node: ast.Call) -> str | None:
    """What a call opens a file with, if it reads one."""
    function = node.func
    if isinstance(function, ast.Name):
        name, of = function.id, ""
        if name not in ("open", "safe_open", "load_file"):
            return None
    elif isinstance(function, ast.Attribute) and function.attr in CALLS:
        name, of = function.attr, getattr(function.value, "id", getattr(function.value, "attr", ""))
        if of in ("files", "lane", "self") or (of[:1].isupper() and name == "open"):  # Store.open
            return None
        if name not in ANY_OBJECT and of not in LIBRARIES:
            return None
    else:
        return None
    modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
    if any(isinstance(mode, str) and set(mode) <= set("wxab+") and mode for mode in modes):
        return None  # it writes
    return f"{of}.{name}" if of in LIBRARIES else name


def test_every_file_that_somebody_names_is_asked_for_before_it_is_opened() -> None:
    found: dict[str, Counter[str]] = {}
    for name, path in modules().items():
        if any(is_in(name, room) for room in ROOMS):
            calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
            ways = Counter(way for call in calls if (way := opened_by(call)) is not None)
            if ways:
                found[name] = ways
    allowed = {name: Counter({way: count for way, (count, _) in ways.items()}) for name, ways in ALLOWED.items()}
    assert found == allowed
