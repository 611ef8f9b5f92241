"""Boomerang on latent models: ratios against diffusers' own pipeline and against a bare loop, and where the time goes.

    python scripts/bench_latent.py                                        # small networks, two cores: about 5 minutes
    python scripts/bench_latent.py --config sd15 --dtype bfloat16         # the full networks, on a GPU; also sdxl, dit
    python scripts/bench_latent.py --config sd15 --dtype bfloat16 --compile

Weights are random: they have the speed of real ones, and nothing is downloaded. Stable Diffusion 1.5 at 512², XL at
1024², DiT-XL/2 at 512². t_boom .4 on a grid of 50 steps, so 20 steps; guidance off; JPEG in, JPEG out; of `--batches`
the first is not timed. All of them in one go on a lent GPU: scripts/gpu/latent.py.

1. the whole job (tar in, tar out) against the img2img pipeline, batched, PIL in and out; for DiT diffusers has none
2. the whole job against the bare loop on preloaded tensors: VAE, network and solver alone
3. share of the bare loop outside network and VAE
4. the floor: FLOPs of network and VAE at the rate that large matrix products reach on this machine
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
from bench_throughput import make_photographs, report
from latent_figures import measure
from latent_rates import Bench
from random_models import SPECS, build

from pipeline.engine.devices import resolve_devices
from pipeline.models.config import DTYPES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*SPECS], default="small")
    parser.add_argument("--dtype", choices=[*DTYPES], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    args = parser.parse_args()
    if args.batches < 2:
        parser.error("--batches: the first is not timed, so at least 2")
    device, side = resolve_devices(["auto"])[0], SPECS[args.config].side
    machine = torch.cuda.get_device_name() if device != "cpu" else f"{os.cpu_count()} cores, {platform.machine()}"
    print(
        f"{machine}; torch {torch.__version__}; {args.config} at {side}², {args.dtype}{', compiled' * args.compile}, ",
        end="",
    )
    print(f"batch {args.batch} × {args.batches}, 20 steps; median of {args.repeats}")
    diffusers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        build(args.config, root / "model", DTYPES[args.dtype], device)
        bench = Bench(
            config=args.config, model=root / "model", scratch=root, dtype=args.dtype, device=device, batch=args.batch,
            urls=make_photographs(root / "in", 1, args.batch * args.batches, side), batches=args.batches,
            compiled="network" if args.compile else "no",
        )  # fmt: skip
        figures = measure(bench, args.repeats, apart=device == "cpu")
    table(figures)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "torch": torch.__version__, **figures}, indent=1) + "\n")


def table(figures: dict[str, Any]) -> None:
    rates, floor = figures["images_per_s"], figures["floor"]
    for number, other, title in ((1, "diffusers", "img2img pipeline"), (2, "bare", "bare loop")):
        if rates[other] is not None:
            how = f"{rates['doppel']:.2f} / {rates[other]:.2f} images/s"
            report(f"{number}. whole job / {title}", figures[f"doppel / {other}"], how)
    report("3. bare loop: share outside network and VAE", figures["bare_outside_network_and_vae"], "one batch")
    how = f"{floor['tflop_per_image'] * 1e3:.1f} GFLOP an image, {floor['matrix_tflop_per_s']:.2f} TFLOP/s"
    report("4. bare loop / floor", 1 / floor["time / floor"], how)


if __name__ == "__main__":
    main()
