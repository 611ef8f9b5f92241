"""What a job would do and what it would cost, measured on a part of it, or not said at all."""

from __future__ import annotations

from pipeline.commands.probing import probe
from pipeline.engine.labels import check_first
from pipeline.engine.reading import open_input
from pipeline.job.classes import Classes, in_words
from pipeline.job.plan import Plan
from pipeline.streams.contract import InputStream

UNKNOWN = (
    "no estimate of time: with anonymity it hangs on how many images go round again; a run with --limit and another "
    "output.path measures it"
)
"""What is said where the job has a gate."""


def estimate(plan: Plan) -> str:
    """Shards, images and time as comment lines that follow a recipe; what is written to find out is gone afterwards.

    Samples are counted in the first shard, and the other shards are assumed to be like it. With a gate there is no
    time: the gate looks at all originals first, and nobody knows how often an image will go round again.
    """
    config, (stream, classes) = plan.config, open_input(plan)
    lines = [*stream.notes, *plan.notes, f"shards: {len(stream.shards)}, device: {', '.join(plan.devices)}"]
    check_first(plan, stream.shards, classes)
    if classes.shown is not None:
        lines.append(f"classes, data set → model: {in_words(classes.shown)}")
    first = sum(1 for _ in stream.shards[0].read()) if stream.shards else 0
    if first:
        total = min(first * len(stream.shards), config.limit or first * len(stream.shards))
        lines.append(f"samples: about {total} ({first} in the first shard)")
        lines += [UNKNOWN] if config.anonymity else timed(plan, stream, classes, total)
    return "\n".join(f"# {line}" for line in lines)


def timed(plan: Plan, stream: InputStream, classes: Classes, total: int) -> list[str]:
    """What a probe says of a job with `total` samples, as lines."""
    found = probe(plan, stream, classes)
    if not found.read:
        return ["no estimate of time: no sample could be read"]
    if not found.images:
        return [*found.notes, f"no estimate of time: all {found.rejected} samples of the probe went to quarantine"]
    devices = min(len(plan.devices), len(stream.shards))
    hours = total * found.seconds / found.read / devices / 3600
    lost = f", {found.rejected} of its {found.read} samples in quarantine" if found.rejected else ""
    return [
        *found.notes,
        f"images: about {round(total * found.images / found.read)} out",
        f"probe: {found.images / found.seconds:.1f} images/s a device, from reading to writing{lost}; "
        f"the job: about {_duration(hours)}",
    ]


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
