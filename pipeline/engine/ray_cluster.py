"""Connecting to a Ray cluster, or starting one on this machine; what keeps us out is one sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import UserError
from pipeline.optional import require_package
from pipeline.posix import STOPPING

HERE, ANY_HERE = "local", "auto"
"""A cluster of this machine that is started for the job; and one that runs on this machine already."""
ADDRESS_VARIABLE = "RAY_ADDRESS"
"""What names the cluster where no option does; `ray job submit` sets it."""
SILENCE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
"""Nothing is reported to the makers of Ray, and the working folder, with whatever lies there, stays on this machine."""
STORE_BYTES = 80_000_000
"""The object store of a cluster that is started here, near the least that Ray allows: no image ever enters it."""
KNOCK_SECONDS = 5.0
"""Seconds that the head of a cluster gets to answer."""


def address_of(option: str | None) -> str:
    """The address of the cluster: of `--address`, else of the variable RAY_ADDRESS, else this machine's own.

    Raises `UserError` where it is none.
    """
    given = option if option is not None else os.environ.get(ADDRESS_VARIABLE) or HERE
    where = "--address" if option is not None else f"${ADDRESS_VARIABLE}"
    if given in (HERE, ANY_HERE) or re.fullmatch(r"[\w.\-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", given):
        return given
    if given.startswith("ray://"):
        raise UserError(
            f"{where}: ray:// leads a client into a cluster, and the job's folder must be seen from where doppel runs; "
            "start doppel on a node of the cluster, as ray job submit does, with --address auto"
        )
    raise UserError(f"{where} is {given!r}; allowed are HOST:PORT, {ANY_HERE} and {HERE}")


@contextmanager
def connected(option: str | None) -> Iterator[None]:
    """Within it, this process is the driver of a job in a Ray cluster; its actors are gone afterwards.

    Raises `UserError` where Ray is not installed, and where the cluster cannot be reached.
    """
    require_package("ray", "--engine ray", extra="ray")
    address = address_of(option)
    if address not in (HERE, ANY_HERE):
        _knock(address)
    os.environ.update(SILENCE)
    import ray

    own = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == HERE else {}
    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # versions that differ, a refusal, no room: Ray raises many kinds, also bare ones
        why = " ".join(str(error).split())
        raise UserError(f"--address: the Ray cluster {address} takes no job of ours ({why[:300]})") from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries for a minute, and then ends the whole process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--address: nothing answers at {address} ({why}); the head of a Ray cluster listens there, by default on "
            "port 6379"
        ) from None


@contextmanager
def _own_signals() -> Iterator[None]:
    """Within it, Ray may take signals over; afterwards they are what they were."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def gpus_by_default() -> float:
    """1 where the connected cluster has a GPU, else 0."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0) >= 1)
