"""How much of its time a device works: what a profiler saw of kernels and copies, laid over one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Interval = tuple[float, float]


def busy_share(intervals: Iterable[Interval], start: float, end: float) -> float:
    """The share of [start, end] that at least one of the (start, end) intervals covers; start < end."""
    covered, reached = 0.0, start
    for begins, ends in sorted(intervals):
        if (ends := min(ends, end)) > (begins := max(begins, reached)):
            covered += ends - begins
            reached = ends
    return covered / (end - start)


def idle_share(work: Callable[[], object], device: str) -> dict[str, Any]:
    """Of the time from the first kernel or copy of `work` to its last; seen of this process, in all its threads."""
    if device == "cpu":
        return {"device_idle_share": None, "why_no_idle_share": "a CPU has no kernels whose gaps would count"}
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
    seen = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    if not seen:
        return {"device_idle_share": None, "why_no_idle_share": "the profiler saw no kernel"}
    start, end = min(begins for begins, _ in seen), max(ends for _, ends in seen)
    return {
        "device_idle_share": 1 - busy_share(seen, start, end), "profiled_kernels_and_copies": len(seen),
        "profiled_seconds": (end - start) / 1e6,
    }  # fmt: skip
