"""Who holds a job's folder: one process by a lock of its disk, or by a claim in an object store, which has no locks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pipeline.errors import UserError
from pipeline.posix import lock
from pipeline.streams.claims import WHOLE_JOB, Claims, new_owner
from pipeline.streams.store import LOCK, Store

Hold = Callable[[Store], AbstractContextManager[bool]]
"""Holds a store as long as it is entered, and tells whether nobody else is at work there meanwhile; raises `UserError`
where somebody else holds it."""


LEASE = 60.0
"""Seconds without a sign of life after which the claim of a whole job counts for nothing."""


@contextmanager
def alone(store: Store) -> Iterator[bool]:
    """Holds a store against everybody else; see `Hold`.

    A process that was killed holds an object store for another lease.
    """
    if store.local is None:
        check_exclusive(store)
        with Claims(store, new_owner(), lease=LEASE).beating() as claims:
            if (other := claims.insist(WHOLE_JOB)) is not None:
                raise UserError(f"output.path: another doppel process, {other.place}, is writing to {store.shown}")
            if (other := claims.alone()) is not None:
                raise UserError(f"output.path: {other.place} is at work in {store.shown}, with --share")
            yield True
        return
    store.parts.mkdir(exist_ok=True)
    with os.fdopen(os.open(store.parts / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)) as held:
        if not lock(held):
            raise UserError(f"output.path: another doppel process is writing to {store.shown}")
        yield True


def check_exclusive(store: Store) -> None:
    """Raises `UserError` for a store that puts one object in the place of another where it should not."""
    if (why := store.exclusive()) is not None:
        raise UserError(f"output.path: {store.shown} cannot hold a job: {why}, and so nobody could claim it")
