"""Train a pixel denoiser on any configured data set; read top to bottom. Writes a diffusers-layout folder.

Everything random in step n (rows, timesteps, noise, flips, label dropout) is a function of (seed, n, rank), so a
run that resumes from a checkpoint walks exactly the path of one that never stopped (with a budget in minutes, as far
as the learning rate follows the same clock).
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoisers import per_row
from pipeline.diffusion.levels import Levels, levels_from_scheduler
from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, SpaceToDepth, fit_linear_patch
from pipeline.models.pixel import luma
from pipeline.pixels import to_pixels
from pipeline.report.progress import training_progress
from training.cache import PixelCache, build_cache
from training.checkpoint import State, load_checkpoint, remove_checkpoint, save_checkpoint
from training.denoiser_config import GROUPS, NOT_IDENTITY, BudgetConfig, DenoiserConfig, OptimizerConfig
from training.export import export_model

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, UNet2DModel

    from pipeline.records import Pixels8

CODEC_SAMPLE = 4096
"""Images that the patch codec is fitted on."""
LOG_EVERY = 50


def train_denoiser(config: DenoiserConfig, *, overwrite: bool = False) -> Path:
    """Trains, or goes on from the last checkpoint in `config.output`; returns `config.output`, with `model` in it.

    Raises `UserError` where the data and the configuration don't fit, or the folder holds another run.
    """
    from accelerate import Accelerator

    output = Path(config.output)
    accelerator = Accelerator()
    main, processes = accelerator.is_main_process, accelerator.num_processes
    if config.optimizer.batch_size % processes:
        raise UserError(f"optimizer.batch_size is {config.optimizer.batch_size}: no multiple of {processes} processes")
    with accelerator.main_process_first():
        cache = build_cache(config.data, output / "cache", config.size, config.fit)
        if main and overwrite:
            remove_checkpoint(output)
    check_labels(config, cache)
    codec = fit_codec(config, cache)
    scheduler = build_scheduler(config)
    levels = levels_from_scheduler(scheduler.config)
    network = build_network(config, codec)
    ema = copy.deepcopy(network).requires_grad_(False).to(accelerator.device)
    optimizer = torch.optim.AdamW(
        network.parameters(), betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay
    )
    network, optimizer = accelerator.prepare(network, optimizer)
    bare = accelerator.unwrap_model(network)
    identity = config.model_dump(mode="json", exclude=NOT_IDENTITY)
    state, codec = load_checkpoint(output, identity, bare, ema, optimizer) or (State(), codec)

    saved = exported = time.monotonic()
    started = saved - state.seconds
    losses: list[Tensor] = []
    whole = True  # network, average and optimiser have all taken `state.step` steps
    try:
        with training_progress(config.optimizer.batch_size, enabled=main) as report:
            while (share := spent(config.budget, state)) < 1:
                set_lr(optimizer, config.optimizer, state.step, share)
                rng = torch.Generator().manual_seed(hash_seed(config.seed, state.step, accelerator.process_index))
                x0, labels = draw_batch(cache, config, rng, config.optimizer.batch_size // processes)
                loss = denoising_loss(network, codec, levels, config, rng, x0, labels, accelerator.device)
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(network.parameters(), config.optimizer.clip)
                losses.append(loss.detach())
                whole = False
                optimizer.step()
                update_ema(ema, bare, min(config.optimizer.ema, (1 + state.step) / (10 + state.step)))
                state.step += 1
                state.seconds = agree(time.monotonic() - started, accelerator)
                whole = True
                optimizer.zero_grad(set_to_none=True)
                now = time.monotonic()
                save_due = main and now - saved > 60 * config.checkpoint_minutes
                export_due = main and now - exported > 60 * config.export_minutes
                if state.step % LOG_EVERY == 0 or save_due or export_due or spent(config.budget, state) >= 1:
                    log(state, losses)
                report(state.step, spent(config.budget, state), state.losses[-1][1] if state.losses else None)
                if save_due:
                    save_checkpoint(output, identity, codec, bare, ema, optimizer, state)
                    saved = time.monotonic()
                if export_due:
                    export_model(output, ema, scheduler, codec, config, state, cache)
                    exported = time.monotonic()
    finally:  # also when interrupted, but never half a step, nor a network that is lost
        if main and state.step and whole and all(bool(loss.isfinite()) for loss in losses):
            save_checkpoint(output, identity, codec, bare, ema, optimizer, state)
    if main:
        export_model(output, ema, scheduler, codec, config, state, cache)
    return output


def agree(seconds: float, accelerator: Accelerator) -> float:
    """The main process's clock: all must decay the learning rate alike, and stop at the same step."""
    if accelerator.num_processes == 1:
        return seconds
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor([seconds], device=accelerator.device)))


def log(state: State, losses: list[Tensor]) -> None:
    """Moves the losses since the last entry into the state. Raises `UserError` where they are not finite."""
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise UserError(f"the loss is not finite at step {state.step}: lower optimizer.lr")
    state.losses.append((state.step, mean))
    losses.clear()


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
    if config.codec.components is None:
        return SpaceToDepth(patch=config.codec.patch)
    rows = torch.randperm(len(cache), generator=torch.Generator().manual_seed(config.seed))[:CODEC_SAMPLE].numpy()
    pixels = to_training_range(cache.pixels[rows], config.channels)
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return UNet2DModel(
            sample_size=grid[0] if grid[0] == grid[1] else tuple(grid),
            in_channels=depth,
            out_channels=depth,
            layers_per_block=net.layers,
            block_out_channels=net.channels,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in net.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(net.attention)),
            attention_head_dim=net.head_dim,
            # a group of one channel would subtract what the embedding of time and class adds to that channel
            norm_num_groups=min(GROUPS, min(net.channels) // 2),
            num_class_embeds=config.classes + (config.class_dropout > 0) if config.classes else None,
        )


def draw_batch(
    cache: PixelCache, config: DenoiserConfig, rng: torch.Generator, count: int
) -> tuple[Tensor, Tensor | None]:
    """Random rows: pixels `[count, C, H, W]` in [-1, 1] and labels `[count]`, some replaced by "no class"."""
    rows = torch.randint(len(cache), (count,), generator=rng)
    pixels = to_training_range(cache.pixels[rows.numpy()], config.channels)
    if config.flip:
        mirrored = torch.rand(count, generator=rng) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    if config.classes is None:
        return pixels, None
    labels = torch.from_numpy(cache.labels)[rows]
    dropped = torch.rand(count, generator=rng) < config.class_dropout
    return pixels, torch.where(dropped, config.classes, labels)


def to_training_range(images: Pixels8, channels: int) -> Tensor:
    """uint8 `[B, H, W, 3]` → float `[B, channels, H, W]` in [-1, 1], as the finished model's `encode` sees them."""
    pixels = to_pixels(list(images), "cpu")
    return luma(pixels) if channels == 1 else pixels


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
    sigma = levels.sigma((t + 1).double() / config.diffusion.steps)
    noise = torch.randn(x0.shape, generator=rng)
    scale, s = per_row(levels.scale(sigma), x0), per_row(sigma, x0)
    target = noise if config.diffusion.prediction == "epsilon" else scale * (noise - s * x0)
    given = (scale * (x0 + s * noise)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.optimizer.bf16):
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
