"""What matching tiles adds to the model's own time, as a ratio in one run.

    python scripts/bench_tiles.py            # about 3 minutes on two idle cores
    python scripts/bench_tiles.py --quick    # fewer steps, to see that it works

A tile morph of two images of 64×64 RGB, batch of 8, through a `UNet2DModel` of about 30 million parameters (random
weights: they are as fast as real ones). The model and the solver alone are one time; the same trajectory with the tiles
matched at every step is the other, for 1,024 tiles (2×2 pixels) and 4,096 (single pixels). The steps are taken in turns, so that
a slow minute of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import torch
from diffusers import UNet2DModel
from torch import Tensor

from pipeline.diffusion.assembling import assemble, average, share
from pipeline.diffusion.levels import grid, levels_from_scheduler
from pipeline.diffusion.matching import make_matcher
from pipeline.diffusion.regions import Cut, origins
from pipeline.diffusion.solvers import blend
from pipeline.models.codec import PatchCodec
