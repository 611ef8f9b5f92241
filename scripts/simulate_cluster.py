"""How long a job takes on many GPUs, what is wasted and what it costs: a simulation of shards, failures and stragglers.

    python scripts/simulate_cluster.py --images 1e9 --gpus 1000 --images-per-shard 4000 --lease 120
    python scripts/simulate_cluster.py --images 1e7 --gpus 256 --recommend
    python scripts/simulate_cluster.py --write      # scripts/evidence/cluster.json, for docs/operations.md

Every number is an option, so that yours can be put in place of what is assumed here. A GPU takes a free shard, works,
and marks it as done. Where it fails, what it did of the shard is lost, the shard is free again after the lease, and the
GPU comes back after a while and loads its model. A preempted one gives its shard back at once. One that stalls for
longer than the lease loses its claim, and another does the shard a second time.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).parent / "evidence"
HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job, the machines that it runs on, and how they behave. Rates are per hour of one GPU."""

    images: float = 1e6
    images_per_shard: float = 1000
    images_per_second: float = 11.0
    """Of one GPU, once it is under way."""
    gpus: int = 100
    lease: float = 60.0
    """Seconds until the shard of a GPU that died is free again."""
    shard_seconds: float = 0.02
    """What a shard costs beside its images: ledger and claim."""
    start_seconds: float = 60.0
    """From the start of a process to its first batch."""
    failures: float = 2e-5
    preemptions: float = 0.0
    absent_seconds: float = 600.0
    """Until a GPU that failed, or another in its place, starts again."""
    stalls: float = 0.01
    """How often a process hangs for a while, so that nobody hears of it."""
    stall_seconds: float = 20.0
    """Mean length of a stall; lengths are exponential."""
    stragglers: float = 0.02
    """Share of the GPUs that are slow."""
    straggler_speed: float = 0.7
    spread: float = 0.02
    """Of the logarithm of a shard's time, as a standard deviation."""
    price: float = 3.0
    """Dollars for an hour of one GPU."""

    @property
    def shards(self) -> int:
        return math.ceil(self.images / self.images_per_shard)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Where the hours went. All GPUs are paid for from the start to the end of the job, absent ones excepted."""

    hours: float
    """From the start to the last shard."""
    kept: float
    """Hours of GPUs whose images were kept, as are all below."""
    lost: float
    """Work that a failure or a preemption took."""
    twice: float
    """Work on shards that somebody else had done."""
    started: float
    """Loading models."""
    beside: float
    """Ledger and claims."""
    idle: float
    """Stalled, or without a free shard."""

    @property
    def paid(self) -> float:
        return self.kept + self.lost + self.twice + self.started + self.beside + self.idle

    @property
    def waste(self) -> float:
        """The share of the paid hours that made nothing."""
        return 1 - self.kept / self.paid


WAKE, FREE, FAIL, DONE = range(4)


def simulate(case: Case, seed: int = 0) -> Outcome:
    """Runs a job once, event by event."""
    draw = random.Random(seed)
    slow = draw.sample(range(case.gpus), round(case.stragglers * case.gpus))
    speed = dict.fromkeys(slow, case.straggler_speed)
    loss, stall = (case.failures + case.preemptions) / HOUR, case.stalls / HOUR
    failing = case.failures / (case.failures + case.preemptions) if loss else 0.0
    sizes = [case.images_per_shard] * (case.shards - 1)
    sizes.append(case.images - case.images_per_shard * (case.shards - 1))
    free, waiting, done = deque(range(case.shards)), deque[int](), bytearray(case.shards)
    left, spent = case.shards, dict.fromkeys(("kept", "lost", "twice", "started", "beside", "absent"), 0.0)
    events: list[tuple[float, int, int, int, float]] = []  # time, kind, GPU, shard, seconds of work
    for gpu in range(case.gpus):
        heappush(events, (case.start_seconds, WAKE, gpu, -1, 0.0))
    spent["started"] = case.start_seconds * case.gpus
    now = 0.0

    def begin(gpu: int) -> None:
        while free and done[free[0]]:
            free.popleft()
        if not free:
            waiting.append(gpu)
            return
        shard = free.popleft()
        work = sizes[shard] / case.images_per_second / speed.get(gpu, 1.0) * draw.lognormvariate(0, case.spread)
        paused = 0.0
        if stall and draw.expovariate(stall) < work:
            paused = draw.expovariate(1 / case.stall_seconds)
            if paused > case.lease:  # others see no beat, and take it
                heappush(events, (now + draw.random() * work + case.lease, FREE, gpu, shard, 0.0))
        whole = work + paused + case.shard_seconds
        dies = draw.expovariate(loss) if loss else math.inf
        if dies < whole:
            heappush(events, (now + dies, FAIL, gpu, shard, min(dies, work)))
        else:
            heappush(events, (now + whole, DONE, gpu, shard, work))

    while left:
        now, kind, gpu, shard, work = heappop(events)
        if kind == WAKE:
            begin(gpu)
        elif kind == FREE:
            if not done[shard]:
                free.append(shard)
                if waiting:
                    begin(waiting.popleft())
        elif kind == DONE:
            spent["beside"] += case.shard_seconds
            spent["twice" if done[shard] else "kept"] += work
            left -= not done[shard]
            done[shard] = 1
            begin(gpu)
        else:
            failed = draw.random() < failing
            spent["lost"] += work
            spent["absent"] += case.absent_seconds
            spent["started"] += case.start_seconds
            heappush(events, (now + (case.lease if failed else 0.0), FREE, gpu, shard, 0.0))
            heappush(events, (now + case.absent_seconds + case.start_seconds, WAKE, gpu, -1, 0.0))
    # what goes on at the end is cut there: nobody works on, comes back or starts
    for time, kind, _, shard, work in events:
        over = time - now
        if kind == WAKE:
            cut = min(over, case.start_seconds)
            spent["started"] -= cut
            spent["absent"] -= over - cut
        elif kind in (FAIL, DONE):
            spent["twice" if done[shard] else "lost"] += max(0.0, work - over)
    total = case.gpus * now - spent["absent"]
    counted = {name: seconds / HOUR for name, seconds in spent.items() if name != "absent"}
    return Outcome(hours=now / HOUR, idle=total / HOUR - sum(counted.values()), **counted)


def mean(case: Case, seeds: int = 3) -> Outcome:
    """The mean of some runs."""
    runs = [simulate(case, seed) for seed in range(seeds)]
    return Outcome(**{f.name: sum(getattr(run, f.name) for run in runs) / seeds for f in fields(Outcome)})


def lost_per_shard(work: float, rate: float) -> float:
    """Seconds that failures take of a shard of `work` seconds in the mean, at `rate` failures a second.

    Tries until one has no failure: (e^(λw) − 1)/λ − w.
    """
    return math.expm1(rate * work) / rate - work


def young(case: Case) -> float:
    """Images of a shard that lose least to failures and to what a shard costs beside: Young's √(2·cost/rate)."""
    rate = (case.failures + case.preemptions) / HOUR
    return math.sqrt(2 * case.shard_seconds / rate) * case.images_per_second


