"""Runs the towers of one GPU in a process of its own: ``python -m pipeline.extract.local.model_child FD``.

It receives its setup, loads the towers, and answers each group of decoded units with its results, in order. While one
group is computed, the next is received and the results of the one before are sent. A fault of the machine is answered
as such and ends the process. It ends with its parent.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from extractors import ExtractorError, MachineFaultError
from pipeline.extract.compute import Models, compute_rows
from pipeline.extract.local import packets
from pipeline.extract.local.lanes import Results, Setup
from pipeline.extract.units import Decoded


def main(descriptor: int) -> None:
    """Serve groups until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this process ends
    connection = Connection(descriptor)
    setup: Setup = packets.receive(connection)
    try:
        models = Models.load(setup.features, setup.device, setup.threads)
    except ExtractorError as error:
        packets.send(connection, str(error))
        return
    packets.send(connection, None)
    groups: queue.Queue[Sequence[Decoded]] = queue.Queue(1)
    answers: queue.Queue[Results | MachineFaultError] = queue.Queue(1)
    threading.Thread(target=_receive, args=(connection, groups), daemon=True).start()
    threading.Thread(target=_send, args=(connection, answers), daemon=True).start()
    while True:
        group = groups.get()
        started = time.perf_counter()
        try:
            items = list(compute_rows(setup.context, models, group))
        except MachineFaultError as error:
            answers.put(error)
            threading.Event().wait()  # until the answer is sent
        answers.put(Results(items, time.perf_counter() - started))


def _receive(connection: Connection, groups: queue.Queue[Sequence[Decoded]]) -> None:
    while True:
        try:
            groups.put(packets.receive(connection))
        except OSError:
            os._exit(0)  # the parent has ended, or needs nothing more


def _send(connection: Connection, answers: queue.Queue[Results | MachineFaultError]) -> None:
    while True:
        answer = answers.get()
        try:
            packets.send(connection, answer)
        except OSError:
            os._exit(0)
        if isinstance(answer, MachineFaultError):
            os._exit(1)  # at once: what a faulted card has left behind cannot be taken down in order


if __name__ == "__main__":
    main(int(sys.argv[1]))
