"""What `doppel train-denoiser` reads; everything that can be wrong with it alone is said when it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.media.pixels import Fit
from pipeline.section import Recipe, Section
from pipeline.streams import AnyInput

GROUPS = 32
"""Of channels, in the norm layers."""
NOT_IDENTITY: dict[str, bool | set[str]] = {
    **dict.fromkeys(("output", "validation", "budget", "checkpoint_minutes", "export_minutes", "licence"), True),
    **dict.fromkeys(("kind", "class_names", "channels_last", "compile", "log_every"), True),
    "network": {"zero_init"},
}
"""What may change between a checkpoint and the run that goes on from it."""


class CodecConfig(Section):
    kind: Literal["none", "space_to_depth", "linear_patch"] = "none"
    patch: int = Field(default=1, ge=1)
    components: int | None = Field(default=None, ge=1)
    """Directions kept by `linear_patch`."""

    @model_validator(mode="after")
    def _complete(self) -> CodecConfig:
        if (self.kind == "linear_patch") != (self.components is not None):
            raise ValueError("components belongs to kind linear_patch, and to no other")
        if (self.kind == "none") != (self.patch == 1):
            raise ValueError("kind none has patch 1; the other kinds have patch 2 or more")
        return self


class NetworkConfig(Section):
    channels: tuple[int, ...] = (64, 128)
    attention: tuple[bool, ...] = (False, True)
    layers: int = Field(default=1, ge=1)
    head_dim: int = Field(default=32, ge=1)
    time_scale_shift: bool = False
    """Level and class scale and shift the features of a block (ADM, 2105.05233), instead of being added to them."""
    zero_init: bool = True
    """Residual branches and the output begin at zero, as in DDPM's and ADM's code: the first steps learn faster."""

    @model_validator(mode="after")
    def _buildable(self) -> NetworkConfig:
        if not 0 < len(self.channels) == len(self.attention):
            raise ValueError("channels and attention must have one entry for each resolution")
        if any(c < 1 or c % GROUPS for c in self.channels):
            raise ValueError(f"channels must be multiples of {GROUPS}, the groups of the norm layers")
        attended = [c for c, a in zip(self.channels, self.attention, strict=True) if a] + [self.channels[-1]]
        if any(c % self.head_dim for c in attended):
            raise ValueError("head_dim must divide the channels of every resolution with attention, and the last")
        return self


class LognormalConfig(Section):
    """ln σ is normal: most steps go to the levels where images take shape (2206.00364, table 1, noise distribution)."""

    mean: float = -0.5
    """EDM's −1.2 is for data of deviation .5; patch latents have deviation 1, and ln(1/.5) = .7 is added."""
    std: float = Field(default=1.2, gt=0)


class DiffusionConfig(Section):
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "squaredcos_cap_v2"
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    steps: int = Field(default=1000, ge=2)
    zero_terminal_snr: bool = False
    lognormal: LognormalConfig | None = None
    """How levels are drawn for training; by default t is uniform."""

    @model_validator(mode="after")
    def _learnable(self) -> DiffusionConfig:
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError("with zero_terminal_snr, epsilon says nothing of the image at the last level: predict v")
        return self


class OptimizerConfig(Section):
    batch_size: int = Field(default=96, ge=1)
    """Images in a step, over all devices."""
    lr: float = Field(default=6e-4, gt=0)
    lr_end: float = Field(default=1e-5, ge=0)
    warmup: int = Field(default=200, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = Field(default=0.999, ge=0, lt=1)
    bf16: bool = True


class BudgetConfig(Section):
    """Training ends at whichever limit comes first; the learning rate decays over the same budget."""

    steps: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _some(self) -> BudgetConfig:
        if self.steps is None and self.minutes is None:
            raise ValueError("give steps, minutes or both")
        return self


class DenoiserConfig(Recipe):
    """What `doppel train-denoiser` reads."""

    kind: Literal["denoiser"] = "denoiser"
    data: AnyInput
    validation: AnyInput | None = None
    """Images that are not trained on: the loss on them is logged, at the same noise every time."""
    output: str
    size: tuple[PositiveInt, PositiveInt]
    """Height and width in pixels."""
    channels: Literal[1, 3] = 3
    fit: Fit = "resize"
    flip: bool = False
    """Mirror half of the images left to right."""
    classes: int | None = Field(default=None, ge=1)
    """Class-conditional with labels 0 … classes − 1; None trains an unconditional model."""
    class_names: tuple[str, ...] | None = None
    """By label; by default what the data set calls them."""
    class_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of samples trained without their label, for guidance; 0 trains no unconditional estimate."""
    codec: CodecConfig = CodecConfig()
    network: NetworkConfig = NetworkConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    budget: BudgetConfig
    channels_last: bool = False
    """How the network's tensors lie in memory; faster on GPUs in bf16."""
    compile: bool = False
    """By torch.compile: faster steps after a minute or so of compiling."""
    start: str | None = None
    """A finished model to begin with: a folder, `embedded:NAME` or a hub id. Its codec is kept."""
    seed: int = 0
    log_every: int = Field(default=50, ge=1)
    """Steps between two points of the loss curves."""
    checkpoint_minutes: float = 5
    export_minutes: float = 15
    """How often the model folder, with samples and loss curve, is written while training."""
    licence: str = "unknown"
    """Of the weights, for their card."""

    @model_validator(mode="after")
    def _fitting(self) -> DenoiserConfig:
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class_names need as many classes, which is {self.classes}")
        smallest = self.codec.patch * 2 ** (len(self.network.channels) - 1)
        if any(side % smallest for side in self.size):
            halvings = len(self.network.channels) - 1
            raise ValueError(
                f"size {self.size[0]} × {self.size[1]} is not a multiple of {smallest}: "
                f"patches of {self.codec.patch}, halved {halvings} times"
            )
        return self
