"""The figures of one latent model: rates and their ratios, where the time goes, the floor, and the largest batch."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from bench_throughput import alone
from latent_rates import Bare, Bench, Diffusers, Doppel, Side
from random_models import SPECS
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import validate
from pipeline.engine import transforming
from pipeline.engine.planning import make_plan
from pipeline.job.config import JobConfig
from pipeline.models.config import DTYPES

NO_PIPELINE = "diffusers has no img2img pipeline for DiT"
NO_GPU = "measured on a GPU only"
GIB = 2**30


def measure(bench: Bench, repeats: int, *, apart: bool) -> dict[str, Any]:
    """`apart`: each side in a process of its own, as a CPU wants it; else all take turns with one loaded model."""
    kinds: dict[str, type[Side]] = {"diffusers": Diffusers, "bare": Bare, "doppel": Doppel}
    if not SPECS[bench.config].text:
        del kinds["diffusers"]
    started = time.perf_counter()
    model = None if apart else bench.load()
    seconds = {} if apart else {"load": time.perf_counter() - started}
    sides = {} if apart else {name: kind(bench, model) for name, kind in kinds.items()}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    memory = dict.fromkeys(kinds, 0.0)
    for _ in range(repeats):
        for name, kind in kinds.items():
            with peak(bench) as most:
                rates[name].append(alone(rate_of, kind, bench) if apart else sides[name].rate())
            memory[name] = max(memory[name], *most)
    bare: Any = sides.get("bare") or Bare(bench)
    if bare.first is None:
        bare.first = bare.seconds(1)
    seconds |= {f"first batch, {name}": side.first for name, side in sides.items() if side.first is not None}
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "model": f"{SPECS[bench.config].title}, {SPECS[bench.config].side}², random weights",
        "dtype": bench.dtype, "compiled": bench.compiled, "batch": bench.batch, "steps": bench.steps,
        "timed_images": bench.batch * (bench.batches - 1), "repeats": repeats,
        "images_per_s": {"doppel": medians["doppel"], "diffusers": medians.get("diffusers"), "bare": medians["bare"]},
        "images_per_s_of_each_turn": rates,
        "doppel / diffusers": ratio(rates, "diffusers"),
        **({} if "diffusers" in kinds else {"why_no_diffusers": NO_PIPELINE}),
        "doppel / bare": ratio(rates, "bare"),
        "bare_outside_network_and_vae": bare.outside(),
        "floor": floor(bare, medians["bare"]),
        "peak_gib": memory if bench.device != "cpu" else NO_GPU,
        "seconds": seconds,
    }  # fmt: skip


def rate_of(side: type[Side], bench: Bench) -> float:
    return side(bench).rate()


def ratio(rates: dict[str, list[float]], other: str) -> float | None:
    if other not in rates:
        return None
    return statistics.median(d / o for d, o in zip(rates["doppel"], rates[other], strict=True))


def floor(bare: Bare, reached: float) -> dict[str, float]:
    """Images/s if network and VAE did all their FLOPs at the rate of a large matrix product."""
    bench = replace(bare.bench, batch=1)
    single = Bare(bench, bare.model)
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        single.once()
    flops, rate = counter.get_total_flops(), matrix_rate(bench.device, DTYPES[bench.dtype])
    return {
        "tflop_per_image": flops / 1e12, "matrix_tflop_per_s": rate / 1e12, "images_per_s": rate / flops,
        "time / floor": rate / flops / reached,
    }  # fmt: skip


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    side = 1024 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(10):
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def largest(bench: Bench) -> dict[str, Any]:
    """What `batch_size: auto` finds."""
    content = bench.recipe()
    content["model"]["batch_size"] = "auto"
    job = make_plan(validate(JobConfig, content, "bench"), batch_size=1)
    started = time.perf_counter()
    with peaks_of_trials(bench) as peaks, told() as said:
        images = transforming.try_sizes(job, bench.device)
    return {
        "images": images, "why_no_more": said or ["memory, or the largest that is tried"],
        "peak_gib": peaks.get(images, NO_GPU), "peak_gib_of_each_trial": peaks,
        "device_gib": NO_GPU if bench.device == "cpu" else torch.cuda.get_device_properties().total_memory / GIB,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


@contextmanager
def told() -> Iterator[list[str]]:
    """What doppel warns of meanwhile: a trial may end by a kernel's limit instead of memory."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("doppel")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


@contextmanager
def peaks_of_trials(bench: Bench) -> Iterator[dict[int, float]]:
    """GiB by batch size, of the trials that fit."""
    before, found = transforming.transform_windows, dict[int, float]()

    def watched(together: Any, *given: Any) -> Any:
        with peak(bench) as most:
            result = before(together, *given)
        found[len(together)] = most[0]
        return result

    transforming.transform_windows = watched
    try:
        yield found
    finally:
        transforming.transform_windows = before


@contextmanager
def peak(bench: Bench) -> Iterator[list[float]]:
    """The most GiB that tensors held meanwhile, known once it is over. The weights count."""
    most: list[float] = []
    if bench.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    yield most
    most.append(torch.cuda.max_memory_allocated() / GIB if bench.device != "cpu" else 0.0)
