"""Runs the towers of one GPU in a process of its own: ``python -m pipeline.extract.local.model_child FD``.

It receives its setup, loads the towers, and answers each group of decoded units with its results, in order. While one
group is computed, the next is received (and its pictures decoded, if that is left to the GPU), and the results of the
one before are sent. A fault of the machine is answered as such and ends the process. It ends with its parent.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from extractors import ExtractorError, MachineFaultError
from pipeline.extract.compute import Models, compute_rows, decode_pictures
from pipeline.extract.local import packets
from pipeline.extract.local.lanes import Results, Setup, extra_seconds
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
    groups: queue.Queue[_Group | MachineFaultError] = queue.Queue(1)
    answers: queue.Queue[Results | MachineFaultError] = queue.Queue(1)
    threading.Thread(target=_receive, args=(connection, setup, models, groups), daemon=True).start()
    threading.Thread(target=_send, args=(connection, answers), daemon=True).start()
    while True:
        group = groups.get()
        started = time.perf_counter()
        try:
            if isinstance(group, MachineFaultError):
                raise group
            items = list(compute_rows(setup.context, models, group.units))
        except MachineFaultError as error:
            answers.put(error)
            threading.Event().wait()  # until the answer is sent
            raise
        answers.put(Results(items, time.perf_counter() - started, group.decode_s))


@dataclass(frozen=True, slots=True)
class _Group:
    """Units whose pictures are decoded, and how long that took here."""

    units: Sequence[Decoded]
    decode_s: float


def _receive(
    connection: Connection, setup: Setup, models: Models, groups: queue.Queue[_Group | MachineFaultError]
) -> None:
    while True:
        try:
            received: Sequence[Decoded] = packets.receive(connection)
        except OSError:
            os._exit(0)  # the parent has ended, or needs nothing more
        try:
            units = decode_pictures(setup.context, models, received)
            groups.put(_Group(units, extra_seconds(received, units)))
        except MachineFaultError as error:
            groups.put(error)
        except BaseException:  # noqa: BLE001 (whatever it is, the parent must hear of it)
            traceback.print_exc()
            os._exit(1)  # a thread that ended in silence would have the parent wait for ever


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
