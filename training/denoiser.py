"""Train a pixel denoiser on any configured data set; read top to bottom. Writes a diffusers-layout folder.

Everything random in step n (rows, timesteps, noise, flips, label dropout) is a function of (seed, n, rank), so a
run that resumes from a checkpoint walks exactly the path of one that never stopped.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.levels import Levels, levels_from_scheduler
from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, SpaceToDepth, fit_linear_patch
from pipeline.pixels import Fit
from pipeline.report.progress import training_progress
from pipeline.streams import AnyInput
from training.cache import PixelCache, build_cache
from training.checkpoint import State, load_checkpoint, save_checkpoint
from training.export import export_model

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel

CODEC_SAMPLE = 4096
"""Images that the patch codec is fitted on."""
LOG_EVERY = 50


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    head_dim: int = 32

    @model_validator(mode="after")
    def _parallel(self) -> NetworkConfig:
        if len(self.channels) != len(self.attention):
            raise ValueError("channels and attention must have one entry for each resolution")
        return self


class DiffusionConfig(Section):
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "squaredcos_cap_v2"
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    steps: int = Field(default=1000, ge=2)
    zero_terminal_snr: bool = False


class OptimizerConfig(Section):
    batch_size: int = Field(default=96, ge=1)
    """Images in a step, over all devices."""
    lr: float = 6e-4
    lr_end: float = 1e-5
    warmup: int = 200
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


class DenoiserConfig(Section):
    """What `doppel train-denoiser` reads."""

    data: AnyInput
    output: str
    size: tuple[int, int]
    """Height and width in pixels."""
    channels: Literal[1, 3] = 3
    fit: Fit = "resize"
    flip: bool = False
    """Mirror half of the images left to right."""
    classes: int | None = Field(default=None, ge=1)
    """Class-conditional with labels 0 … classes − 1; None trains an unconditional model."""
    class_names: tuple[str, ...] | None = None
    class_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of samples trained without their label, for guidance; 0 trains no unconditional estimate."""
    codec: CodecConfig = CodecConfig()
    network: NetworkConfig = NetworkConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    budget: BudgetConfig
    seed: int = 0
    checkpoint_minutes: float = 5
    export_minutes: float = 15
    """How often the model folder, with samples and loss curve, is written while training."""
    licence: str = "unknown"
    """Of the weights, for their card."""


