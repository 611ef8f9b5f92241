"""Which shards wait, which worker holds which, and which are set aside because every worker that had them died."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator

from pipeline.engine.run import nobody_else
from pipeline.streams.asides import Aside


class Dispenser:
    """The queue of a run's shards. It knows names only: no processes, no clocks, no files.

    A worker may hold several shards, so that one is read while another is written; who died of which is then not known.
    So shards that a dead worker held are suspects: they wait until all others are given, and each is given alone, to a
    worker that holds nothing else and gets nothing else. A shard is set aside for a death that it had to itself, when
    it was held in `tries` deaths: an innocent one never is.
    """

    def __init__(
        self, shards: Iterable[str], tries: int, claim: Callable[[str], bool] = nobody_else, *, in_order: bool = False
    ) -> None:
        """`claim` is asked before a shard is given away, see `Run`; where it says no, the shard is passed over.

        With `in_order`, a suspect does not wait for others: what comes after it hangs on it.
        """
        self.set_aside = list[Aside]()
        """What was given up, in order."""
        self._claim, self._in_order = claim, in_order
        self._tries, self._deaths = tries, Counter[str]()
        self._waiting, self._suspects = deque(shards), deque[str]()
        self._held = dict[Hashable, list[str]]()

    @property
    def over(self) -> bool:
        """Whether no shard waits, and none is held."""
        return not (self._waiting or self._suspects or self._held)

    @property
    def unfinished(self) -> int:
        """How many shards wait or are held."""
        return len(self._waiting) + len(self._suspects) + sum(map(len, self._held.values()))

    @property
    def left(self) -> bool:
        """Whether a shard waits for a worker, though perhaps not for one that holds another."""
        return bool(self._waiting or self._suspects)

    def give(self, worker: Hashable) -> str | None:
        """The next shard, which the worker holds from now on.

        None where there is none for it now; unless all is `over`, there may be one later.
        """
        held = self._held.get(worker, [])
        if any(self._deaths[name] for name in held):
            return None
        drawn = () if self._in_order and self._suspects else self._drawn()
        name = next((name for name in drawn if self._claim(name)), None)
        if name is None and self._suspects and not held:
            name = self._suspects.popleft()
        if name is None:
            return None
        self._held[worker] = [*held, name]
        return name

    def _drawn(self) -> Iterator[str]:
        while self._waiting:
            yield self._waiting.popleft()

    def held(self, worker: Hashable) -> tuple[str, ...]:
        """The shards that a worker holds, the earliest first."""
        return tuple(self._held.get(worker, ()))

    def done(self, worker: Hashable, shard: str) -> None:
        """The worker has finished a shard that it holds."""
        self._held[worker].remove(shard)
        if not self._held[worker]:
            del self._held[worker]

    def lost(self, worker: Hashable, why: str) -> tuple[str, ...]:
        """The worker has died, and `why` says how, as a part of a sentence. Returns the shards that go back.

        The one that was its death once too often is not among them, but the last in `set_aside`.
        """
        held = self._held.pop(worker, [])
        self._deaths.update(held)
        if len(held) == 1 and self._deaths[held[0]] >= self._tries:
            self.set_aside.append(Aside(shard=held[0], tries=self._deaths[held[0]], reason=why))
            return ()
        self._suspects.extend(held)
        return tuple(held)

    def put_back(self, worker: Hashable) -> None:
        """The worker has left, and no shard is to blame: what it holds is given to others first."""
        for name in reversed(self._held.pop(worker, [])):
            (self._suspects if self._deaths[name] else self._waiting).appendleft(name)
