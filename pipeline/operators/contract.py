"""What every operator is: a frozen configuration that can be called on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from pipeline.diffusion.levels import Spacing, grid
from pipeline.diffusion.model import Model
from pipeline.diffusion.solvers import SOLVERS, Ancestral, Solver
from pipeline.noise import KeyedNoise

Condition = int | str
"""A class by number or name; `own`: the label of each sample; `none`: no condition."""
Extra = Literal["mask", "guide", "second_model"]
"""What a recipe may give beside images and labels."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What comes with a batch of B images."""

    labels: Tensor | None = None
    """int64 `[B]`; −1 for none."""
    mask: Tensor | None = None
    """float `[B, 1, H, W]` in pixels: 1 where the image is to change, 0 where it is kept."""
    guide: Tensor | None = None
    """`[B, 3, H, W]` in [-1, 1]: a second image for each, painted, composed or another sample."""
    more_guides: Sequence[Tensor] = ()
    """Like `guide`, where the recipe asks for several."""
    second: Model | None = None
    """The recipe's `second_model`."""

    @property
    def guides(self) -> list[Tensor]:
        return [] if self.guide is None else [self.guide, *self.more_guides]


class Transformed(NamedTuple):
    z: Tensor
    """`[B, C, h, w]`"""
    sigmas: Tensor
    """`[B, n+1]`: the levels that each row went through; the first is where it began."""
    others: Mapping[str, Tensor] = {}
    """Further images, `[B, C, h, w]` each, written as members NAME.png of the same sample."""
    details: Sequence[Mapping[str, Any]] | None = None
    """For each row, what its provenance shall also say; JSON."""


class Operator(BaseModel):
    """The `operator:` section of a recipe. Pure: never changes its input, draws only from `noise`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stochastic: ClassVar[bool]
    """Another copy gives another image."""
    invertible: ClassVar[bool]
    """The input can be computed from the output: no privacy by itself."""
    needs: ClassVar[frozenset[Extra]] = frozenset()
    accepts: ClassVar[frozenset[Extra]] = frozenset()
    """Beside what it needs."""
    several_guides: ClassVar[bool] = False

    name: str
    copies: int = Field(default=1, ge=1)
    """Outputs for each input, each with its own noise."""

    def conditions_used(self) -> tuple[Condition, ...]:
        """All conditions that the model will be asked for."""
        raise NotImplementedError

    def check(self, model: Model, second: Model | None) -> None:
        """Raises `UserError` where this configuration can't work with these models, before any work starts."""

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        """`z [B, C, h, w]` as `model.encode` made it."""
        raise NotImplementedError


class Descent(Operator):
    """An operator that walks down from some level to 0."""

    steps: int = Field(default=20, ge=1)
    """Denoising steps actually taken, whatever level they start from."""
    solver: Literal["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"] = "ancestral"
    eta: float = Field(default=1.0, ge=0)
    """Of the ancestral solver: 1 is DDPM, 0 is DDIM."""
    spacing: Spacing | Literal["model"] = "trailing"
    """Grid between the start and 0; `leading` begins one stride below the start, `model` is the model's own."""

    @model_validator(mode="after")
    def _eta_belongs_to_ancestral(self) -> Descent:
        if self.eta != 1.0 and self.solver != "ancestral":
            raise ValueError(f"eta is an option of the ancestral solver, and solver is {self.solver}")
        return self

    def stepper(self) -> Solver:
        return Ancestral(eta=self.eta) if self.solver == "ancestral" else SOLVERS[self.solver]

    def schedule(self, model: Model, start: Tensor) -> Tensor:
        """σ from `start` (σ, `[B]`) to 0: float64 `[B, steps+1]`."""
        return grid(model.levels, start, self.steps, None if self.spacing == "model" else self.spacing)
