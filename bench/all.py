"""Every measurement, one after the other: tables on the terminal, JSON beside each other.

python bench/all.py --out out/bench
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHES = {
    "clustering": ["bench/clustering.py"],
    "decode": ["bench/decode.py", "--runs", "5"],
    "one-decode": ["bench/one_decode.py", "--runs", "3"],
    "overhead-local": ["bench/overhead.py", "local", "--runs", "3"],
    "overhead-ray": ["bench/overhead.py", "ray", "--runs", "2"],
    "overhead-memory": ["bench/overhead.py", "memory", "--runs", "1"],
    "models": ["bench/models.py"],
    "models-swin": [
        "bench/models.py",
        "--model",
        "swin_tiny_patch4_window7_224",
        "--micro-batch",
        "8",
        "--threads",
        "1",
    ],
    "models-vggish": ["bench/models.py", "--model", "vggish", "--steps", "60", "--micro-batch", "30", "--threads", "1"],
    "planning": ["bench/planning.py", "--runs", "3"],
    "store": ["bench/store.py"],
    "reading": ["bench/reading.py"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(BENCHES)} (default: all)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    unknown = sorted(set(arguments.names) - set(BENCHES))
    if unknown:
        parser.error(f"no bench is named {unknown[0]!r}")
    failed = []
    for name in arguments.names or BENCHES:
        command = [sys.executable, *BENCHES[name], "--json", str((arguments.out / f"{name}.json").absolute())]
        if subprocess.run(command, cwd=ROOT).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
