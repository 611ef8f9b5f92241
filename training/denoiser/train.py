"""Training a pixel denoiser on any configured data set; to be read from top to bottom.

Writes a diffusers-layout folder. Everything random in step n (rows, timesteps, noise, flips, label dropout) is a
function of (seed, n, rank). So a run that resumes from a checkpoint goes exactly the way of one that never stopped;
with a budget in minutes, as far as the learning rate follows the same clock.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.errors import UserError
from pipeline.optional import require_package
from pipeline.report.progress import training_progress
from training.data.cache import build_cache
from training.denoiser.beginning import begin
from training.denoiser.checkpoint import RunState, load_checkpoint, remove_checkpoint, save_checkpoint
from training.denoiser.config import NOT_IDENTITY, BudgetConfig, DenoiserConfig, OptimizerConfig
from training.denoiser.export import export_model
from training.denoiser.held_out import open_validation
from training.denoiser.loss import denoising_loss, draw_batch
from training.denoiser.network import build_scheduler, check_labels
from training.denoiser.resident import ResidentImages

if TYPE_CHECKING:
    from accelerate import Accelerator


def train_denoiser(
    config: DenoiserConfig, *, overwrite: bool = False, exported: Callable[[Path], None] = lambda output: None
) -> Path:
    """Trains a denoiser, or goes on from the last checkpoint; returns `config.output`, which holds the folder `model`.

    `exported(output)` is called whenever `model` and the log beside it are new. Raises `UserError` where data and
    configuration don't fit, the folder holds another run, or a package is missing.
    """
    require_package("accelerate", "training a denoiser", extra="train")
    require_package("matplotlib", "the loss curve of a denoiser", extra="train")
    from accelerate import Accelerator

    output = Path(config.output)
    accelerator = Accelerator()
    main, processes = accelerator.is_main_process, accelerator.num_processes
    if config.optimizer.batch_size % processes:
        raise UserError(f"optimizer.batch_size is {config.optimizer.batch_size}: no multiple of {processes} processes")
    with accelerator.main_process_first():
        cache = build_cache(config.data, output / "cache", config.size, config.rules)
        if main and overwrite:
            remove_checkpoint(output)
    check_labels(config, cache, "data")
    scheduler = build_scheduler(config)
    network, codec = begin(config, cache)
    network = network.to(accelerator.device)
    if config.channels_last:
        network = network.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), betas=config.optimizer.betas, weight_decay=config.optimizer.weight_decay,
        fused=accelerator.device.type == "cuda",
    )  # fmt: skip
    if config.compile:
        network.compile()
    network, optimizer = accelerator.prepare(network, optimizer)
    bare = accelerator.unwrap_model(network)
    identity = config.model_dump(mode="json", exclude=NOT_IDENTITY)
    state, codec = load_checkpoint(output, identity, bare, ema, optimizer) or (RunState(), codec)
    codec, levels = codec.to(accelerator.device), levels_from_scheduler(scheduler.config).to(accelerator.device)
    images = ResidentImages(cache, accelerator.device)
    held_out = open_validation(config, cache, codec, levels, accelerator.device) if main else None

    saved = shown = time.monotonic()
    started = saved - state.seconds
    losses: list[Tensor] = []
    whole = True  # network, average and optimiser have all taken `state.step` steps
    try:
        with training_progress(config.optimizer.batch_size, enabled=main) as report:
            while (share := spent(config.budget, state)) < 1:
                set_lr(optimizer, config.optimizer, state.step, share)
                rng = torch.Generator(accelerator.device)
                rng.manual_seed(hash_seed(config.seed, state.step, accelerator.process_index))
                pixels, labels = draw_batch(images, config, rng, config.optimizer.batch_size // processes)
                loss = denoising_loss(network, codec, levels, config, rng, pixels, labels)
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
                export_due = main and now - shown > 60 * config.export_minutes
                if state.step % config.log_every == 0 or save_due or export_due or spent(config.budget, state) >= 1:
                    log(state, losses)
                    if held_out is not None:
                        state.validation.append((state.step, held_out.loss(ema)))
                report(state.step, spent(config.budget, state), state.losses[-1][1] if state.losses else None)
                if save_due:
                    save_checkpoint(output, identity, codec, bare, ema, optimizer, state)
                    saved = time.monotonic()
                if export_due:
                    export_model(output, ema, scheduler, codec, config, state, cache)
                    exported(output)
                    shown = time.monotonic()
    finally:  # also when interrupted, but never half a step, nor a network that is lost
        if main and state.step and whole and all(bool(loss.isfinite()) for loss in losses):
            save_checkpoint(output, identity, codec, bare, ema, optimizer, state)
    if main:
        export_model(output, ema, scheduler, codec, config, state, cache)
        exported(output)
    return output


def agree(seconds: float, accelerator: Accelerator) -> float:
    """The seconds of the main process, for all of them.

    They must decay the learning rate alike, and stop at the same step.
    """
    if accelerator.num_processes == 1:
        return seconds
    from accelerate.utils import broadcast

    return float(broadcast(torch.tensor([seconds], device=accelerator.device)))


def log(state: RunState, losses: list[Tensor]) -> None:
    """Moves the losses since the last entry into the state. Raises `UserError` where they are not finite."""
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise UserError(f"the loss is not finite at step {state.step}: lower optimizer.lr")
    state.losses.append((state.step, mean))
    losses.clear()


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Moves the averaged network towards the network: it keeps a fraction `decay` of itself."""
    torch._foreach_lerp_(list(ema.parameters()), [p.detach() for p in network.parameters()], 1 - decay)


def spent(budget: BudgetConfig, state: RunState) -> float:
    """The fraction of the budget used so far."""
    by_steps = state.step / budget.steps if budget.steps else 0.0
    by_time = state.seconds / (60 * budget.minutes) if budget.minutes else 0.0
    return max(by_steps, by_time)


def set_lr(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, share: float) -> None:
    """Sets the learning rate: a linear warm-up, then half a cosine from `lr` to `lr_end` over the budget.

    `share` is the fraction of the budget that is spent.
    """
    decayed = config.lr_end + (config.lr - config.lr_end) * (1 + math.cos(math.pi * min(share, 1))) / 2
    for group in optimizer.param_groups:
        group["lr"] = decayed * min(1.0, (step + 1) / max(config.warmup, 1))


def hash_seed(*numbers: int) -> int:
    """A seed of 63 bits that differs for each (seed, step, rank)."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
