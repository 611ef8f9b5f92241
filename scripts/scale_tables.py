"""The tables of docs/operations.md, from what simulate_cluster.py and bench_scale.py have written."""

from __future__ import annotations

from typing import Any

from cells import table

KINDS = ("reserved", "preemptible")
MEANS = {
    "images_per_second": "images/s of a GPU", "shard_seconds": "seconds of a shard beside its images",
    "start_seconds": "seconds to the first batch", "failures": "failures per GPU hour",
    "absent_seconds": "seconds until a GPU is back", "stalls": "stalls per GPU hour",
    "stall_seconds": "mean seconds of a stall", "stragglers": "share of slow GPUs",
    "straggler_speed": "their speed", "spread": "spread of a shard's time", "price": "dollars per GPU hour",
}  # fmt: skip


def parameters(found: dict[str, Any]) -> str:
    """What the simulation takes for granted, and what of it was measured."""
    values, told = found["assumed"] | found["measured"], list[list[Any]]()
    for name, means in MEANS.items():
        spot = found["preemptible"].get(name, "")
        told.append([means, f"`--{name.replace('_', '-')}`", f"{values[name]:g}", spot,
                     "measured" if name in found["measured"] else "assumed"])  # fmt: skip
    told.append(["preemptions per GPU hour", "`--preemptions`", 0, found["preemptible"]["preemptions"], "assumed"])
    return table(["", "option", "reserved", "preemptible, where it differs", ""], told)


def examples(found: dict[str, Any]) -> str:
    rows = []
    for one in found["examples"]:
        case = one["case"]
        rows.append([
            one["job"], f"{case['gpus']:,}", one["kind"], f"{case['images_per_shard']:,}", duration(one["hours"]),
            f"{one['paid']:,.0f}", f"{one['waste']:.1%}", f"{one['cost']:,.0f}",
        ])  # fmt: skip
    return table(["job", "GPUs", "", "images per shard", "takes", "GPU hours", "wasted", "dollars"], rows)


def sizes(found: dict[str, Any]) -> str:
    seconds = found["job"]["images_per_second"]
    rows = [
        [f"{one['images_per_shard']:,}", f"{one['images_per_shard'] / seconds:,.0f} s",
         *(f"{one[kind]['waste']:.1%}" for kind in KINDS)]
        for one in found["sizes"]
    ]  # fmt: skip
    best = " and ".join(
        f"{found['best'][kind]['images_per_shard']:,} images and {found['best'][kind]['lease']:g} s ({kind})"
        for kind in KINDS
    )
    told = table(["images per shard", "a shard takes", *(f"wasted, {kind}" for kind in KINDS)], rows)
    return f"{told}\n\nRecommended, of a finer grid, with a lease: {best}."


def leases(found: dict[str, Any]) -> str:
    rows = [
        [f"{one['lease']:g} s", *(f"{one[kind]['waste']:.1%}" for kind in KINDS),
         *(f"{3600 * one[kind]['twice']:,.0f} s" for kind in KINDS)]
        for one in found["leases"]
    ]  # fmt: skip
    return table(["lease", *(f"wasted, {k}" for k in KINDS), *(f"done twice, {k}" for k in KINDS)], rows)


def duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} min."
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
