"""Checks that ``torch.compile`` finds its compilers, so that a run without them ends before its first row."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from torch._inductor import config, exc
from torch._inductor.cpp_builder import get_cpp_compiler

from extractors.base import ExtractorError
from settings.messages import one_line

_TIMEOUT_S = 60.0


def check_compiler(device_type: str) -> None:
    """Build one function with the compiler that ``torch.compile`` uses on a kind of device.

    Raises
    ------
    ExtractorError
        If something is missing, or the compiler does not work.
    """
    if device_type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ExtractorError("option 'compile': torch.compile needs the package triton on a GPU; it is missing")
        _build(_c_compiler(), "c")
    else:
        _build(_cpp_compiler(), "c++")


def _cpp_compiler() -> str:
    """Return the C++ compiler that torch's code generator for CPUs takes."""
    try:
        return get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        tried = ", ".join(name for name in config.cpp.cxx if name)
        raise ExtractorError(
            f"option 'compile': no C++ compiler works (tried: {tried}); install g++ or set CXX"
        ) from error


def _c_compiler() -> str:
    """Return the C compiler with which triton builds its launchers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise ExtractorError("option 'compile': triton needs a C compiler on a GPU; install gcc or set CC")
    return compiler


def _build(compiler: str, language: str) -> None:
    """Build a shared library of one function."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe"
        source.write_text("int probe(void) { return 0; }\n")
        output = Path(folder) / "probe.so"
        command = [*shlex.split(compiler), "-x", language, "-shared", "-fPIC", str(source), "-o", str(output)]
        try:
            subprocess.run(command, capture_output=True, check=True, timeout=_TIMEOUT_S, text=True, errors="replace")
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or error
            raise ExtractorError(
                f"option 'compile': the compiler {compiler} does not work: {one_line(said)}"
            ) from error