def train_denoiser(config: DenoiserConfig, *, overwrite: bool = False) -> Path:
    """Trains, or goes on from the last checkpoint in `config.output`; returns the finished model folder.

    Raises `UserError` where the data and the configuration don't fit, or the folder holds another run.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    output = Path(config.output)
    accelerator = Accelerator(mixed_precision="bf16" if config.optimizer.bf16 else "no")
    with accelerator.main_process_first():
        cache = build_cache(config.data, output / "cache", config.size, config.fit)
    check_labels(config, cache)
    set_seed(config.seed)
    codec = fit_codec(config, cache)
    scheduler = build_scheduler(config)
    levels = levels_from_scheduler(scheduler.config)
    network = build_network(config, codec)
    ema = copy.deepcopy(network).requires_grad_(False).to(accelerator.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay
    )
    state = State()
    network, optimizer = accelerator.prepare(network, optimizer)
    bare = accelerator.unwrap_model(network)
    identity = config.model_dump(mode="json", exclude={"budget", "checkpoint_minutes", "export_minutes", "licence"})
    if not overwrite:
        state = load_checkpoint(output, identity, bare, ema, optimizer) or state
    saved = exported = time.monotonic()
    started = saved - state.seconds
    losses: list[Tensor] = []
    try:
        with training_progress(config.optimizer.batch_size, enabled=accelerator.is_main_process) as report:
            while (share := spent(config.budget, state)) < 1:
                set_lr(optimizer, config.optimizer, state.step, share)
                rng = torch.Generator().manual_seed(hash_seed(config.seed, state.step, accelerator.process_index))
                x0, labels = draw_batch(cache, config, rng, accelerator.num_processes)
                loss = denoising_loss(network, codec, levels, config, rng, x0, labels, accelerator.device)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(network.parameters(), config.optimizer.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                update_ema(ema, bare, min(config.optimizer.ema, (1 + state.step) / (10 + state.step)))
                state.step += 1
                state.seconds = time.monotonic() - started
                losses.append(loss.detach())
                if len(losses) == LOG_EVERY:
                    state.losses.append((state.step, float(torch.stack(losses).mean())))
                    losses.clear()
                    if not math.isfinite(state.losses[-1][1]):
                        raise UserError(f"the loss is not finite at step {state.step}: lower optimizer.lr")
                report(state.step, spent(config.budget, state), state.losses[-1][1] if state.losses else None)
                if accelerator.is_main_process and time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    save_checkpoint(output, identity, bare, ema, optimizer, state)
                    saved = time.monotonic()
                if accelerator.is_main_process and time.monotonic() - exported > 60 * config.export_minutes:
                    export_model(output, ema, scheduler, codec, config, state, cache.facts)
                    exported = time.monotonic()
    finally:
        if accelerator.is_main_process and state.step:
            save_checkpoint(output, identity, bare, ema, optimizer, state)
    if accelerator.is_main_process:
        export_model(output, ema, scheduler, codec, config, state, cache.facts)
    return output


def check_labels(config: DenoiserConfig, cache: PixelCache) -> None:
    if config.classes is None:
        return
    low, high = int(cache.labels.min()), int(cache.labels.max())
    if low < 0:
        missing = int((cache.labels < 0).sum())
        raise UserError(f"data: {missing} of {len(cache)} samples have no label, and classes is {config.classes}")
    if high >= config.classes:
        raise UserError(
            f"data: a label is {high}; classes is {config.classes}, so 0 to {config.classes - 1} are allowed"
        )


def fit_codec(config: DenoiserConfig, cache: PixelCache) -> PatchCodec:
    if any(side % config.codec.patch for side in config.size):
        raise UserError(f"size {config.size[0]} × {config.size[1]} is no multiple of codec.patch {config.codec.patch}")
    if config.codec.components is None:
        return SpaceToDepth(patch=config.codec.patch)
    rows = torch.randperm(len(cache), generator=torch.Generator().manual_seed(config.seed))[:CODEC_SAMPLE].numpy()
    pixels = to_training_range(torch.from_numpy(cache.pixels[rows]), config.channels)
    return fit_linear_patch(pixels, patch=config.codec.patch, components=config.codec.components)


def build_scheduler(config: DenoiserConfig) -> DDPMScheduler:
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=config.diffusion.steps,
        beta_schedule=config.diffusion.schedule,
        prediction_type=config.diffusion.prediction,
        rescale_betas_zero_snr=config.diffusion.zero_terminal_snr,
        timestep_spacing="trailing",
        clip_sample=config.codec.kind != "linear_patch",
    )


def build_network(config: DenoiserConfig, codec: PatchCodec) -> UNet2DModel:
    from diffusers import UNet2DModel

    net = config.network
    grid = [side // codec.patch for side in config.size]
    depth = config.codec.components or config.channels * codec.patch**2
    return UNet2DModel(
        sample_size=grid[0] if grid[0] == grid[1] else tuple(grid),
        in_channels=depth,
        out_channels=depth,
        layers_per_block=net.layers,
        block_out_channels=net.channels,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in net.attention),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(net.attention)),
        attention_head_dim=net.head_dim,
        num_class_embeds=config.classes + (config.class_dropout > 0) if config.classes else None,
    )


def draw_batch(
    cache: PixelCache, config: DenoiserConfig, rng: torch.Generator, processes: int
) -> tuple[Tensor, Tensor | None]:
    """This process's share of a step: pixels `[b, C, H, W]` in [-1, 1] and labels `[b]`, some replaced by "none"."""
    rows = torch.randint(len(cache), (max(1, config.optimizer.batch_size // processes),), generator=rng)
    pixels = to_training_range(torch.from_numpy(cache.pixels[rows.numpy()]), config.channels)
    if config.flip:
        mirrored = torch.rand(len(rows), generator=rng) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if config.classes is None:
        return pixels, None
    labels = torch.from_numpy(cache.labels)[rows]
    dropped = torch.rand(len(rows), generator=rng) < config.class_dropout
    return pixels, torch.where(dropped, config.classes, labels)


def to_training_range(images: Tensor, channels: int) -> Tensor:
    """uint8 `[B, H, W, 3]` → float `[B, channels, H, W]` in [-1, 1]; one channel is the luma."""
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return (
        pixels if channels == 3 else (pixels * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    )


def denoising_loss(
    network: nn.Module,
    codec: PatchCodec,
    levels: Levels,
    config: DenoiserConfig,
    rng: torch.Generator,
    pixels: Tensor,
    labels: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Mean squared error of the prediction (2006.11239, eq. 14; v: 2202.00512) at uniformly drawn levels."""
    x0 = codec.encode(pixels)
    t = torch.randint(config.diffusion.steps, (len(x0),), generator=rng)
    sigma = levels.sigma((t + 1) / config.diffusion.steps)
    noise = torch.randn(x0.shape, generator=rng)
    scale, s = per_row(levels.scale(sigma), x0), per_row(sigma, x0)
    target = noise if config.diffusion.prediction == "epsilon" else scale * (noise - s * x0)
    given = (scale * (x0 + s * noise)).to(device)
    output = network(given, t.to(device), class_labels=None if labels is None else labels.to(device)).sample
    return (output.float() - target.to(device)).square().mean()


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in network.parameters()], 1 - decay)


def spent(budget: BudgetConfig, state: State) -> float:
    """Share of the budget used so far."""
    by_steps = state.step / budget.steps if budget.steps else 0.0
    by_time = state.seconds / (60 * budget.minutes) if budget.minutes else 0.0
    return max(by_steps, by_time)


def set_lr(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, share: float) -> None:
    """Linear warm-up, then a half cosine from `lr` to `lr_end` over the budget."""
    decayed = config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * min(share, 1))) / 2
    for group in optimizer.param_groups:
        group["lr"] = decayed * min(1.0, (step + 1) / max(config.warmup, 1))


def hash_seed(*numbers: int) -> int:
    """Distinct seeds for distinct (seed, step, rank)."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
