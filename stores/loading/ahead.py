"""Reading ahead in a thread: copies from mapped files hold no interpreter lock, so no worker process is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol


class _Batched(Protocol):
    def __getitems__(self, indices: Any) -> Any: ...


def read_ahead(dataset: _Batched, batches: Iterable[Any], depth: int = 2, threads: int = 1) -> Iterator[Any]:
    """The batches of a dataset in order, up to ``depth`` of them read while the trainer computes.

    A batch goes from the page cache to its tensor in one copy; a ``DataLoader``'s worker processes fill fresh
    shared memory for each, which costs several times as much. ``batches`` is a batch sampler, asked
    ``depth`` batches ahead.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
    waiting: deque[Future[Any]] = deque()
    try:
        for indices in batches:
            waiting.append(pool.submit(dataset.__getitems__, indices))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
