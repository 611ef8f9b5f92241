"""DDIB: dual diffusion implicit bridges (2203.08382, algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.latent_stage import AnyImageStage, AnyStage, staged
from pipeline.diffusion.model import Model, Outline
from pipeline.diffusion.model_match import mismatch
from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.media.provenance import Details
from pipeline.operators.conditions import Guidance, check_conditions, conditioned
from pipeline.operators.contract import Bridge, Condition, Extra, Given, Transformed


class DDIB(Bridge):
    """Walks up the ODE with the source, `z = ODE(x; D_a, 0 → 1)`, and down with the target, `y = ODE(z; D_b, 1 → 0)`
    (2203.08382, algorithm 1).

    Source and target are two conditions of one model, or two models (`second_model` is the target's). Guidance acts on
    the way down; it breaks the exact cycle.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset({"second_model"})

    name: Literal["ddib"] = "ddib"
    source: Condition = "own"
    """The condition on the way up: what the image shows."""
    target: Condition = "own"
    """The condition on the way down: what the output is to show."""
    guidance: Guidance = Guidance()
    """How much more than the model itself does the way down follows the target; by default not at all."""
    image: tuple[AnyImageStage, ...] = ()
    """What is done to the image before it goes up, in order."""
    latent: tuple[AnyStage, ...] = ()
    """What is done to the latent between the way up and the way down, in order."""
    round_trip: bool = False
    """Whether it also comes down with the source, and tells in the provenance how far from its start that ends."""

    @property
    def not_on_clips(self) -> str | None:
        turns = any(stage.name == "rotate" for stage in (*self.image, *self.latent))
        return "turns single images (rotate)" if turns else None

    @property
    def keeps_places(self) -> bool:
        return self.not_on_clips is None

    def shows(self, name: str) -> Condition:
        return self.target

    def conditions_used(self) -> tuple[Condition, ...]:
        return (self.source, self.target, *self.guidance.conditions)

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        if second is not None and (why := mismatch(model, second, own_labels=self.target == "own")):
            raise UserError(f"ddib: second_model {why}")
        check_conditions(model, [self.source])
        check_conditions(second or model, [self.target], self.guidance)

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        second = given.second or model
        top = self.level.draw(noise.uniform().to(z.device), model.levels)
        top = top.minimum(second.levels.sigma(torch.ones_like(top)))
        up, down = self.ladder(model.levels, top, self.lift).flip(1), self.ladder(second.levels, top)
        source = conditioned(model, self.source, Guidance(), given, z)
        target = conditioned(second, self.target, self.guidance, given, z)
        image = staged(self.image, z, z)
        start = self.lifted(image, top)
        noisy = self.walk(source, start, up)
        unit = per_row(torch.sqrt(1 + top**2), z)
        latent = staged(self.latent, noisy / unit, image) * unit if self.latent else noisy
        details = trip_error(self.walk(source, noisy, up.flip(1)) - start) if self.round_trip else None
        return Transformed(second.decode(self.walk(target, latent, down)), down, details=details)


def trip_error(difference: Tensor) -> list[Details]:
    """The root mean square and the largest absolute value of each row of `[B, ...]`, in units of z, for the
    provenance.
    """
    rows = difference.double().flatten(1)
    columns = zip(rows.square().mean(1).sqrt().tolist(), rows.abs().amax(1).tolist(), strict=True)
    return [{"round_trip": {"rms": rms, "max": largest}} for rms, largest in columns]
