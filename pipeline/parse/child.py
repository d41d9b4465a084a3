"""Parses in a process of its own: ``python -m pipeline.parse.child FD``.

It receives its parser, then tasks, and answers each with its rows. The next task is received while one is parsed. It
ends with its parent.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from parsers import ParserError, parses_table
from settings.messages import one_line


def main(descriptor: int) -> None:
    """Parse until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this process ends
    connection = Connection(descriptor)
    parser, level = connection.recv()
    if level <= logging.DEBUG:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("reelstore").setLevel(level)
    tasks: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
    while True:
        answer = _parse(parser, tasks.get())
        try:
            connection.send(answer)
        except OSError:
            return
        if isinstance(answer, Exception):
            return


def _receive(connection: Connection, tasks: queue.SimpleQueue[Sequence[str]]) -> None:
    while True:
        try:
            tasks.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent has ended, or needs nothing more


def _parse(parser: Any, texts: Sequence[str]) -> Any:
    """Return the rows of some texts, or the error that ends the run."""
    try:
        return parses_table(parser.parse(texts))
    except (ParserError, OSError) as error:
        return error
    except Exception as error:  # a mistake of ours: the parser itself turns what Stanza raises into refused texts
        logging.getLogger("reelstore.parse.child").debug("the parser fails", exc_info=True)
        return ParserError(f"the parser fails: {one_line(error)}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
