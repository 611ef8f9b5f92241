"""One training step, taken apart: batches, targets, rates, budgets."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from pipeline.diffusion.denoisers import per_row, to_x0
from pipeline.diffusion.levels import levels_from_scheduler
from pipeline.models.codec import SpaceToDepth
from tests.training.toy import Configure
from training.data.cache import build_cache
from training.denoiser.checkpoint import RunState
from training.denoiser.config import BudgetConfig, DenoiserConfig, LognormalConfig, OptimizerConfig
from training.denoiser.loss import denoising_loss, draw_batch, draw_sigmas, predict, to_training_range
from training.denoiser.network import build_network, build_scheduler
from training.denoiser.resident import ResidentImages
from training.denoiser.train import hash_seed, set_lr, spent, update_ema

COUNT = 4000


def images_of(config: DenoiserConfig) -> ResidentImages:
    cache = build_cache(config.data, Path(config.output) / "cache", config.size, config.rules)
    return ResidentImages(cache, torch.device("cpu"))


class Oracle(nn.Module):
    """Knows x0, and answers by the formulas of diffusers' own scheduler."""

    def __init__(self, x0: Tensor, scheduler: DDPMScheduler, late: int = 0) -> None:
        super().__init__()
        self.x0, self.scheduler, self.late = x0, scheduler, late
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Any:
        t = t.round().long()
        alphas_bar = self.scheduler.alphas_cumprod.double()[(t - self.late).clamp(min=0)]
        noise = (x_t - per_row(alphas_bar.sqrt(), x_t) * self.x0) / per_row((1 - alphas_bar).sqrt(), x_t)
        output = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            output = per_row(alphas_bar.sqrt(), x_t) * noise - per_row((1 - alphas_bar).sqrt(), x_t) * self.x0
        self.asked.append((x_t, t, output))
        return SimpleNamespace(sample=output)


