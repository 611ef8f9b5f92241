"""A model of latents with an exact answer: cells of 2 × 2 pixels, and a closed-form denoiser on them."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from pipeline.models.gaussian import ClosedForm

CELL = 2


@dataclass(frozen=True, kw_only=True)
class Cells(ClosedForm):
    space: str = "latent"  # type: ignore[assignment]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3 * CELL**2, self.size[0] // CELL, self.size[1] // CELL)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixel_unshuffle(pixels, CELL)

    def decode(self, z: Tensor) -> Tensor:
        return pixel_shuffle(z, CELL)


@dataclass(frozen=True, kw_only=True)
class Lossy(Cells):
    """Its decoder loses a tenth of everything, as a VAE does."""

    def decode(self, z: Tensor) -> Tensor:
        return 0.9 * super().decode(z)
