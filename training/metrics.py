"""How generated images differ from real ones in a feature space, which is named beside every number.

Features are float `[N, D]`, one row for each image, on one device; all sums run in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

BLOCK = 1 << 24
"""Distances that are held at once."""
SUBSETS, SUBSET_SIZE, NEIGHBOURS, TAIL = 100, 1000, 5, 0.01
"""Subsets of KID and images in each, k of precision and recall, and the tail of held-out distances that counts as a
copy."""


class Network(Protocol):
    """Anything that makes features of images."""

    def features(self, pixels: Tensor, /) -> Tensor:
        """Features `[B, D]` of `pixels`, float `[B, 3, H, W]` in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """Maps uint8 images `[N, 3, H, W]` to features float `[N, D]`; numbers of two spaces cannot be compared."""

    name: str
    """What the network is and what it was trained on, such as "small CNN trained on Fashion-MNIST"."""
    network: Network
    """The network, in evaluation mode, on `device`."""
    device: str = "cpu"
    batch_size: int = 500
    """Images that the network sees at once."""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images `[N, 3, H, W]`: float32 `[N, D]` on the CPU."""
        parts = (part.to(self.device).float() / 127.5 - 1 for part in images.split(self.batch_size))
        return torch.cat([self.network.features(pixels).float().cpu() for pixels in parts])


def fid(real: Tensor, fake: Tensor) -> float:
    """The squared Fréchet distance of Gaussians with the sets' means and covariances (1706.08500, eq. 6; ddof 1).

    With S = RᵀR, tr (S₁S₂)^½ is the sum of the singular values of R₁R₂ᵀ, which needs no matrix root and no complex
    numbers. Raises `ValueError` for features that are not finite, or fewer than two rows.
    """
    real, fake = _checked(real, fake)
    roots = [torch.linalg.qr((x - x.mean(0)) / (len(x) - 1) ** 0.5, mode="r")[1] for x in (real, fake)]
    between = (real.mean(0) - fake.mean(0)).square().sum()
    within = sum(root.square().sum() for root in roots) - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return max(float(between + within), 0.0)


def kid(
    real: Tensor, fake: Tensor, *, generator: torch.Generator, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> tuple[float, float]:
    """The mean and standard deviation over subsets of the unbiased MMD² with kernel (xᵀy/D + 1)³ (1801.01401).

    Subsets are no larger than the smaller set. The mean may fall below 0. Raises `ValueError` as `fid` does.
    """
    real, fake = _checked(real, fake)
    size = min(subset_size, len(real), len(fake))
    drawn = []
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=generator)[:size]] for rows in (real, fake))
        own = sum(k.sum() - k.trace() for k in (_kernel(x, x), _kernel(y, y))) / (size * (size - 1))
        drawn.append(own - 2 * _kernel(x, y).mean())
    values = torch.stack(drawn)
    return float(values.mean()), float(values.std(correction=0))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


@dataclass(frozen=True)
class Prdc:
    """Four figures: `precision`, `recall` and `coverage` in [0, 1]; `density` ≥ 0, about 1 for real images."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> Prdc:
    """Precision and recall (1904.06991), density and coverage (2002.09797).

    Balls around images reach to the `k`-th neighbour. As in the code of the latter paper, a point on the rim is
    outside. Raises `ValueError` for `k` images or fewer on either side.
    """
    real, fake = _checked(real, fake, least=k + 1)
    reach_real, reach_fake = (
        torch.cat([d.topk(k + 1, largest=False).values[:, -1] for d in _distances(x, x)]) for x in (real, fake)
    )
    inside = torch.cat([(d < reach_real).sum(1) for d in _distances(fake, real)])
    nearest, reached = zip(*((d.amin(1), (d < reach_fake).any(1)) for d in _distances(real, fake)), strict=True)
    return Prdc(
        precision=_mean(inside > 0),
        recall=_mean(torch.cat(reached)),
        density=_mean(inside) / k,
        coverage=_mean(torch.cat(nearest) < reach_real),
    )


def vendi(features: Tensor) -> float:
    """The Vendi score (2210.02410), from 1 (all images alike) to N.

    It is exp of the entropy of the eigenvalues of K/N, where K is the cosine kernel. These are the squared singular
    values of the normalised rows over √N.
    """
    (rows,) = _checked(features, least=1)
    shares = torch.linalg.svdvals(normalize(rows) / len(rows) ** 0.5).square()
    return float(torch.special.entr(shares).sum().exp())


def nearest_training(images: Tensor, train: Tensor) -> Tensor:
    """Euclidean distance from each image to the nearest training image, float64 `[N]`."""
    images, train = _checked(images, train, least=1)
    return torch.cat([d.amin(1) for d in _distances(images, train)])


@dataclass(frozen=True)
class Memorised:
    """How near generated images are to training images, compared with real images that were not trained on."""

    distance: float
    """Median distance of generated images to the nearest training image."""
    distance_held_out: float
    """The same of the held-out images."""
    nearer: float
    """The probability that a generated image is nearer than a held-out one: .5 for fresh images, 1 for copies
    (2004.05675)."""
    copies: float
    """The fraction of generated images that are nearer than 99 % of the held-out images are: .01 for fresh images."""


def memorised(fake: Tensor, train: Tensor, held_out: Tensor) -> Memorised:
    """The data-copying statistic of Meehan et al. (2004.05675), with ties counted half, and the tail below 1 %.

    Images that an operator makes *from* training images are near them by design; for these it measures novelty.
    """
    made, held = (nearest_training(x, train) for x in (fake, held_out))
    ranks = [torch.searchsorted(held.sort().values, made, right=right) for right in (False, True)]
    return Memorised(
        distance=float(made.median()),
        distance_held_out=float(held.median()),
        nearer=1 - _mean(ranks[0] + ranks[1]) / 2 / len(held),
        copies=_mean(made < held.quantile(TAIL)),
    )


def describe(real: Tensor, fake: Tensor, train: Tensor, name: str, *, generator: torch.Generator) -> dict[str, Any]:
    """All figures of this module, ready for JSON; `name` is that of the feature space.

    The `real` images must not be among `train`.
    """
    mean, std = kid(real, fake, generator=generator)
    return {
        "features": name,
        "images": {"real": len(real), "fake": len(fake), "train": len(train)},
        "fid": fid(real, fake),
        "kid": {"mean": mean, "std": std, "subsets": SUBSETS, "subset_size": min(SUBSET_SIZE, len(real), len(fake))},
        "prdc": {**asdict(prdc(real, fake)), "k": NEIGHBOURS},
        "vendi": {"real": vendi(real), "fake": vendi(fake)},
        "nearest_training": asdict(memorised(fake, train, real)),
    }


def _checked(*sets: Tensor, least: int = 2) -> tuple[Tensor, ...]:
    """In float64. Raises `ValueError` unless all are finite `[N, D]` with one D and N ≥ `least`."""
    for rows in sets:
        if rows.ndim != 2 or rows.shape[1] != sets[0].shape[1] or len(rows) < least:
            shapes = " and ".join(str(list(x.shape)) for x in sets)
            raise ValueError(f"features must be [N, D] with one D and N of at least {least}, not {shapes}")
        if not rows.isfinite().all():
            raise ValueError("features must be finite")
    return tuple(rows.double() for rows in sets)


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Euclidean, a block of rows of `x` at a time: `[n, len(y)]`. Exact to about 1e-8 of the features' size."""
    return (torch.cdist(rows, y) for rows in x.split(max(1, BLOCK // len(y))))


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
