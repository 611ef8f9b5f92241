"""What every operator is: a frozen configuration that can be called on a batch."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pipeline.diffusion.model import Model
from pipeline.noise import KeyedNoise


class Transformed(NamedTuple):
    z: Tensor
    """`[B, C, h, w]`"""
    sigmas: Tensor
    """`[B, steps+1]`: the levels that each row went through; the first is its own t_boom."""


class Operator(BaseModel):
    """The `operator:` section of a recipe. Pure: never changes its input, draws only from `noise`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stochastic: ClassVar[bool]
    """Another copy gives another image."""
    invertible: ClassVar[bool]
    """The input can be computed from the output: no privacy by itself."""

    name: str
    copies: int = Field(default=1, ge=1)
    """Outputs for each input, each with its own noise."""
    use_labels: bool = True
    """Condition a class-conditional model on the sample's label; false takes its unconditional estimate."""

    def __call__(self, model: Model, z: Tensor, labels: Tensor | None, noise: KeyedNoise) -> Transformed:
        """`z [B, C, h, w]` as `model.encode` made it, `labels` int64 `[B]` or None."""
        raise NotImplementedError
