"""A finished shard of which only the failed samples are done again. What it has written stays, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.streams.contract import InputShard, InputStream
from pipeline.streams.job_records import ShardRecord
from pipeline.streams.ledger import Ledger
from pipeline.streams.quarantine import read_quarantine
from pipeline.streams.written import read_written


class Mending:
    """An `InputShard` without the samples that have outputs already, and these outputs.

    One thread reads it while another writes: `before` may be asked for the samples that were read so far.
    """

    def __init__(self, shard: InputShard, record: ShardRecord, ledger: Ledger, stream: InputStream) -> None:
        """Raises `UserError` where it is not clear which samples are to be done again."""
        self.name, self.record = shard.name, record
        self._shard, self._places = shard, dict[str, int]()
        store = ledger.store
        written = store.fetch(f"data/{self.name}.tar") or store.fetch(f"data/{self.name}.parquet")
        if written is None:
            raise UserError(f"shard {self.name}: what it has written is not there")
        self._kept = {key for key, _ in read_written(written, stream)}
        quarantine = store.fetch(f"quarantine/{self.name}.tar")
        failed = {why.key for why, _ in read_quarantine(quarantine)} if quarantine else set[str]()
        if len(self._kept) != record.counts.written or failed & self._kept:
            raise UserError(f"shard {self.name}: a key is written and in quarantine, or written twice")
        self._written = read_written(written, stream)
        self._next = next(self._written, None)

    def fingerprint(self) -> str:
        """See `InputShard`."""
        return self._shard.fingerprint()

    def content_hash(self) -> str:
        """See `InputShard`."""
        return self._shard.content_hash()

    def read(self) -> Iterator[Sample | Rejected]:
        """Yields the samples without outputs, in order; see `InputShard`."""
        for place, item in enumerate(self._shard.read()):
            self._places.setdefault(item.key, place)
            if item.key not in self._kept:
                yield item

    def before(self, key: str | None) -> Iterator[list[Sample]]:
        """Yields what is left of the outputs of each sample that comes before `key` in the shard; of all for None."""
        while self._next is not None and (key is None or self._place(self._next[0]) < self._place(key)):
            yield self._next[1]
            self._next = next(self._written, None)

    def _place(self, key: str) -> float:
        """The number of a sample in its shard; infinite before it was read."""
        return self._places.get(key, math.inf)


def mending(shard: InputShard, ledger: Ledger, stream: InputStream) -> Mending | None:
    """What a finished shard keeps; None where that is not clear, and then the shard is no longer finished."""
    record = ledger.record(shard.name)
    if record is None:  # a worker died while it replaced what was kept
        return None
    try:
        return Mending(shard, record, ledger, stream)
    except UserError:
        ledger.forget(shard.name)
        return None
