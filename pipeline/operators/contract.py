"""What every operator is: a frozen configuration that can be called on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipeline.diffusion.denoisers import Steer
from pipeline.diffusion.editing import require_attention
from pipeline.diffusion.inversion import Inversion
from pipeline.diffusion.level_range import LevelRange
from pipeline.diffusion.levels import Spacing, grid
from pipeline.diffusion.model import Model, OfClips, Outline
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import SOLVERS, Ancestral, Solver
from pipeline.errors import UserError
from pipeline.media.provenance import Details
from pipeline.section import Section

Condition = int | str
"""A class by number or name, or a prompt; `own`: the label or caption of each sample; `edited`: its edited caption;
`none`: no condition."""
Extra = Literal["mask", "guide", "second_model", "edited", "judge"]
"""What a recipe may give an operator, beside images and labels."""


class TextImageJudge(Protocol):
    """What compares images and texts by the vectors that it makes of both: a CLIP."""

    def images(self, pixels: Tensor) -> Tensor:
        """Makes unit vectors `[B, D]` of images, float32 `[B, 3, H, W]` in [-1, 1]."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Makes unit vectors `[B, D]` of B texts, in the same space as those of images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Given:
    """What comes with a batch of B images. What a recipe does not give is None."""

    pixels: Tensor | None = None
    """The images that z was made from, float32 `[B, 3, H, W]` in [-1, 1]. Without them, what z decodes to stands in."""
    labels: Tensor | None = None
    """The class of each image, int64 `[B]`; −1 where an image has none."""
    captions: Sequence[str] | None = None
    """The caption of each image, B of them, where the model takes prompts."""
    edited: Sequence[str] | None = None
    """The caption of each image as it is to become, B of them."""
    mask: Tensor | None = None
    """float32 `[B, 1, H, W]` in pixels: 1 where the image is to change, 0 where it is kept."""
    guide: Tensor | None = None
    """A second image for each, float32 `[B, 3, H, W]` in [-1, 1]: painted, composed, or another sample."""
    more_guides: Sequence[Tensor] = ()
    """Further guides like `guide`, where the recipe asks for several."""
    second: Model | None = None
    """The model of the recipe's `second_model`."""
    judge: TextImageJudge | None = None
    """The CLIP of the recipe's `judge`."""
    steer: Steer | None = None
    """What moves each estimate of the clean z on the way down, for operators that can be steered."""

    @property
    def guides(self) -> list[Tensor]:
        """All guides in order, none or more; `guide_name` tells their names."""
        return [] if self.guide is None else [self.guide, *self.more_guides]


class Transformed(NamedTuple):
    """What an operator makes of a batch of B images."""

    pixels: Tensor
    """The outputs, float32 `[B, 3, H, W]`, about [-1, 1] and not clamped."""
    sigmas: Tensor
    """The noise levels σ that each row went through, float64 `[B, n+1]`; the first is where it began."""
    others: Mapping[str, Tensor] = {}
    """Further images of the same shape as `pixels`, by name. Each becomes a sample of its own, KEY-NAME."""
    details: Sequence[Details] | None = None
    """What the provenance of each row shall also say, B mappings of JSON values; None where there is nothing to say."""
    beside: Mapping[str, Tensor] = {}
    """Further images of the same shape, by name, that lie in the same sample as `pixels`: members NAME.png."""
    refused: Mapping[int, str] = {}
    """Rows that what is given with them makes impossible, each with its reason. Their images are not written."""


def guide_name(number: int) -> str:
    """The name of a guide by its number from 1 on: guide, guide-2, guide-3 …"""
    return f"guide-{number}" if number > 1 else "guide"


def image_of(model: Model, z: Tensor, given: Given) -> Tensor:
    """The images that z was made from, as the model sees them: float32 `[B, 3, H, W]` in about [-1, 1]."""
    return given.pixels if model.space == "latent" and given.pixels is not None else model.decode(z)


def as_seen(model: Model, pixels: Tensor) -> Tensor:
    """A guide, float32 `[B, 3, H, W]` in [-1, 1], as `image_of` gives images: what a model of grey pixels sees
    is grey.
    """
    return pixels if model.space == "latent" else model.decode(model.encode(pixels))