@pytest.mark.parametrize(
    ("prediction", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
@pytest.mark.parametrize("patch", [1, 2])
def test_the_exact_answer_has_no_loss_and_decodes_to_the_image(
    configure: Configure, prediction: str, zero_snr: bool, patch: int
) -> None:
    config = configure(**{"diffusion.prediction": prediction, "diffusion.zero_terminal_snr": zero_snr})
    scheduler, codec = build_scheduler(config), SpaceToDepth(patch=patch)
    levels = levels_from_scheduler(scheduler.config)
    pixels = torch.rand(1024, 3, 4, 4, dtype=torch.float64) * 2 - 1
    oracle = Oracle(codec.encode(pixels), scheduler)
    rng = torch.Generator().manual_seed(0)
    assert float(denoising_loss(oracle, codec, levels, config, rng, pixels, None)) < 1e-6
    ((x_t, t, output),) = oracle.asked
    assert set(t.tolist()) == set(range(50))  # every level is drawn
    sigma = levels.sigma((t + 1).double() / 50)
    x = x_t / per_row(levels.scale(sigma), x_t)
    seen = to_x0(output, x, sigma, config.diffusion.prediction)
    sound = sigma < 1e7  # pure noise holds no image in float32 tables
    assert (codec.decode(seen) - pixels)[sound].abs().max() < 1e-3
    late = Oracle(codec.encode(pixels), scheduler, late=1)
    assert float(denoising_loss(late, codec, levels, config, rng, pixels, None)) > 1e-3


def test_the_loss_is_that_of_the_labels_it_is_given(configure: Configure) -> None:
    config = configure(classes=2, **{"network.zero_init": False})
    codec = SpaceToDepth()
    network, levels = build_network(config, codec), levels_from_scheduler(build_scheduler(config).config)
    pixels = torch.rand(4, 3, 8, 8)

    @torch.no_grad()
    def loss(labels: list[int]) -> float:
        rng = torch.Generator().manual_seed(0)
        return float(denoising_loss(network, codec, levels, config, rng, pixels, torch.tensor(labels)))

    assert loss([0, 1, 2, 0]) == loss([0, 1, 2, 0]) != loss([0, 1, 2, 2])


@pytest.mark.parametrize("channels", [32, 64])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_even_the_smallest_network_sees_time_and_class(configure: Configure, channels: int, scale_shift: bool) -> None:
    settings = {"network.channels": [channels], "network.zero_init": False, "network.time_scale_shift": scale_shift}
    network = build_network(configure(classes=2, **settings), SpaceToDepth())
    x, zeros, ones = torch.randn(1, 3, 8, 8), torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
    with torch.no_grad():
        start = network(x, zeros, class_labels=zeros).sample
        assert (network(x, 20 * ones, class_labels=zeros).sample - start).abs().max() > 0.01
        assert (network(x, zeros, class_labels=ones).sample - start).abs().max() > 0.01


def test_batches_hold_images_with_their_own_labels(configure: Configure) -> None:
    config = configure(classes=2, class_dropout=0)
    pixels, labels = draw_batch(images_of(config), config, torch.Generator().manual_seed(0), COUNT)
    assert labels is not None
    assert pixels.shape == (COUNT, 3, 8, 8)
    assert (pixels.min() >= -1) & (pixels.max() <= 1)
    blue = pixels[:, 2].mean((1, 2)) > pixels[:, 0].mean((1, 2))
    assert torch.equal(labels, (~blue).long())
    assert 0.45 < labels.double().mean() < 0.55


def test_every_image_is_drawn_alike(configure: Configure) -> None:
    config = configure()
    pixels, _ = draw_batch(images_of(config), config, torch.Generator().manual_seed(0), COUNT)
    _, counts = np.unique(pixels.flatten(1).numpy(), axis=0, return_counts=True)
    assert len(counts) == 16
    assert counts.min() > 0.7 * COUNT / 16


def test_the_set_share_of_labels_is_dropped(configure: Configure) -> None:
    config = configure(classes=2, class_dropout=0.25)
    _, labels = draw_batch(images_of(config), config, torch.Generator().manual_seed(0), COUNT)
    assert labels is not None
    assert set(labels.tolist()) == {0, 1, 2}
    assert 0.22 < (labels == config.classes).double().mean() < 0.28


@pytest.mark.parametrize("flip", [False, True])
def test_half_of_the_images_are_mirrored_or_none(configure: Configure, flip: bool) -> None:
    config = configure(flip=flip)
    pixels, _ = draw_batch(images_of(config), config, torch.Generator().manual_seed(0), COUNT)
    mirrored = pixels[..., :4].mean((1, 2, 3)) < pixels[..., 4:].mean((1, 2, 3))
    share = float(mirrored.double().mean())
    assert 0.46 < share < 0.54 if flip else share == 0


def test_unconditional_batches_have_no_labels(configure: Configure) -> None:
    config = configure()
    assert draw_batch(images_of(config), config, torch.Generator(), 4)[1] is None


def test_grey_training_images_are_what_the_finished_model_encodes() -> None:
    images = torch.arange(2 * 3 * 5 * 3, dtype=torch.uint8).reshape(2, 3, 3, 5)
    colour, grey = to_training_range(images, 3), to_training_range(images, 1)
    assert torch.allclose(colour, images / 127.5 - 1)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose(grey, (colour * weights).sum(1, keepdim=True), atol=1e-6)


def test_every_step_and_rank_draws_its_own(configure: Configure) -> None:
    config = configure()
    images = images_of(config)
    seeds = {hash_seed(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 800
    drawn = [
        draw_batch(images, config, torch.Generator().manual_seed(hash_seed(0, 7, rank)), 32)[0] for rank in (0, 1, 0)
    ]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_the_rate_warms_up_and_decays_by_a_cosine() -> None:
    config = OptimizerConfig(lr=0.8, lr_end=0.2, warmup=10)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])

    def rate(step: int, share: float) -> float:
        set_lr(optimizer, config, step, share)
        return float(optimizer.param_groups[0]["lr"])

    assert [rate(step, 0) for step in (0, 4, 9, 10)] == pytest.approx([0.08, 0.4, 0.8, 0.8])
    assert [rate(100, s) for s in (0, 0.25, 0.5, 1, 1.5)] == pytest.approx(
        [0.8, 0.5 + 0.3 * math.sqrt(0.5), 0.5, 0.2, 0.2]
    )


def test_the_first_limit_of_a_budget_counts() -> None:
    state = RunState(step=30, seconds=90)
    assert spent(BudgetConfig(steps=120), state) == 0.25
    assert spent(BudgetConfig(minutes=3), state) == 0.5
    assert spent(BudgetConfig(steps=120, minutes=3), state) == 0.5
    assert spent(BudgetConfig(steps=40, minutes=3), state) == 0.75


def test_the_average_moves_by_the_share_that_the_decay_leaves() -> None:
    average, network = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = 0.75 * average.weight + 0.25 * network.weight
    update_ema(average, network, 0.75)
    assert torch.allclose(average.weight, expected)
    update_ema(average, network, 0.0)
    assert torch.equal(average.weight, network.weight)


@pytest.mark.parametrize("bf16", [False, True])
def test_bf16_is_of_the_network_alone(configure: Configure, bf16: bool) -> None:
    config = configure(**{"optimizer.bf16": bf16})
    codec, seen = SpaceToDepth(), []
    network, levels = build_network(config, codec), levels_from_scheduler(build_scheduler(config).config)
    network.conv_in.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    loss = denoising_loss(network, codec, levels, config, torch.Generator(), torch.zeros(2, 3, 8, 8), None)
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


def test_before_training_the_network_says_nothing(configure: Configure) -> None:
    """Of v at unit variance, nothing is an error of 1: EDM's promise for the start, at every level."""
    config = configure(**{"diffusion.lognormal": {}, "diffusion.steps": 1000})
    network, levels = build_network(config, SpaceToDepth()), levels_from_scheduler(build_scheduler(config).config)
    x0 = torch.randn(64, 3, 8, 8)
    sigma = draw_sigmas(config.diffusion, levels, torch.Generator().manual_seed(0), 64)
    output, target = predict(network, levels, config, x0, sigma, torch.randn(x0.shape), None)
    assert output.abs().max() == 0
    assert target.square().flatten(1).mean(1) == pytest.approx(torch.ones(64), abs=0.4)
    assert target.square().mean() == pytest.approx(1, abs=0.03)


def test_v_at_unit_variance_is_edms_preconditioning(configure: Configure) -> None:
    """2206.00364, table 1 and eq. 8, written out with σ_data = 1, against what `predict` trains and `to_x0` undoes."""
    config = configure(**{"optimizer.bf16": False, "network.zero_init": False, "diffusion.steps": 1000})
    network, levels = build_network(config, SpaceToDepth()), levels_from_scheduler(build_scheduler(config).config)
    x0, noise = torch.randn(2, 32, 3, 8, 8).double()
    sigma = draw_sigmas(config.diffusion, levels, torch.Generator().manual_seed(0), 32)
    with torch.no_grad():
        output, target = predict(network.double(), levels, config, x0, sigma, noise, None)
    s = per_row(sigma, x0)
    x = x0 + s * noise
    c_skip, c_out, weight = 1 / (s**2 + 1), s / (s**2 + 1).sqrt(), (s**2 + 1) / s**2
    denoised = c_skip * x + c_out * -output  # EDM's network has the other sign
    assert torch.allclose(denoised, to_x0(output.double(), x, sigma, "v_prediction"), atol=1e-6)
    theirs, ours = weight * (denoised - x0).square(), (output - target).square()
    assert torch.allclose(theirs, ours, rtol=1e-3, atol=1e-6)


def test_levels_are_drawn_lognormal_within_those_of_the_schedule(configure: Configure) -> None:
    config = configure(**{"diffusion.lognormal": {"mean": -0.5, "std": 1.2}, "diffusion.steps": 1000}).diffusion
    levels = levels_from_scheduler(build_scheduler(configure(**{"diffusion.steps": 1000})).config)
    drawn = draw_sigmas(config, levels, torch.Generator().manual_seed(0), COUNT).log()
    assert drawn.mean() == pytest.approx(-0.5, abs=0.06)
    assert drawn.std() == pytest.approx(1.2, abs=0.06)
    wide = config.model_copy(update={"lognormal": LognormalConfig(std=100)})
    ends = draw_sigmas(wide, levels, torch.Generator().manual_seed(0), COUNT)
    assert [ends.min(), ends.max()] == list(levels.sigma(torch.tensor([1e-3, 1.0], dtype=torch.float64)))
    assert levels.timestep(ends).min() >= 0


def test_building_a_network_leaves_the_global_generator_alone(configure: Configure) -> None:
    before = torch.random.get_rng_state()
    first, second = (build_network(configure(seed=3), SpaceToDepth()) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.conv_in.weight, second.conv_in.weight)
    assert not torch.equal(build_network(configure(seed=4), SpaceToDepth()).conv_in.weight, first.conv_in.weight)
