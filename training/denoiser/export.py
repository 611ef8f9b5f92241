"""What a training leaves behind: the model folder with its card, a grid of samples and the loss curve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.diffusion.denoisers import bounded
from pipeline.diffusion.levels import grid
from pipeline.diffusion.model import Model
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.solvers import SOLVERS, add_noise, integrate
from pipeline.media.pixels import from_pixels
from pipeline.models.codec import PatchCodec, save_codec
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.models.pixel import CARD
from pipeline.report.sheet import contact_sheet
from training.data.cache import PixelCache
from training.data.overlap import write_training_set
from training.denoiser.checkpoint import RunState, swap

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DModel

    from training.denoiser.config import DenoiserConfig

FOLDER = "model"
"""The folder of the model, below the run's output."""
LOG = "training.json"
"""The file beside the model's folder with steps, seconds, and both loss curves as (step, loss)."""
COLUMNS, ROWS, ROWS_WITHOUT_CLASSES, STEPS = 10, 20, 4, 40
"""Columns and largest number of rows of the sample grid, its rows without classes, and the steps of each sample."""


def export_model(
    output: Path,
    ema: UNet2DModel,
    scheduler: DDPMScheduler,
    codec: PatchCodec,
    config: DenoiserConfig,
    state: RunState,
    cache: PixelCache,
) -> None:
    """Writes `output/model`, completely or not at all: fp16 safetensors in the diffusers layout, card and pictures."""
    part, final = output / f"{FOLDER}.part", output / FOLDER
    shutil.rmtree(part, ignore_errors=True)
    write_weights(part, ema, scheduler, codec, config, config.class_names or cache.facts["label_names"])
    write_training_set(cache, part)
    device = str(ema.device)
    sample_grid(load_model(ModelConfig(path=str(part)), device), part / "samples.png", device)
    loss_curve(state, config.optimizer.batch_size, part / "loss.png")
    (part / "README.md").write_text(
        card(config, state, cache.facts, parameters=sum(p.numel() for p in ema.parameters()))
    )
    swap(part, final)
    log = {"step": state.step, "seconds": state.seconds, "losses": state.losses, "validation": state.validation}
    (output / LOG).write_text(json.dumps(log) + "\n")


def write_weights(
    folder: Path,
    ema: UNet2DModel,
    scheduler: DDPMScheduler,
    codec: PatchCodec,
    config: DenoiserConfig,
    class_names: Sequence[str] | None,
) -> None:
    """Writes the diffusers layout, and the codec and the class names, for which diffusers has no place."""
    from diffusers import UNet2DModel

    half = UNet2DModel.from_config(ema.config).half()
    half.load_state_dict(ema.state_dict())
    half.save_pretrained(folder / "unet", safe_serialization=True)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    save_codec(codec, folder)
    card: dict[str, Any] = {}
    if config.classes:
        named = class_names if class_names and len(class_names) == config.classes else None
        card = {"class_names": named, "null_label": config.classes if config.class_dropout else None}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


@torch.inference_mode()
def sample_grid(model: Model, file: Path, device: str) -> None:
    """Draws samples from pure noise, a row for each of the first twenty classes, or four rows; ancestral, 40 steps."""
    names = model.class_names or [str(row) for row in range(model.classes or ROWS_WITHOUT_CLASSES)]
    like = model.encode(torch.zeros(COLUMNS, 3, *model.size, device=device))
    sigmas = grid(model.levels, model.levels.sigma(torch.ones(COLUMNS, device=device)), STEPS, "trailing").to(like)
    rows = []
    for row, name in enumerate(names[:ROWS]):
        labels = torch.full((COLUMNS,), row, device=device) if model.classes else None
        noise = KeyedNoise(b"samples", [f"{row}-{column}" for column in range(COLUMNS)], "sample", 0)
        x = add_noise(torch.zeros_like(like), sigmas[:, 0], noise)
        z = integrate(bounded(model.denoiser(labels), model.limit), x, sigmas, solver=SOLVERS["ancestral"], noise=noise)
        rows.append((name, list(from_pixels(model.decode(z)))))
    contact_sheet(rows, cell=max(56, *model.size)).save(file)


def loss_curve(state: RunState, batch_size: int, file: Path) -> None:
    """Draws training and validation loss against images seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, curve in (("training", state.losses), ("validation", state.validation)):
        if curve:
            steps, losses = zip(*curve, strict=True)
            axes.plot([batch_size * step for step in steps], losses, linewidth=0.8, label=name)
            axes.set_yscale("log")
    if state.validation:
        axes.legend()
    axes.set(xlabel="images seen", ylabel="loss", title=f"{state.step} steps in {state.seconds / 60:.0f} minutes")
    figure.savefig(file, dpi=110)


def card(config: DenoiserConfig, state: RunState, data: Mapping[str, Any], *, parameters: int) -> str:
    """The text of the model's card."""
    import platform

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    size = f"{config.size[0]}×{config.size[1]}×{config.channels}"
    last = f"{state.losses[-1][1]:.4f}" if state.losses else "none yet"
    held_out = f"{state.validation[-1][1]:.4f}" if state.validation else "no validation images"
    kind = f"class-conditional, {config.classes} classes" if config.classes else "unconditional"
    return f"""---
license: {config.licence}
library_name: diffusers
---
# {Path(config.output).name}

`UNet2DModel`, {kind}, {parameters / 1e6:.2f} M parameters (fp16), {size}, \
codec {config.codec.kind} (patch {config.codec.patch}), {config.diffusion.prediction}, {config.diffusion.schedule}.

| | |
|---|---|
| data | {config.data.model_dump(mode="json")}, {data["images"]} images ({data["rejected"]} rejected) |
| licence | {config.licence} |
| made by | `doppel train-denoiser` with the configuration below |
| steps | {state.step} of {config.optimizer.batch_size} images, {state.seconds / 60:.1f} minutes |
| machine | {platform.machine()}, {device}, torch {torch.__version__} |
| last loss | {last} |
| validation loss | {held_out} |

![loss](loss.png) ![samples](samples.png)

```json
{config.model_dump_json(indent=2)}
```
"""
