"""The latent models on a GPU: doppel's job against diffusers' pipeline and the bare loop, the floor, the largest batch.

    python scripts/gpu/latent.py OUT                    # one GPU, at most 150 s; again for what was not reached
    python scripts/gpu/latent.py OUT --rehearse         # tiny models on a CPU; its figures mean nothing

Writes OUT/latent.json after every case, and OUT/latent.png. What is compared is said in scripts/bench_latent.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from bench_throughput import make_photographs
from cases import Case, clock, exit_code, leave_on_sigterm, run_cases
from latent_figures import GIB, largest, measure
from latent_plot import plot
from latent_rates import Bench
from random_models import SPECS, build
from record import Record

from pipeline.engine.devices import resolve_devices
from pipeline.models.config import DTYPES

RESERVE = 5.0
"""Seconds of the box for the picture."""
ROOM = 12 * GIB
"""Of the weights of all models together, in bfloat16, with something to spare."""
PREPARING_STEPS = 2
"""The fewest of which diffusers' img2img takes any: it rounds strength × grid down."""
Way = Literal["eager", "compiled", "by blocks", "largest batch"]
COMPILED: dict[Way, Literal["no", "network", "blocks"]] = {
    "eager": "no", "compiled": "network", "by blocks": "blocks", "largest batch": "no"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    config: str
    way: Way
    batch: int
    batches: int = 2
    """A side's, in one turn; the first is not timed."""
    turns: int = 2
    """Of each side."""
    seconds: float
    """Estimate for an H100, at about 200 TFLOP/s, and 170 where the VAE is most of it. TFLOP of an image: 20 (Stable
    Diffusion 1.5: 20 steps of 0.80, and the VAE's 3.6), 150 (XL: 20 of 6.8, and 15), 25 (DiT: 20 of 1.05, and 3.6).
    Images: 11 batches, of XL and compiled 7, of DiT 8; for the largest batch 1,023 (XL: 255) at one step. Weights are
    drawn, saved, hashed and loaded (5, 15 and 4 s). Whole networks compile in about 25 s, XL's in 70, once for each
    caller; `--prepare` has done most of that for Stable Diffusion 1.5."""


GPU = [
    Plan(config="sd15", way="eager", batch=16, seconds=28),
    Plan(config="sdxl", way="eager", batch=4, turns=1, seconds=38),
    Plan(config="dit", way="eager", batch=16, seconds=22),
    Plan(config="sd15", way="by blocks", batch=16, turns=1, seconds=40),
    Plan(config="sd15", way="compiled", batch=16, turns=1, seconds=40),
    Plan(config="dit", way="compiled", batch=16, turns=1, seconds=50),
    Plan(config="sdxl", way="largest batch", batch=4, seconds=45),
    Plan(config="sd15", way="largest batch", batch=16, seconds=34),
    Plan(config="dit", way="largest batch", batch=16, seconds=36),
    Plan(config="sdxl", way="by blocks", batch=4, turns=1, seconds=70),
    Plan(config="sdxl", way="compiled", batch=4, turns=1, seconds=190),
]
"""In the order of their value; the largest batches last of what 150 s may reach, since a kernel beyond its limits can
take the process with it."""
REHEARSAL = [
    Plan(config="small", way="eager", batch=2, seconds=5),
    Plan(config="small_xl", way="eager", batch=2, turns=1, seconds=5),
    Plan(config="small_dit", way="eager", batch=2, turns=1, seconds=5),
    Plan(config="small", way="largest batch", batch=2, seconds=2),
    Plan(config="small_dit", way="compiled", batch=2, turns=1, seconds=10),
]


class Materials:
    """Weights and photographs, made when a case first asks for them."""

    def __init__(self, root: Path, *, rehearsal: bool, steps: int) -> None:
        self.root, self.steps = root, steps
        self.device = "cpu" if rehearsal else resolve_devices(["auto"])[0]
        self.dtype = "float32" if rehearsal else "bfloat16"

    def bench(self, plan: Plan) -> Bench:
        model, side = self.root / plan.config, SPECS[plan.config].side
        if not model.exists():
            build(plan.config, part := self.root / "part", DTYPES[self.dtype], self.device)
            part.rename(model)
        images = plan.batch * plan.batches
        photographs = self.root / f"{images}_of_{side}"
        urls = f"{photographs}/{{000..000}}.tar"
        if not photographs.exists():
            urls = make_photographs(photographs, 1, images, side)
        return Bench(
            config=plan.config, model=model, urls=urls, scratch=self.root, dtype=self.dtype, device=self.device,
            batch=plan.batch, batches=plan.batches, steps=self.steps, compiled=COMPILED[plan.way],
        )  # fmt: skip


def run(plan: Plan, materials: Materials) -> dict[str, Any]:
    started = time.perf_counter()
    bench = materials.bench(plan)
    made = {"seconds_of_weights_and_photographs": time.perf_counter() - started}
    try:
        return (largest(bench) if plan.way == "largest batch" else measure(bench, plan.turns, apart=False)) | made
    finally:
        torch.compiler.reset()


def prepare(materials: Materials) -> None:
    """Fills the compiler's cache, so that the cases that are compiled first fit into their box."""
    for plan in GPU:
        if plan.way in ("compiled", "by blocks") and plan.config == "sd15":
            run(replace(plan, batches=2), materials)


def cases(plans: list[Plan], materials: Materials) -> list[Case]:
    return [
        Case(name=f"{plan.config}, {plan.way}", seconds=plan.seconds, run=partial(run, plan, materials))
        for plan in plans
    ]


def roomy() -> Path | None:
    """A folder in memory where the weights fit; None: the usual place for temporary files."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--prepare", action="store_true", help="fill the compiler's cache only")
    args = parser.parse_args()
    left = clock(args.seconds - RESERVE)
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device here; --rehearse runs on the CPU")
    if args.rehearse:
        torch.set_num_threads(1)  # two threads that compute share one OpenMP badly
    leave_on_sigterm()
    args.out.mkdir(parents=True, exist_ok=True)
    diffusers.utils.logging.set_verbosity_error()
    record = Record.open(args.out, "latent", rehearsal=args.rehearse)
    with tempfile.TemporaryDirectory(dir=roomy()) as temporary:
        steps = PREPARING_STEPS if args.prepare else 4 if args.rehearse else 20
        materials = Materials(Path(temporary), rehearsal=args.rehearse, steps=steps)
        if args.prepare:
            prepare(materials)
            return 0
        planned = cases(REHEARSAL if args.rehearse else GPU, materials)
        try:
            run_cases(planned, record, args.out, left)
        finally:  # also when the box ends
            plot(record, args.out / "latent.png")
    return exit_code(record, planned)


if __name__ == "__main__":
    sys.exit(main())
