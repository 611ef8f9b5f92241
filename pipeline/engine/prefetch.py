"""Working ahead with one thread: a stage runs while the next one works on what it has given."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()


def prefetch(items: Iterable[T], depth: int, *, most: int, weigh: Callable[[T], int]) -> Generator[T, None, None]:
    """Yields `items`, which a thread produces up to `depth` ahead, as long as those that wait weigh at most `most`.

    One item may wait whatever it weighs. Errors of the thread are raised here. Closing this generator, or an error in
    its consumer, stops the thread and closes `items`.
    """
    waiting = deque[tuple[Any, int, BaseException | None]]()
    changed, stop = threading.Condition(), threading.Event()

    def put(item: Any, weight: int, error: BaseException | None = None) -> bool:
        def room() -> bool:
            full = len(waiting) >= depth or sum(other for _, other, _ in waiting) + weight > most
            return stop.is_set() or not waiting or not full

        with changed:
            changed.wait_for(room)
            waiting.append((item, weight, error))
            changed.notify_all()
            return not stop.is_set()

    def produce() -> None:
        try:
            for item in items:
                if not put(item, weigh(item)):
                    break
            put(_END, 0)
        except BaseException as error:  # handed over, not handled: the consumer raises it
            put(_END, 0, error)
        finally:
            if isinstance(items, Generator):
                items.close()

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting)
                item, _, error = waiting.popleft()
                changed.notify_all()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        with changed:
            stop.set()
            waiting.clear()
            changed.notify_all()
        thread.join()
