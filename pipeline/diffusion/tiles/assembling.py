"""Pictures put together from tiles, and images that come to share theirs (2411.15925)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import Denoiser, Joint, per_row
from pipeline.diffusion.levels import Levels, grid
from pipeline.diffusion.solvers import blend, euler, integrate
from pipeline.diffusion.tiles.matching import Matcher
from pipeline.diffusion.tiles.regions import Assembly, origins


def assemble(sources: Tensor, origin: Tensor) -> Tensor:
    """`sources [R, S, C, H, W]`, `origin [R, H·W]` → `[R, C, H, W]`: every pixel is one of a source."""
    pool = sources.transpose(1, 2).flatten(2)
    return pool.gather(2, origin[:, None].expand(-1, pool.shape[1], -1)).unflatten(2, sources.shape[3:])


def average(sources: Tensor, targets: Tensor, origin: Tensor) -> Tensor:
    """mean_i v_i⁻¹(target_i), v the assembly: the mean of a source pixel and all target pixels that are made of it.

    `sources [B, S, C, H, W]`, `targets [B, K, C, H, W]`, `origin [B, K, H·W]` → `[B, S, C, H, W]`

    On the CPU, where the assembly comes from: CUDA adds what falls into one place in any order.
    """
    pool, wanted = (images.transpose(1, 2).flatten(2).cpu() for images in (sources, targets))
    place = origin.flatten(1)[:, None].expand(-1, pool.shape[1], -1).cpu()
    summed = pool.scatter_add(2, place, wanted)
    counted = torch.ones_like(pool).scatter_add(2, place, torch.ones_like(wanted))
    mean = (summed / counted).unflatten(2, (sources.shape[1], *sources.shape[3:])).transpose(1, 2)
    return mean.to(sources.device)


Through = Callable[[Tensor, Tensor], Tensor]
"""Estimates `[B, N, C, H, W]`, and what is matched of them → estimates that share their tiles."""


def share(
    matcher: Matcher, images: Tensor, clean: Tensor, fixed: Sequence[Tensor], *, generated: bool
) -> tuple[Tensor, list[Assembly]]:
    """The nearest images that are made of the same tiles, and how each is: of the tiles of `fixed` (`[B, C, H, W]`).

    `images [B, N, C, H, W]`. With `generated` the first one gives its tiles, too: each becomes the mean over all
    images, and the assemblies are those of the others. What is matched is `clean`, in the shape of `images`.
    """
    first = 1 if generated else 0
    targets, sources = images[:, first:], torch.stack([*images[:, :first].unbind(1), *fixed], 1)
    count = targets.shape[1]
    shown = torch.stack([*clean[:, :first].unbind(1), *fixed], 1)
    assembly = matcher(clean[:, first:].flatten(0, 1), shown.repeat_interleave(count, 0))
    origin = torch.from_numpy(origins(matcher.tiles, assembly)).to(images.device)
    if generated:
        tiles = average(sources, targets, origin.unflatten(0, (-1, count)))
        sources = torch.cat([tiles[:, :1], sources[:, 1:]], 1)
    made = assemble(sources.repeat_interleave(count, 0), origin).unflatten(0, (-1, count))
    each = [Assembly(assembly.tile[k::count], assembly.turn[k::count]) for k in range(count)]
    return torch.cat([sources[:, :first], made], 1), each


def on_each(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`[B, N, ...]` through a function of `[B, ...]`."""
    return function(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def sharing(estimate: Joint, through: Through, begin: Tensor, levels: Levels, rollout: int) -> Denoiser:
    """N estimates `[B, N, C, H, W]` that share their tiles, where σ ≤ `begin [B]`.

    What is matched is `rollout` deterministic steps on the way to σ = 0; one step is the estimate itself.
    """

    def together(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack(list(estimate(x.unbind(1), sigma)), 1)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        x0, acts = together(x, sigma), sigma <= begin.to(sigma)
        if not bool(acts.any()):
            return x0
        steps = grid(levels, sigma, rollout, "trailing").to(x)
        clean = integrate(together, blend(x0, x, steps[:, 1] / steps[:, 0]), steps[:, 1:], solver=euler)
        return torch.where(per_row(acts, x).bool(), through(x0, clean), x0)

    return denoise
