"""What matching tiles adds to the model's own time, as ratios, each within one run.

    python scripts/bench_tiles.py            # 30 steps with 1,024 tiles, one with 4,096: 3 minutes on two idle cores
    python scripts/bench_tiles.py --quick    # 2 steps and one, to see that it works

`tile_morph` of two images of 64×64 RGB, batch of 8, matched at every step and once more at the end (4,096: at the end
only). The network is a `UNet2DModel` of 30 million parameters; its weights are random, and as fast as real ones. What
it estimates would be no pictures, though, and the assignment takes longer on pictures than on noise: the estimates are
images with the spectrum of photographs, plus a little of the network's output. Added is all that the operator does
outside the network: costs, assignment, averaging, solver, noise.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import Tensor

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.gaussian import ClosedForm
from pipeline.operators import Given, TileMorph

BATCH, SIDE = 8, 64


class TimedNetwork:
    """A denoiser that adds up the seconds spent in its network."""

    def __init__(self) -> None:
        self.network = UNet2DModel(
            sample_size=SIDE,
            block_out_channels=(128, 128, 256, 256),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        ).eval()
        self.seconds = 0.0
        self.pictures = photographs(2 * BATCH)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        started = time.perf_counter()
        output = self.network(x / torch.sqrt(1 + sigma**2)[:, None, None, None], sigma).sample
        self.seconds += time.perf_counter() - started
        return self.pictures + 0.05 * output


def photographs(count: int) -> Tensor:
    """`[count, 3, SIDE, SIDE]` in [-1, 1]; amplitude falls with frequency."""
    rng = np.random.default_rng(0)
    falls = 1 / np.maximum(np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.rfftfreq(SIDE), indexing="ij")), 1 / SIDE)
    waves = np.fft.irfft2(falls * np.fft.rfft2(rng.normal(size=(count, 3, SIDE, SIDE))), s=(SIDE, SIDE))
    return torch.from_numpy(waves / waves.std() / 2).clamp(-1, 1).float()


@torch.inference_mode()
def added(network: TimedNetwork, tiles: int, steps: int) -> tuple[float, float]:
    """Seconds of the operator outside the network, and in it."""
    levels = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2"})
    model = ClosedForm(denoise=network, levels=levels, size=(SIDE, SIDE))
    cut = {"shape": "pixels"} if tiles == SIDE else {"count": tiles}
    morph = TileMorph(conditions=("none", "none"), tiles=cut, match_from=steps > 1, guidance=1, steps=steps)
    noise = KeyedNoise(b"bench", [str(i) for i in range(BATCH)], morph.name, 0)
    network.seconds = 0.0
    started = time.perf_counter()
    morph(model, torch.zeros(BATCH, 3, SIDE, SIDE), Given(), noise)
    whole = time.perf_counter() - started
    return whole - network.seconds, network.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    network = TimedNetwork()
    with torch.inference_mode():
        network(torch.zeros(2 * BATCH, 3, SIDE, SIDE), torch.ones(2 * BATCH))  # the first call prepares kernels
    print(
        f"{os.cpu_count()} cores, {platform.machine()}; torch {torch.__version__}; "
        f"{network.parameters / 1e6:.0f} M parameters, {SIDE}×{SIDE}, batch {BATCH}, 2 images"
    )
    for tiles, steps in ((32, 2 if quick else 30), (64, 1)):
        outside, inside = added(network, tiles, steps)
        print(
            f"{tiles**2:5} tiles, {steps:2} steps: added / model's own {outside / inside:6.1%}   "
            f"({outside / steps:.2f} s and {inside / steps:.2f} s a step)",
            flush=True,
        )


if __name__ == "__main__":
    main()
