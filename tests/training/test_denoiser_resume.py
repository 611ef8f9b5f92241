"""A run that is interrupted and goes on ends with the very bytes of one that never stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import training.denoiser.checkpoint
import training.denoiser.network
import training.denoiser.train
from pipeline.errors import UserError
from tests.training.toy import Configure
from training.denoiser.config import DenoiserConfig
from training.denoiser.train import train_denoiser

STEPS = 6
Interrupt = Callable[[int], None]


@pytest.fixture(autouse=True)
def _no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.denoiser.train, "export_model", lambda *_: None)


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Ctrl-C at the end of a step; 0 for none."""

    def arrange(last: int) -> None:
        @contextmanager
        def progress(*_: Any, **__: Any) -> Iterator[Callable[..., None]]:
            def report(step: int, *_: Any) -> None:
                if step == last:
                    raise KeyboardInterrupt

            yield report

        monkeypatch.setattr(training.denoiser.train, "training_progress", progress)

    return arrange


def checkpoint(config: DenoiserConfig) -> Path:
    return Path(config.output) / "checkpoint"


def step_of(config: DenoiserConfig) -> int:
    return int(json.loads((checkpoint(config) / "state.json").read_text())["step"])


def weights(config: DenoiserConfig) -> bytes:
    """Network, average and moments."""
    return (checkpoint(config) / "state.safetensors").read_bytes()


LINEAR = {"codec": {"kind": "linear_patch", "patch": 2, "components": 4}, "size": [8, 8]}
CLASSES = {"classes": 2, "class_dropout": 0.5, "flip": True}


