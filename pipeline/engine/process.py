"""The job, as its data flows: shard → decode → operator → (gate →) encode → shard. Each stage runs beside the next.

Where the gate finds somebody recognisable, the row climbs: it goes round again at the next level, and in the end to
quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from pipeline.engine.encoding import encode_all
from pipeline.engine.events import Event
from pipeline.engine.holding import Budget
from pipeline.engine.ladder import climb
from pipeline.engine.prefetch import prefetch
from pipeline.engine.reading import Reader
from pipeline.engine.transforming import transform_all
from pipeline.engine.windows import whole
from pipeline.engine.writing import write
from pipeline.job.classes import Classes
from pipeline.job.plan import Plan
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.ledger import Ledger
from pipeline.streams.mending import Mending, mending

AHEAD = 2
"""Batches that may wait between two stages."""


def process(
    shards: Iterable[InputShard], plan: Plan, stream: InputStream, classes: Classes, ledger: Ledger, device: str,
    remaining: int | None = None, unlimited: Container[str] = (), failed: Container[str] = (),
    stop: Callable[[], None] = lambda: None,
) -> Generator[Event, None, None]:  # fmt: skip
    """Runs the job over `shards` of its `stream` on one device; a shard is committed before its `ShardDone` is yielded.

    At most `remaining` samples are read, except from shards that are named in `unlimited`; None means all. Of the
    finished shards that are named in `failed`, only the samples without outputs are done. Closing the
    generator leaves finished shards finished and nothing else behind; `stop` is called first, so that `shards` makes
    no thread wait then.
    """
    mended = dict[str, Mending]()

    def opened() -> Iterator[InputShard]:
        for shard in shards:
            kept = mending(shard, ledger, stream) if shard.name in failed else None
            if kept is not None:
                mended[shard.name] = kept
            yield kept or shard

    transformed_by = transform_all if plan.config.anonymity is None else climb
    budget = Budget(plan.config.run.memory)
    with (
        ThreadPoolExecutor(plan.config.run.workers) as pool,
        closing(budget.admit(Reader(plan, classes, pool)(opened(), remaining, unlimited))) as read,
        closing(prefetch(read, AHEAD)) as decoded,
        closing(prefetch(transformed_by(decoded, plan, device), AHEAD)) as transformed,
        closing(prefetch(encode_all(whole(transformed), plan, pool), AHEAD)) as encoded,
    ):
        try:
            yield from write(budget.release(encoded), plan, stream, ledger, mended)
        finally:
            stop()
            budget.close()  # so that no thread waits for room when the stages are closed
