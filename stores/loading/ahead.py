"""Read ahead in a thread. Copies from mapped files do not hold the interpreter lock, so no worker process is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

_Items = TypeVar("_Items", contravariant=True)
_Batch = TypeVar("_Batch", covariant=True)
_Chosen = TypeVar("_Chosen")
_Read = TypeVar("_Read")


class _Batched(Protocol[_Items, _Batch]):
    """A dataset that gathers whole batches."""

    def __getitems__(self, items: _Items, /) -> _Batch: ...


def read_ahead(
    dataset: _Batched[_Chosen, _Read], batches: Iterable[_Chosen], depth: int = 2, threads: int = 1
) -> Iterator[_Read]:
    """Yield the batches of a dataset in order, reading up to ``depth`` of them while the trainer computes.

    A batch goes from the page cache to its tensor in one copy, as in the workers of a ``DataLoader``, but there is no
    message between processes, which costs more than the copy if rows are small.

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
    waiting: deque[Future[_Read]] = deque()
    try:
        for indices in batches:
            waiting.append(pool.submit(dataset.__getitems__, indices))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
