"""Which engine does the work of `doppel run`, by the options of the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.engine.local import local
from pipeline.engine.planning import try_here
from pipeline.engine.run import Engine
from pipeline.errors import UserError
from pipeline.job.plan import Plan

ENGINES = ("local", "ray")
"""The names of the engines."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command says of its engine; None for what it leaves out."""

    engine: str = "local"
    address: str | None = None
    workers: str | None = None
    gpus_per_worker: str | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An engine that is ready to work."""

    run: Engine = local
    trial: Callable[[Plan], int] = try_here
    """Finds the batch size for `auto` where the engine will work."""


@contextmanager
def engine_of(options: Options) -> Iterator[Chosen]:
    """The engine that the options ask for, connected to its cluster within the block.

    Raises `UserError` for options that are wrong or don't fit together, and for a cluster that cannot be reached.
    """
    if options.engine not in ENGINES:
        raise UserError(f"--engine is {options.engine!r}; allowed are {', '.join(ENGINES)}")
    if options.engine == "local":
        for name in ("address", "workers", "gpus_per_worker"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} belongs to --engine ray; here run.devices says what works")
        yield Chosen()
        return
    least, most = bounds(options.workers)
    gpus = None if options.gpus_per_worker is None else share(options.gpus_per_worker)
    from pipeline.engine.ray_cluster import connected, gpus_by_default
    from pipeline.engine.ray_engine import RayEngine

    with connected(options.address):
        engine = RayEngine(least=least, most=most, gpus=gpus_by_default() if gpus is None else gpus)
        yield Chosen(run=engine, trial=engine.largest_batch)


def bounds(workers: str | None) -> tuple[int, int]:
    """The least and the most workers of `N` or `N:M`. Raises `UserError` for anything else."""
    given = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", workers or "")
    least, most = (int(given[1]), int(given[2] or given[1])) if given else (0, 0)
    if not 1 <= least <= most:
        said = "missing" if workers is None else repr(workers)
        raise UserError(f"--workers is {said}; --engine ray needs N, or N:M for at least N and at most M workers")
    return least, most


def share(gpus: str) -> float:
    """The GPUs of a worker. Raises `UserError` where they are not a number in [0, 1]."""
    try:
        number = float(gpus)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise UserError(f"--gpus-per-worker is {gpus!r}; allowed are 0 (CPUs), 1, and shares of one GPU such as 0.5")
    return number