def finished(model: Model, x: Tensor, z: Tensor, given: Given) -> Tensor:
    """The pixels of `x`, float32 `[B, 3, H, W]`. Where the mask keeps an image they are its own, whatever a round trip
    to latents loses.
    """
    pixels = model.decode(x)
    if given.mask is None or model.space == "pixel":
        return pixels
    return torch.where(given.mask < 0.5, image_of(model, z, given), pixels)


class Operator(Section):
    """The `operator:` section of a recipe. Pure: never changes its input, draws only from `noise`.

    Its traits say all that others want to know of an operator, so that nobody asks for its name or its class. Class
    variables are traits of the method, properties are traits that its configuration may change.
    """

    accepts: ClassVar[frozenset[Extra]] = frozenset()
    """What the recipe may give the operator, beside what it needs."""
    several_guides: ClassVar[bool] = False
    """Whether it takes more than one guide for each image."""
    keeps_unmasked: ClassVar[bool] = False
    """Whether pixels outside a given mask stay exactly as they are."""
    moves_tiles: ClassVar[bool] = False
    """Whether it lays images anew out of tiles; its `details` then say where each tile came from."""
    selects: ClassVar[bool] = False
    """Whether it keeps only some of a sample's copies (see `choose`)."""
    edits_attention: ClassVar[bool] = False
    """Whether it runs only on models whose attention to the words of a prompt can be edited."""
    first_stage_only: ClassVar[bool] = False
    """Whether it runs only at the first stage of a cascade; others run at every pixel stage."""
    further_go_up: ClassVar[bool] = False
    """Whether its further images are images of their own, each of which goes up a cascade like the output. Those of
    others are views or components of the output, and are only enlarged."""
    steerable: ClassVar[bool] = False
    """Whether its estimates follow what `Given.steer` says."""
    dial: ClassVar[str | None] = None
    """The name of the option that says how far outputs go from their input; None where there is none."""
    image_name: ClassVar[str] = ""
    """The name that the output has among the images beside it, as member NAME.png; empty where it is the sample's
    image."""

    name: str
    copies: int = Field(default=1, ge=1)
    """How many outputs are made of each input, each with noise of its own."""

    @property
    def stochastic(self) -> bool:
        """Whether another copy is another image: whether anything is drawn."""
        return False

    @property
    def sought(self) -> float | None:
        """The bound, in (0, 1), that its level is still to be found for; None where its level is known."""
        return None

    def require_level(self) -> None:
        """Raises `UserError` where its level is still to be found: only the originals of a job tell it."""
        if self.sought is not None:
            raise UserError(
                f"operator.{self.dial}: {{bound: {self.sought:g}}} is for a job, `doppel run`, which finds the level "
                "from its originals; give a level here"
            )

    @property
    def invertible(self) -> bool:
        """Whether the input can be computed from the output, which is then never anonymous. True until an operator
        denies it.
        """
        return True

    @property
    def keeps_places(self) -> bool:
        """Whether what lies in an image lies there in the output, too, so that boxes and masks stay true. False until
        an operator claims it.
        """
        return False

    @property
    def needs(self) -> frozenset[Extra]:
        """What the recipe must give the operator."""
        return frozenset()

    @property
    def not_on_latents(self) -> str | None:
        """What it does that can't be done to latents, as the predicate of a sentence ("matches features of pixels");
        None where it works on latents.
        """
        return None

    @property
    def not_on_clips(self) -> str | None:
        """What it does that can't be done to clips, as the predicate of a sentence ("turns single images"); None where
        it works on clips.
        """
        return None

    @property
    def further_images(self) -> tuple[str, ...]:
        """Names of the images that come with each output as samples of their own, KEY-NAME: the keys of `others`."""
        return ()

    @property
    def images_beside(self) -> tuple[str, ...]:
        """Names of the images that lie in the sample of each output, as members NAME.png: the keys of `beside`."""
        return ()

    def conditions_used(self) -> tuple[Condition, ...]:
        """All conditions that the model will be asked for, those that guidance leads away from included."""
        raise NotImplementedError

    def shows(self, name: str) -> Condition:
        """The condition that the image of this name shows, by default the first that is used, or `none`. "" is the
        output.
        """
        return next(iter(self.conditions_used()), "none")

    def check(self, model: Outline, second: Outline | None) -> None:
        """Raises `UserError` where this configuration can't work with these models, before any work starts."""
        if model.space == "latent" and self.not_on_latents:
            raise UserError(f"operator {self.name} {self.not_on_latents}, and the model works on latents")
        if isinstance(model, OfClips) and self.not_on_clips:
            raise UserError(f"operator {self.name} {self.not_on_clips}, and the model works on clips")
        if self.edits_attention:
            try:
                require_attention(model)
            except ValueError as error:
                raise UserError(f"{self.name}: {error}") from None

    def __call__(self, model: Model, z: Tensor, given: Given, noise: KeyedNoise) -> Transformed:
        """Transforms a batch: `z [B, C, h, w]` as `model.encode` made it, or `[B, C, F, h, w]` for a model of clips."""
        raise NotImplementedError

    def least_noise(self, model: Outline) -> float | None:
        """The lowest σ at which an output follows from nothing of its image but `z + σ·ε`, and from its conditions:
        a Gaussian mechanism, which bounds what anybody can learn of the image. None where it follows from more.
        """
        return None

    def at(self, level: LevelRange) -> Operator:
        """The same operator with its dial at another level. Raises `ValueError` where it has no dial."""
        if self.dial is None:
            raise ValueError(f"operator {self.name} has no level")
        return self.model_copy(update={self.dial: level})

    def cheapest(self) -> Self:
        """The operator that takes as much memory for a batch, and the least time: one copy, in one step."""
        return self.model_copy(update={"copies": 1})

    def enlarging(self) -> Descent:
        """How the upper stages of a cascade sample, where the operator does not run on them itself."""
        return Descent(name=self.name)

    def choose(self, copies: Sequence[Details]) -> list[int] | str:
        """Which copies of a sample to keep, by the `details` of each: their numbers, the best first, or the reason why
        none is kept.
        """
        return list(range(len(copies)))