GRID = [round(mantissa * 10**power) for power in range(1, 5) for mantissa in (1, 2, 4)]
LEASES = (15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


def recommend(case: Case) -> Case:
    """The case with the largest shards of `GRID` that cost at most 1 % more than the best, and the shortest such lease.

    Larger shards are fewer to list and to record, and a shorter lease is a shorter wait.
    """
    fitting = [size for size in GRID if size <= case.images / 2 and case.images / size <= 2e5]
    sizes = {size: mean(replace(case, images_per_shard=size)).paid for size in fitting}
    case = replace(case, images_per_shard=max(s for s, paid in sizes.items() if paid <= 1.01 * min(sizes.values())))
    leases = {lease: mean(replace(case, lease=lease)).paid for lease in LEASES}
    return replace(case, lease=min(lease for lease, paid in leases.items() if paid <= 1.01 * min(leases.values())))


SPOT: dict[str, float] = {"preemptions": 0.05, "price": 1.5}
"""What is assumed of machines that are taken away: once in 20 hours, at half the price."""


def measured() -> dict[str, float]:
    """What of the cases was measured."""
    rates = json.loads((EVIDENCE / "gpu" / "latent.json").read_text())["results"]["sd15, eager"]["images_per_s"]
    found = {"images_per_second": round(rates["doppel"], 2)}
    scale = EVIDENCE / "scale.json"
    if scale.exists():
        found["shard_seconds"] = json.loads(scale.read_text())["shard"]["s3"]["ms"] / 1000
    return found


def evidence() -> dict[str, Any]:
    """Everything that docs/operations.md shows."""
    base = Case(**measured())
    jobs = {
        "ImageNet-1k, 5 copies": replace(base, images=5 * 1_281_167),
        "LAION scale, 10⁹ images": replace(base, images=1e9),
    }
    rows = []
    for name, job in jobs.items():
        for gpus in (1, 10, 100, 1000, 10_000):
            for kind, more in (("reserved", {}), ("preemptible", SPOT)):
                if gpus == 1 and job.images == 1e9:
                    continue
                case = replace(job, gpus=gpus, images_per_shard=1000 if job.images < 1e8 else 10_000, **more)
                rows.append({"job": name, "kind": kind, "case": asdict(case)} | told(case))
    job = replace(base, images=1e7, gpus=256)
    sizes = [
        {"images_per_shard": size, **{k: told(replace(job, images_per_shard=size, **m)) for k, m in KINDS.items()}}
        for size in (100, 300, 1000, 3000, 10_000, 30_000)
    ]
    leases = [
        {"lease": lease, **{k: told(replace(job, lease=lease, stalls=0.1, **m)) for k, m in KINDS.items()}}
        for lease in LEASES
    ]
    best = {k: asdict(recommend(replace(job, stalls=0.1, **m))) for k, m in KINDS.items()}
    return {
        "measured": measured(), "assumed": {k: v for k, v in asdict(Case()).items() if k not in measured()},
        "preemptible": SPOT, "examples": rows, "job": asdict(job), "sizes": sizes, "leases": leases, "best": best,
    }  # fmt: skip


KINDS: dict[str, dict[str, Any]] = {"reserved": {}, "preemptible": SPOT}


def told(case: Case) -> dict[str, float]:
    out = mean(case, 1 if case.shards > 1e5 else 3)
    return asdict(out) | {"paid": out.paid, "waste": out.waste, "cost": out.paid * case.price}


def arguments(words: Sequence[str] | None) -> tuple[Case, str | None]:
    """The case that is asked for, and what to do with it beside playing it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recommend", action="store_true", help="find the size of shards and the lease")
    parser.add_argument("--write", action="store_true", help="write scripts/evidence/cluster.json")
    for field in fields(Case):
        kind, default = (int, 100) if field.name == "gpus" else (float, field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=measured().get(field.name, default))
    given = vars(parser.parse_args(words))
    asked = [name for name in ("recommend", "write") if given.pop(name)]
    return Case(**given), asked[-1] if asked else None


def main(words: Sequence[str] | None = None) -> None:
    case, asked = arguments(words)
    if asked == "write":
        (EVIDENCE / "cluster.json").write_text(json.dumps(evidence(), indent=1) + "\n")
        return
    if asked == "recommend":
        case = recommend(case)
        print(f"shards of {case.images_per_shard:,} images, a lease of {case.lease:g} seconds:")
    out = mean(case)
    print(f"{case.shards:,} shards on {case.gpus:,} GPUs: {out.hours:.2f} hours, {out.paid:,.1f} GPU hours, "
          f"{out.waste:.2%} of them wasted, {out.paid * case.price:,.0f} dollars")  # fmt: skip
    for name in ("lost", "twice", "started", "beside", "idle"):
        print(f"  {name:8}{getattr(out, name) / out.paid:8.3%}")


if __name__ == "__main__":
    main()
