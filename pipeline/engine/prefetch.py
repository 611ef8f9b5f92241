"""Working ahead with one thread: a stage runs while the next one works on what it has given."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """Yields `items`, which a thread produces up to `depth` ahead.

    Errors of the thread are raised here. Closing this generator, or an error in its consumer, stops the thread and
    closes `items`.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    break
            put((_END, None))
        except BaseException as error:  # handed over, not handled: the consumer raises it
            put((_END, error))
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()