class Bridge(Inversion, Operator):
    """An operator that walks up the ODE to a latent, and down again. Of a cascade, only the first stage has such a
    latent.
    """

    first_stage_only: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        return self.level.drawn

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"steps": 1})

    def enlarging(self) -> Descent:
        return Descent(name=self.name, steps=self.steps)


class Descent(Operator):
    """An operator that walks down from noise at some level to 0."""

    steps: int = Field(default=20, ge=1)
    """How many denoising steps are taken, whatever level they start from."""
    solver: Literal["ancestral", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "consistency"] = "ancestral"
    eta: float = Field(default=1.0, ge=0)
    """Share of the noise that the ancestral solver draws anew at each step: 1 is DDPM, 0 is DDIM (2010.02502, eq.
    16)."""
    spacing: Spacing | Literal["model"] = "trailing"
    """How the levels between the start and 0 are spaced; `leading` begins one stride below the start, `model` is the
    model's own."""

    @model_validator(mode="after")
    def _eta_belongs_to_ancestral(self) -> Descent:
        if self.eta != 1.0 and self.solver != "ancestral":
            raise ValueError(f"eta is an option of the ancestral solver, and solver is {self.solver}")
        return self

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def invertible(self) -> bool:
        return False

    def cheapest(self) -> Self:
        return super().cheapest().model_copy(update={"steps": 1})

    def enlarging(self) -> Descent:
        return self

    def stepper(self) -> Solver:
        """The solver that the options ask for."""
        return Ancestral(eta=self.eta) if self.solver == "ancestral" else SOLVERS[self.solver]

    def schedule(self, model: Outline, start: Tensor) -> Tensor:
        """The noise levels σ from `start` (σ, `[B]`) to 0, float64 `[B, steps+1]`."""
        return grid(model.levels, start, self.steps, None if self.spacing == "model" else self.spacing)
