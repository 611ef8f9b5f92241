"""Checkpoints without pickles: one safetensors file and one JSON file, swapped into place together."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.models.codec import PatchCodec, load_codec, save_codec
from pipeline.plain_json import read_json_file
from pipeline.streams.files import sync_file, sync_folder
from pipeline.streams.ledger import flatten
from pipeline.tensors import read_tensors, write_tensors

FOLDER = "checkpoint"
"""The folder of the checkpoint, below the run's output."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""


@dataclass
class RunState:
    """How far a run has come."""

    step: int = 0
    """Steps that are done."""
    seconds: float = 0.0
    """Seconds that they took."""
    losses: list[tuple[int, float]] = field(default_factory=list)
    """Points of the training curve: (step, mean loss since the point before)."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """Points of the validation curve: (step, loss of the averaged network on the validation images)."""


def save_checkpoint(
    output: Path,
    identity: dict[str, Any],
    codec: PatchCodec,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: RunState,
) -> None:
    """Writes codec, networks, optimiser and state; the old checkpoint stays until the new one is complete.

    `ema` is the averaged network; `identity` is what a run that goes on from the checkpoint must have in common with
    it.
    """
    part = output / f"{FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_codec(codec, part)
    write_tensors(_tensors(network, ema, optimizer), part / "state.safetensors")
    sync_file(part / "state.safetensors")
    (part / "state.json").write_text(json.dumps({"identity": identity, **asdict(state)}))
    sync_file(part / "state.json")
    swap(part, output / FOLDER)


def load_checkpoint(
    output: Path,
    identity: dict[str, Any],
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> tuple[RunState, PatchCodec] | None:
    """Restores networks and optimiser in place, and returns state and codec; None where there is no checkpoint.

    Raises `UserError` where the checkpoint belongs to a run with another configuration.
    """
    folder = next((f for f in (output / FOLDER, output / f"{FOLDER}.part") if (f / "state.json").exists()), None)
    if folder is None:
        return None
    facts = read_json_file(folder / "state.json")
    if not {"identity", "step", "seconds"} <= facts.keys():
        raise UserError(f"{folder}/state.json is no whole checkpoint: use --overwrite to start anew")
    before, now = flatten(facts.pop("identity")), flatten(json.loads(json.dumps(identity)))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise UserError(f"{folder} belongs to a run with another {', '.join(changed)}: use --overwrite to start anew")
    try:
        saved = read_tensors(folder / "state.safetensors")
    except UserError as error:
        raise UserError(f"{error}: use --overwrite to start anew") from None
    fused = bool(optimizer.param_groups[0]["fused"])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            # as the parameter lies in memory: a fused optimiser walks both alike
            moments = {m: torch.empty_like(parameter).copy_(saved[f"{m}.{name}"]) for m in MOMENTS}
            step = torch.tensor(float(facts["step"]), device=parameter.device if fused else "cpu")
            _states(optimizer)[parameter] = {"step": step, **moments}
        network.load_state_dict(_under(saved, "network."))
        ema.load_state_dict(_under(saved, "ema."))
    curves = {name: [(s, loss) for s, loss in facts.get(name, [])] for name in ("losses", "validation")}
    state = RunState(step=facts["step"], seconds=facts["seconds"], **curves)
    return state, load_codec(folder)


def remove_checkpoint(output: Path) -> None:
    """Removes the checkpoint of a run, whether it is complete or not."""
    for folder in (FOLDER, f"{FOLDER}.part"):
        shutil.rmtree(output / folder, ignore_errors=True)


def swap(part: Path, final: Path) -> None:
    """Puts a finished folder into place. At every moment `final` or `part` is there and complete."""
    old = final.with_name(f"{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    part.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def _tensors(network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    found = {f"network.{n}": t for n, t in network.state_dict().items()}
    found |= {f"ema.{n}": t for n, t in ema.state_dict().items()}
    for name, parameter in network.named_parameters():
        found |= {f"{m}.{name}": _states(optimizer)[parameter][m] for m in MOMENTS}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _states(optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, Tensor]]:
    return getattr(optimizer, "optimizer", optimizer).state  # accelerate wraps the optimiser


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
