"""Prompt-to-Prompt: an image and its edited version from two prompts and one noise (2208.01626, algorithm 1)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.editing import (
    AttentionEdit,
    Blend,
    EditsAttention,
    Mode,
    alike,
    require_same_words,
    same_word,
    side_by_side,
    until,
)
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.model import Model, Outline, RowCondition
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import add_noise, euler, integrate, unconstrained
from pipeline.errors import UserError
from pipeline.operators.conditions import NO_GUIDANCE, Guidance, check_conditions, conditioned, led, rows_for
from pipeline.operators.contract import Condition, Descent, Extra, Given, Transformed
from pipeline.section import Fraction

Word = Annotated[str, Field(pattern=r"^\S+$")]
"""One word, without spaces."""


class PromptToPrompt(Descent):
    """Walks down twice with the same noise, once under each prompt; the target's attention follows that of the source.

    The output is the target's image; the source's lies beside it, in the same sample, as `source`. The defaults are the
    paper's (2208.01626): DDIM in 50 steps. Only estimates under the two prompts are edited, those that guidance leads
    away from are not. In `mode: replace` word follows word, and both prompts need equally many; in `mode: refine` what
    both have in common follows, new words look where they like.
    """

    edits_attention: ClassVar[bool] = True
    first_stage_only: ClassVar[bool] = True
    further_go_up: ClassVar[bool] = True

    name: Literal["prompt_to_prompt"] = "prompt_to_prompt"
    source: Condition = "own"
    """The prompt of the image as it is."""
    target: Condition = "edited"
    """The prompt of the image as it is to become."""
    mode: Mode = "refine"
    """`replace` lets word follow word; with `refine` only words that both prompts have in common follow."""
    reweight: dict[Word, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Factors on how much the image attends to words of the target: above 1 is more of a word, negative its
    contrary."""
    cross_share: Fraction = 0.8
    """The share of the steps, from the noisiest on, that take the source's cross-attention: more keeps more of its
    layout."""
    self_share: Fraction = 0.4
    """The share of the steps that take the source's self-attention, in layers of at most 16² tokens (or a quarter of
    z's sides, where that is more)."""
    blend: tuple[Word, ...] = ()
    """Words that bound the change: the image changes only where source or target attend to them. Without words it may
    change everywhere."""
    start: LevelRange = LevelRange(low=1, high=1)
    """The noise level that both walks start from; below 1, both begin from the sample's image, noised."""
    invert: bool = False
    """Whether both begin from the sample's image taken up the ODE under its own prompt, without guidance. The more
    guidance on the way down, the less the source is that image again."""
    guidance: Guidance = Guidance(scale=7.5)
    """How much more than the model itself do both images show their prompts."""
    steps: int = Field(default=50, ge=1)
    """How many denoising steps are taken, each way."""
    solver: Literal["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde"] = "euler"

    @model_validator(mode="after")
    def _inversion_is_deterministic(self) -> PromptToPrompt:
        if self.invert and (self.solver == "dpmpp_2m_sde" or (self.solver == "ancestral" and self.eta > 0)):
            raise ValueError(f"invert with solver {self.solver}, which draws noise: the image would not come back")
        return self

    @property
    def stochastic(self) -> bool:
        return not self.invert or self.start.drawn

    @property
    def invertible(self) -> bool:
        return self.invert

    @property
    def keeps_places(self) -> bool:
        return self.invert or self.start.high < 1

    @property
    def needs(self) -> frozenset[Extra]:
        return frozenset({"edited"}) if "edited" in self.conditions_used() else frozenset()

    @property
    def images_beside(self) -> tuple[str, ...]:
        return ("source",)

    def conditions_used(self) -> tuple[Condition, ...]:
        return (self.source, self.target, *self.guidance.conditions)

    def shows(self, name: str) -> Condition:
        return self.source if name in self.images_beside else self.target

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"mode": "refine"})  # words need not pair up

    def check(self, model: Outline, second: Outline | None) -> None:
        super().check(model, second)
        try:
            self._check_words()
        except ValueError as error:
            raise UserError(f"prompt_to_prompt: {error}") from None
        check_conditions(model, [self.source, self.target], self.guidance)

    def _check_words(self) -> None:
        """What the recipe itself tells; captions are seen when their samples come."""
        source, target = words_of(self.source), words_of(self.target)
        if self.mode == "replace" and source is not None and target is not None:
            require_same_words(source, target)
        for word in self.reweight:
            if target is not None and not any(same_word(word, other) for other in target):
                raise ValueError(f"reweight: {word!r} is not a word of the target {self.target!r}")
        for word in self.blend:
            if source is not None and target is not None and not any(same_word(word, w) for w in [*source, *target]):
                raise ValueError(f"blend: {word!r} is a word of neither {self.source!r} nor {self.target!r}")

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        sigmas = self.schedule(model, self.start.draw(noise.uniform().to(z.device), model.levels))
        levels = sigmas.to(z)
        blend = Blend(self.blend) if self.blend else None
        edit = AttentionEdit(
            mode=self.mode,
            cross_until=until(levels, self.cross_share),
            self_until=until(levels, self.self_share),
            reweight=self.reweight,
            blend=blend,
        )
        assert isinstance(model, EditsAttention)
        rows, refused = self._rows(model, given, len(z))
        both = side_by_side(led(model.edited(edit), rows, self.guidance, given, z))
        x = self._begin(model, z, given, sigmas, noise)[:, None].expand(-1, 2, *z.shape[1:])
        out = integrate(both, x, levels, solver=self.stepper(), noise=alike(noise), constraint=blend or unconstrained)
        source, target = (model.decode(image) for image in out.unbind(1))
        return Transformed(target, sigmas, beside={"source": source}, refused=refused)

    def _rows(self, model: Model, given: Given, count: int) -> tuple[list[list[RowCondition]], dict[int, str]]:
        """Source and target of each image; where they can't be matched word by word the image stays as it is."""
        source, target = (rows_for(model, condition, given, count) for condition in (self.source, self.target))
        refused: dict[int, str] = {}
        for i, (old, new) in enumerate(zip(source, target, strict=True)):
            try:
                if self.mode == "replace":
                    require_same_words(str(old or "").split(), str(new or "").split())
            except ValueError as error:
                target[i], refused[i] = old, str(error)
        return [source, target], refused

    def _begin(self, model: Model, z: Tensor, given: Given, sigmas: Tensor, noise: KeyedNoise) -> Tensor:
        """The point `[B, …]` at `sigmas[:, 0]` that both start from."""
        full = model.levels.sigma(torch.ones_like(sigmas[:, :1]))
        if self.invert:
            lowest = model.levels.sigma(torch.full_like(full, 1 / model.levels.steps)).minimum(sigmas[:, :1])
            up = sigmas.flip(1).maximum(lowest)  # at 0 the ODE has no direction
            return integrate(conditioned(model, self.source, NO_GUIDANCE, given, z), z, up.to(z), solver=euler)
        below = per_row(sigmas[:, 0] < full[:, 0], z).bool()
        return add_noise(torch.where(below, z, 0), sigmas[:, 0], noise)


def words_of(condition: Condition) -> list[str] | None:
    """The words of a prompt in the recipe; None where each sample has a prompt of its own."""
    return None if condition in ("own", "edited") else [] if condition == "none" else str(condition).split()
