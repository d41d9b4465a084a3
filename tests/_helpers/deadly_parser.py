"""A parser for tests of processes that die: what it does is written in the texts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parsers.parse import Parse, ParserError, Token


@dataclass(frozen=True)
class DeadlyParser:
    """Makes one token of each text, and notes in ``folder`` what its processes are given.

    A text ``kill …`` ends the process, ``once …`` does so the first time, ``error …`` and ``disk …`` raise, ``odd …``
    raises what nobody expects, and ``wait …`` never ends.
    """

    folder: Path
    device: str = "cpu"

    def parse(self, texts: Sequence[str]) -> list[Parse]:
        with (self.folder / f"{os.getpid()}.log").open("a") as file:
            file.write("|".join(texts) + "\n")
        for text in texts:
            what = text.split()[0]
            once = self.folder / text.replace(" ", "-")
            if what == "kill" or (what == "once" and not once.exists()):
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "error":
                raise ParserError("the models do not load")
            if what == "disk":
                raise OSError(28, "No space left on device")
            if what == "odd":
                raise ZeroDivisionError("by nought")
            while what == "wait":
                time.sleep(1)
        return [Parse(text, (Token(text, "", "", "", "", 0, "root", 0, 0, len(text)),)) for text in texts]

    def calls(self) -> dict[int, list[list[str]]]:
        """Return what each process was given, by its id."""
        return {
            int(path.stem): [line.split("|") for line in path.read_text().splitlines()]
            for path in sorted(self.folder.glob("*.log"))
        }
