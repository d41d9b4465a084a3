"""The command line of a store; ``reelstore`` where the reader is installed.

python jobs/store.py inspect DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

from stores.command import app

if __name__ == "__main__":
    app()