@pytest.mark.parametrize("changes", [CLASSES, LINEAR, {"optimizer.bf16": True}], ids=["classes", "codec", "bf16"])
def test_interrupted_runs_end_with_the_same_bytes(
    configure: Configure, interrupt_after: Interrupt, changes: dict[str, Any]
) -> None:
    straight, broken = configure("straight", **changes), configure("broken", **changes)
    train_denoiser(straight)
    for stop in (2, 3):
        interrupt_after(stop)
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(broken)
        assert step_of(broken) == stop
        assert weights(broken) != weights(straight)
    interrupt_after(0)
    train_denoiser(broken)
    assert step_of(straight) == step_of(broken) == STEPS
    assert weights(broken) == weights(straight)
    tensors = load_file(checkpoint(broken) / "state.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"network", "ema", "exp_avg", "exp_avg_sq"}
    assert all(tensors[n].abs().sum() > 0 for n in tensors if n.startswith("exp_avg."))


@pytest.mark.parametrize("place", ["update_ema", "draw_batch", "denoising_loss"])
def test_ctrl_c_in_the_middle_of_a_step_never_leaves_half_of_it(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Inside `update_ema` the weights have moved already, and the average has not."""
    straight, broken = configure("straight"), configure("broken", checkpoint_minutes=0)
    train_denoiser(straight)
    original, calls = getattr(training.denoiser.train, place), []

    def interrupted(*arguments: Any) -> Any:
        calls.append(place)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training.denoiser.train, place, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(broken)
    assert step_of(broken) == 3
    train_denoiser(broken)
    assert weights(broken) == weights(straight)


def test_a_lost_network_does_not_replace_the_checkpoint(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(checkpoint_minutes=0)
    original, calls = training.denoiser.train.denoising_loss, []

    def lost(*arguments: Any) -> Any:
        calls.append(1)
        return original(*arguments) * (float("nan") if len(calls) == 4 else 1)

    with monkeypatch.context() as patched:
        patched.setattr(training.denoiser.train, "denoising_loss", lost)
        with pytest.raises(UserError, match="the loss is not finite at step 4: lower"):
            train_denoiser(config)
    assert step_of(config) == 3
    assert all(bool(t.isfinite().all()) for t in load_file(checkpoint(config) / "state.safetensors").values())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer.lr": 0.001, "seed": 6}, "optimizer.lr, seed"),
        ({"network.channels": [64]}, "network.channels"),
        ({"classes": 2}, "classes"),
        ({"codec": {"kind": "space_to_depth", "patch": 2}}, "codec.kind, codec.patch"),
    ],
)
def test_another_configuration_does_not_go_on(configure: Configure, changes: dict[str, Any], named: str) -> None:
    train_denoiser(configure())
    before = weights(configure())
    with pytest.raises(UserError, match=f"another {named}: use --overwrite"):
        train_denoiser(configure(**changes))
    assert weights(configure()) == before


def test_budget_licence_names_and_place_may_change(configure: Configure, tmp_path: Path) -> None:
    train_denoiser(configure(classes=2, **{"budget.steps": 3}))
    (tmp_path / "out").rename(tmp_path / "moved")
    more = configure("moved", classes=2, class_names=["b", "r"], licence="mit", **{"budget.steps": 5})
    train_denoiser(more)
    assert step_of(more) == 5


def test_a_finished_run_takes_no_step_more(configure: Configure) -> None:
    train_denoiser(configure())
    before = weights(configure())
    train_denoiser(configure())
    assert weights(configure()) == before


def test_overwrite_starts_anew(configure: Configure, interrupt_after: Interrupt) -> None:
    train_denoiser(configure())
    other = configure(seed=6)
    train_denoiser(other, overwrite=True)
    fresh = configure("fresh", seed=6)
    train_denoiser(fresh)
    assert weights(other) == weights(fresh)


def test_an_overwritten_checkpoint_is_gone_at_once(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before its first checkpoint, the new run must not go on from the old one."""
    train_denoiser(configure())
    monkeypatch.setattr(training.denoiser.train, "draw_batch", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(configure(), overwrite=True)
    assert not checkpoint(configure()).exists()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["save_file", "rename 1", "rename 2", "rmtree"])
def test_a_kill_while_a_checkpoint_is_written_loses_at_most_that_one(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, interrupt_after: Interrupt, at: str
) -> None:
    straight, broken = configure("straight"), configure("broken")
    train_denoiser(straight)
    interrupt_after(2)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(broken)
    interrupt_after(4)
    rename, rmtree, renames = Path.rename, shutil.rmtree, []

    def renamed(self: Path, target: Path) -> Path:
        renames.append(target)
        if at == f"rename {len(renames)}":
            raise Killed
        return rename(self, target)

    def removed(path: Path, ignore_errors: bool = False) -> None:
        if at == "rmtree" and path.exists() and renames:
            for file in path.glob("*.safetensors"):  # killed half-way through
                file.unlink()
            raise Killed
        rmtree(path, ignore_errors=ignore_errors)

    def half(tensors: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", renamed)
        patched.setattr(training.denoiser.checkpoint.shutil, "rmtree", removed)
        if at == "save_file":
            patched.setattr("safetensors.torch.save_file", half)
        with pytest.raises(Killed):
            train_denoiser(broken)
    interrupt_after(0)
    continued: list[int] = []
    draw = training.denoiser.train.hash_seed
    monkeypatch.setattr(training.denoiser.train, "hash_seed", lambda *n: continued.append(n[1]) or draw(*n))
    train_denoiser(broken)
    assert continued[0] == (2 if at in ("save_file", "rename 1") else 4)
    assert weights(broken) == weights(straight)
    assert {f.name for f in Path(broken.output).iterdir()} == {"cache", "checkpoint"}


def test_a_part_alone_is_a_whole_checkpoint(configure: Configure, interrupt_after: Interrupt) -> None:
    straight, broken = configure("straight"), configure("broken")
    train_denoiser(straight)
    interrupt_after(3)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(broken)
    interrupt_after(0)
    os.rename(checkpoint(broken), f"{checkpoint(broken)}.part")
    train_denoiser(broken)
    assert weights(broken) == weights(straight)


def test_the_codec_comes_from_the_checkpoint_not_from_another_fit(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_denoiser(configure(**LINEAR, **{"budget.steps": 3}))
    before = load_file(checkpoint(configure()) / "codec" / "codec.safetensors")
    fit = training.denoiser.network.fit_linear_patch

    def other(*arguments: Any, **options: Any) -> Any:
        codec = fit(*arguments, **options)
        return type(codec)(patch=2, mean=codec.mean, components=-codec.components, std=codec.std)

    monkeypatch.setattr(training.denoiser.network, "fit_linear_patch", other)
    train_denoiser(configure(**LINEAR))
    after = load_file(checkpoint(configure()) / "codec" / "codec.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_moments_come_back_as_the_parameters_lie_in_memory(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fused optimiser walks both alike."""
    train_denoiser(configure(channels_last=True, **{"budget.steps": 2}))
    seen: list[bool] = []
    load = training.denoiser.train.load_checkpoint

    def watched(*arguments: Any) -> Any:
        found, optimizer = load(*arguments), arguments[-1]
        state = getattr(optimizer, "optimizer", optimizer).state
        seen.extend(state[p]["exp_avg"].stride() == p.stride() for p in arguments[2].parameters())
        return found

    monkeypatch.setattr(training.denoiser.train, "load_checkpoint", watched)
    train_denoiser(configure(channels_last=True))
    assert len(seen) > 20
    assert all(seen)
