"""Read ahead in a thread. Copies from mapped files do not hold the interpreter lock, so no worker process is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol


class _Batched(Protocol):
    """A dataset that gathers whole batches."""

    def __getitems__(self, indices: Any) -> Any: ...


def read_ahead(dataset: _Batched, batches: Iterable[Any], depth: int = 2, threads: int = 1) -> Iterator[Any]:
    """Yield the batches of a dataset in order, reading up to ``depth`` of them while the trainer computes.

    A batch goes from the page cache to its tensor in one copy. The worker processes of a ``DataLoader`` fill fresh
    shared memory for each batch, which costs several times as much.

    Parameters
    ----------
    dataset
        A dataset with ``__getitems__``, as those of this package.
    batches
        A batch sampler. It is asked for batches ``depth`` ahead of their use.
    depth
        Number of batches to read ahead.
    threads
        Number of threads that read.
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
