"""Sends Python objects between two processes without copying the arrays in them."""

from __future__ import annotations

import pickle
import struct
from multiprocessing.connection import Connection
from typing import Any

_COUNT = struct.Struct("<I")


def send(connection: Connection, item: Any) -> None:
    """Send one object. Arrays go as they lie in memory; one that the object holds twice goes once.

    Raises
    ------
    OSError
        If the other side has ended.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    connection.send_bytes(_COUNT.pack(len(buffers)) + body)
    for buffer in buffers:
        with buffer.raw() as view:
            connection.send_bytes(_COUNT.pack(view.nbytes))
            if view.nbytes:
                connection.send_bytes(view)


def receive(connection: Connection) -> Any:
    """Receive one object; its arrays are writable.

    Raises
    ------
    OSError
        If the other side has ended (``EOFError`` is raised as one).
    """
    try:
        head = connection.recv_bytes()
        buffers = [_buffer(connection) for _ in range(_COUNT.unpack_from(head)[0])]
    except EOFError as error:
        raise ConnectionResetError("the other side has ended") from error
    return pickle.loads(memoryview(head)[_COUNT.size :], buffers=buffers)


def _buffer(connection: Connection) -> bytearray:
    (size,) = _COUNT.unpack(connection.recv_bytes())
    buffer = bytearray(size)
    if size:
        connection.recv_bytes_into(buffer)
    return buffer
