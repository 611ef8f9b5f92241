"""Ways to take an image apart into components that sum to it: `x = Σ f_i(x)`, each f_i linear (2404.11615)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from pipeline.diffusion.views.orthogonal import LinearMap
from pipeline.section import Section


class Components(Section):
    """A way to take an image apart into components that sum to it."""

    names: ClassVar[tuple[str, ...]]
    """The names of the components, in order."""
    seen: ClassVar[tuple[str, ...]] = ()
    """The names of those that people see by themselves: from afar, without colour, in motion."""
    kind: str
    """The name of this way."""

    def parts(self, like: Tensor, mask: Tensor | None) -> Sequence[LinearMap]:
        """The f_i for images like `like [B, C, H, W]`, and for `mask [B, 1, H, W]` where there is one."""
        raise NotImplementedError

    def on_cells(self, side: int) -> Components:
        """The same for latents whose cells have `side` pixels a side. Raises `ValueError` where latents have no such
        components.
        """
        return self


class Hybrid(Components):
    """Shows one image from afar, and another from near: a low-pass, and the rest."""

    names: ClassVar[tuple[str, ...]] = ("low", "high")
    seen: ClassVar[tuple[str, ...]] = ("low",)
    kind: Literal["hybrid"] = "hybrid"
    sigma: float = Field(default=2.0, gt=0)
    """The standard deviation of the Gaussian low-pass, in pixels of an image with sides of 64; it grows with the
    image."""

    def parts(self, like: Tensor, mask: Tensor | None) -> Sequence[LinearMap]:
        return _and_the_rest(gaussian_blur(self.sigma * min(like.shape[-2:]) / 64, like))


class Triple(Components):
    """Shows three images, one in each of three frequency bands."""

    names: ClassVar[tuple[str, ...]] = ("low", "middle", "high")
    seen: ClassVar[tuple[str, ...]] = ("low",)
    kind: Literal["triple"] = "triple"
    sigmas: tuple[float, float] = (1.0, 2.0)
    """The standard deviations of the low-passes that bound the middle band, in pixels as in `hybrid`, ascending."""

    @model_validator(mode="after")
    def _ascending(self) -> Triple:
        if not 0 < self.sigmas[0] < self.sigmas[1]:
            raise ValueError(f"sigmas are {self.sigmas}: the first must be positive, and less than the second")
        return self

    def parts(self, like: Tensor, mask: Tensor | None) -> Sequence[LinearMap]:
        fine, coarse = (gaussian_blur(sigma * min(like.shape[-2:]) / 64, like) for sigma in self.sigmas)
        return coarse, lambda x: fine(x) - coarse(x), lambda x: x - fine(x)


class Colour(Components):
    """Shows one image in grey, and another in colour."""

    names: ClassVar[tuple[str, ...]] = ("grey", "colour")
    seen: ClassVar[tuple[str, ...]] = ("grey",)
    kind: Literal["colour"] = "colour"

    def parts(self, like: Tensor, mask: Tensor | None) -> Sequence[LinearMap]:
        return _and_the_rest(lambda x: x.mean(1, keepdim=True).expand_as(x))

    def on_cells(self, side: int) -> Components:
        raise ValueError("components colour are made of the colours of pixels, and the model works on latents")


class Motion(Components):
    """Shows one image in motion, and another at rest."""

    names: ClassVar[tuple[str, ...]] = ("moving", "still")
    seen: ClassVar[tuple[str, ...]] = ("moving",)
    kind: Literal["motion"] = "motion"
    kernel: int = Field(default=7, ge=3)
    """The length of the diagonal blur, in pixels; odd, at least 3."""

    @model_validator(mode="after")
    def _odd(self) -> Motion:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}: it must be odd, or the blur would move the image")
        return self

    def parts(self, like: Tensor, mask: Tensor | None) -> Sequence[LinearMap]:
        return _and_the_rest(diagonal_blur(self.kernel, like))

    def on_cells(self, side: int) -> Components:
        length = self.kernel // side // 2 * 2 + 1
        if length < 3:
            raise ValueError(f"components motion: a blur of {self.kernel} pixels is lost in cells of {side} × {side}")
        return Motion(kernel=length)


class Spatial(Components):
    """Shows one image inside the mask, and another outside; without a mask, the left half is the inside."""

    names: ClassVar[tuple[str, ...]] = ("inside", "outside")
    kind: Literal["spatial"] = "spatial"

    def parts(self, like: Tensor, mask: Tensor | None) -> Sequence[LinearMap]:
        width = like.shape[-1]
        inside = torch.arange(width, device=like.device) < width // 2 if mask is None else mask > 0.5
        return lambda x: x * inside, lambda x: x * ~inside


def _read(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


AnyComponents = Annotated[
    Annotated[Hybrid | Triple | Colour | Motion | Spatial, Field(discriminator="kind")], BeforeValidator(_read)
]
"""Components as people write them: `hybrid`, or `{kind: triple, sigmas: [1, 3]}`."""


def require_partition(parts: Sequence[LinearMap], like: Tensor) -> None:
    """Raises `ValueError`, with the figure, where the components of a random image `like [B, …]` don't sum to it."""
    probe = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    error = float((sum(part(probe) for part in parts) - probe).abs().max())
    if error > 1e-4:
        raise ValueError(
            f"the components do not sum to the image: it is missed by up to {error:.3g} standard deviations"
        )


def gaussian_blur(sigma: float, like: Tensor) -> LinearMap:
    """A low-pass of standard deviation `sigma` pixels for images like `like [..., H, W]`.

    It is mirrored at the border, so that constants stay. It is symmetric, with eigenvalues in (0, 1], and so no
    projection.
    """
    reach = int(8 * sigma) + 1  # the paper's: 33 pixels for σ = 2
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-((offsets.double() / sigma) ** 2) / 2)
    down, right = (_convolution(n, offsets, weights / weights.sum()).to(like) for n in like.shape[-2:])

    def blur(x: Tensor) -> Tensor:
        # sample by sample: on some processors one product of them all rounds by the size of the batch
        return torch.stack([down @ sample @ right.T for sample in x])

    return blur


def diagonal_blur(length: int, like: Tensor) -> LinearMap:
    """The mean of the image moved along its main diagonal by −length//2 … length//2 pixels, mirrored at the border."""
    moves = range(-(length // 2), length // 2 + 1)
    down, right = ([_mirrored(torch.arange(n) + move, n).to(like.device) for move in moves] for n in like.shape[-2:])

    def blur(x: Tensor) -> Tensor:
        moved = (x.index_select(-2, i).index_select(-1, j) for i, j in zip(down, right, strict=True))
        return sum(moved, start=torch.zeros_like(x)) / length  # `mean` rounds by the size of the batch

    return blur


def _convolution(size: int, offsets: Tensor, weights: Tensor) -> Tensor:
    """As a matrix `[size, size]`, mirrored at the border."""
    places = _mirrored(torch.arange(size)[:, None] + offsets, size)
    return torch.zeros(size, size, dtype=weights.dtype).scatter_add(1, places, weights.expand(size, -1))


def _mirrored(place: Tensor, size: int) -> Tensor:
    """Positions beyond the border reflected into 0 … size − 1: … 1 0 | 0 1 2 …, however far."""
    place = place % (2 * size)
    return torch.where(place < size, place, 2 * size - 1 - place)


def _and_the_rest(part: LinearMap) -> Sequence[LinearMap]:
    return part, lambda x: x - part(x)
