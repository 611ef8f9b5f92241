"""The recipe of `doppel train-denoiser`; everything that can be wrong with it alone is found when it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.media.rules import PixelRules
from pipeline.section import Fraction, LocalPath, Recipe, Section
from pipeline.streams import AnyInput
from training.data.overlap import NEAR_SHARE

GROUPS = 32
"""The number of channel groups in the norm layers, at most."""
NOT_IDENTITY: dict[str, bool | set[str]] = {
    **dict.fromkeys(
        ("output", "validation", "near_copies", "budget", "checkpoint_minutes", "export_minutes", "licence"), True
    ),
    **dict.fromkeys(("kind", "class_names", "channels_last", "compile", "log_every"), True),
    "network": {"zero_init"},
}
"""What may change between a checkpoint and the run that goes on from it."""


class CodecConfig(Section):
    """The codec between pixels and what the network sees."""

    kind: Literal["none", "space_to_depth", "linear_patch"] = "none"
    """`none` leaves pixels as they are, `space_to_depth` turns patches into channels, and `linear_patch` keeps the main
    directions of patches."""
    patch: int = Field(default=1, ge=1)
    """Side of a patch in pixels."""
    components: int | None = Field(default=None, ge=1)
    """How many directions `linear_patch` keeps."""

    @model_validator(mode="after")
    def _complete(self) -> CodecConfig:
        if (self.kind == "linear_patch") != (self.components is not None):
            raise ValueError("components belongs to kind linear_patch, and to no other")
        if (self.kind == "none") != (self.patch == 1):
            raise ValueError("kind none has patch 1; the other kinds have patch 2 or more")
        return self


class NetworkConfig(Section):
    """The shape of the U-Net."""

    channels: tuple[int, ...] = (64, 128)
    """Channels at each resolution, from the finest to the coarsest; multiples of 32."""
    attention: tuple[bool, ...] = (False, True)
    """Whether there is attention at each resolution."""
    layers: int = Field(default=1, ge=1)
    """Residual blocks at each resolution."""
    head_dim: int = Field(default=32, ge=1)
    """Channels of an attention head."""
    time_scale_shift: bool = False
    """Whether level and class scale and shift the features of a block (ADM, 2105.05233), instead of being added to
    them."""
    zero_init: bool = True
    """Whether residual branches and the output begin at zero, as in the code of DDPM and ADM, which makes the first
    steps learn faster."""

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
    """Draws σ such that ln σ is normal: most steps go to levels where images take shape (2206.00364, table 1)."""

    mean: float = -0.5
    """Mean of ln σ. EDM's −1.2 is for data of deviation .5; patch latents have deviation 1, so ln(1/.5) = .7 is
    added."""
    std: float = Field(default=1.2, gt=0)
    """Standard deviation of ln σ."""


class DiffusionConfig(Section):
    """The noise that the network learns to remove."""

    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "squaredcos_cap_v2"
    """Name of the schedule of β in diffusers."""
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    """What the network predicts: the noise ε, or v (2202.00512)."""
    steps: int = Field(default=1000, ge=2)
    """T, the number of training levels."""
    zero_terminal_snr: bool = False
    """Whether the schedule is rescaled such that nothing is left of the image at the last level."""
    lognormal: LognormalConfig | None = None
    """How levels are drawn for training; by default t is uniform."""

    @model_validator(mode="after")
    def _learnable(self) -> DiffusionConfig:
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError("with zero_terminal_snr, epsilon says nothing of the image at the last level: predict v")
        return self


class OptimizerConfig(Section):
    """AdamW and its learning rate."""

    batch_size: int = Field(default=96, ge=1)
    """Images in a step, over all devices."""
    lr: float = Field(default=6e-4, gt=0)
    """Learning rate after the warm-up."""
    lr_end: float = Field(default=1e-5, ge=0)
    """Learning rate at the end of the budget."""
    warmup: int = Field(default=200, ge=0)
    """Steps in which the learning rate rises linearly."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's β₁ and β₂."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the averaged network in each step."""
    bf16: bool = True
    """Whether the forward pass runs in bfloat16."""


class BudgetConfig(Section):
    """How long to train.

    Training ends at whichever limit comes first, and the learning rate decays over the same budget.
    """

    steps: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _some(self) -> BudgetConfig:
        if self.steps is None and self.minutes is None:
            raise ValueError("give steps, minutes or both")
        return self


class DenoiserConfig(PixelRules, Recipe):
    """The recipe of `doppel train-denoiser`."""

    kind: Literal["denoiser"] = "denoiser"
    data: AnyInput
    """The training images."""
    validation: AnyInput | None = None
    """Images that are not trained on. The loss on them is logged, with the same noise every time."""
    near_copies: Fraction = NEAR_SHARE
    """The largest fraction of `validation` that may look like training images: at most 16 of 255 bits of a
    perceptual hash differ."""
    output: LocalPath
    """Folder of checkpoint, cache and finished model."""
    size: tuple[PositiveInt, PositiveInt]
    """Height and width of the images in pixels."""
    channels: Literal[1, 3] = 3
    """1 trains on grey images, 3 on RGB."""
    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    classes: int | None = Field(default=None, ge=1)
    """Number of classes, with labels 0 … classes − 1; None trains an unconditional model."""
    class_names: tuple[str, ...] | None = None
    """The name of each class; by default those of the data set."""
    class_dropout: float = Field(default=0.1, ge=0, lt=1)
    """The fraction of samples that are trained without their label, for guidance; with 0 there is no unconditional
    estimate."""
    codec: CodecConfig = CodecConfig()
    network: NetworkConfig = NetworkConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    budget: BudgetConfig
    channels_last: bool = False
    """Whether the network's tensors lie in memory with channels last, which is faster on GPUs in bfloat16."""
    compile: bool = False
    """Whether torch.compile is used: steps are faster after a minute or so of compiling."""
    start: str | None = None
    """A finished model to begin with: a folder, `embedded:NAME` or a hub id. Its codec is kept."""
    seed: int = 0
    log_every: int = Field(default=50, ge=1)
    """Steps between two points of the loss curves."""
    checkpoint_minutes: float = 5
    """Minutes between two checkpoints."""
    export_minutes: float = 15
    """Minutes between two exports of the model folder, with samples and loss curve, while training goes on."""
    licence: str = "unknown"
    """Licence of the weights, for their card."""

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
