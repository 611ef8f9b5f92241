"""One training: the laws of its parts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from training.classifier import augmentations
from training.classifier.augmentations import AUGMENTATIONS
from training.classifier.fitting import (
    Mixing,
    NeighbourPool,
    NotFinite,
    Schedule,
    accuracy,
    accuracy_by_class,
    calibration_error,
    cycle,
    epochs,
    fit,
    forward,
    mixed,
    soft_cross_entropy,
)
from training.compare.config import Classical

SCHEDULE = Schedule(steps=12, batch_size=4, lr=1e-2, weight_decay=0.0, bf16=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (6, 3, 4, 4), generator=seeded(), dtype=torch.uint8)
    return images, one_hot(torch.arange(6) % 2, 2).float()


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 9))
def test_an_epoch_holds_every_row_as_often_as_any(count: int, repeat: int, batch: int) -> None:
    batches = epochs(count, repeat, batch, seeded())
    drawn = torch.cat([next(batches) for _ in range(count * repeat)])
    for epoch in drawn.split(count * repeat):
        assert epoch.bincount(minlength=count).tolist() == [repeat] * count


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [cycle(step, 100) for step in range(101)]
    assert rates.index(max(rates)) in (4, 5)
    assert rates[100] == pytest.approx(0)
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_hard_targets_give_the_usual_cross_entropy() -> None:
    logits, labels = torch.randn(5, 3, generator=seeded()), torch.tensor([0, 1, 2, 1, 0])
    assert soft_cross_entropy(logits, one_hot(labels, 3).float()).item() == pytest.approx(
        cross_entropy(logits, labels).item()
    )


def test_two_trainings_of_one_seed_are_alike_and_of_two_are_not() -> None:
    images, targets = toy()
    weights = [
        fit(network(), images, targets, SCHEDULE, AUGMENTATIONS["flip_crop"], seed=seed, device="cpu")[3].weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_arms_draw_the_same_order_of_originals() -> None:
    """Neighbours that are the originals change nothing: the arms differ by what they train on, and by that alone."""
    images, targets = toy()
    pool = NeighbourPool(pixels=images[None], targets=targets[None], weights=torch.ones(1, 6))
    plain = fit(network(), images, targets, SCHEDULE, AUGMENTATIONS["flip_crop"], seed=1, device="cpu")
    with_pool = fit(
        network(), images, targets, SCHEDULE, AUGMENTATIONS["flip_crop"], seed=1, device="cpu",
        pool=pool, mixing=Mixing(p=0.5),
    )  # fmt: skip
    assert torch.equal(plain[3].weight, with_pool[3].weight)


def test_neighbours_stop_when_only_originals_are_to_come() -> None:
    images, targets = toy()
    pool = NeighbourPool(pixels=255 - images[None], targets=targets[None], weights=torch.ones(1, 6))
    made = [
        fit(
            network(), images, targets, SCHEDULE, AUGMENTATIONS["none"], seed=1, device="cpu",
            pool=pool, mixing=Mixing(p=1.0, until=until),
        )[3].weight
        for until in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    plain = fit(network(), images, targets, SCHEDULE, AUGMENTATIONS["none"], seed=1, device="cpu")[3].weight
    assert torch.equal(made[0], plain)
    assert not torch.equal(made[1], plain)
    assert not torch.equal(made[1], made[2])


def test_mixing_follows_weights_and_probability() -> None:
    images, targets = toy()
    pool = NeighbourPool(
        pixels=torch.stack([torch.full_like(images, value) for value in (10, 20, 30)]),
        targets=targets.flip(1).expand(3, -1, -1),
        weights=torch.tensor([[1 / 3, 0, 0, 0, 0, 0], [0, 0, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]]),
    )
    rows = torch.tensor([0, 1, 2]).repeat(2000)
    pixels, wanted, near = mixed(images[rows], targets[rows], rows, pool, 0.5, seeded())
    values = pixels[:, 0, 0, 0]
    assert not near[rows == 1].any()  # all of its neighbours were dropped
    for row, share in ((0, 0.5), (2, 0.25)):
        assert near[rows == row].double().mean() == pytest.approx(share, abs=0.04)
    assert set(values[near & (rows == 2)].tolist()) == {20}
    assert (values[near & (rows == 0)] == 30).double().mean() == pytest.approx(0.75, abs=0.04)
    assert torch.equal(wanted[near], targets[rows][near].flip(1))
    assert torch.equal(pixels[~near], images[rows][~near])


def test_separate_statistics_leave_no_trace_of_neighbours() -> None:
    net = network().train()
    x, near = torch.randn(8, 3, 4, 4, generator=seeded()), torch.tensor([False, True] * 4)
    x[near] += 100
    logits, order = forward(net, x, near)
    alone = network().train()
    own = alone(x[~near])
    torch.testing.assert_close(net[1].running_mean, alone[1].running_mean)
    torch.testing.assert_close(logits[:4], own)
    assert order.tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert net[1].momentum == 0.1


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    images, targets = toy()
    schedule = Schedule(steps=12, batch_size=4, lr=math.inf, weight_decay=0.0, bf16=False)
    with pytest.raises(NotFinite, match="not finite at step"):
        fit(network(), images, targets, schedule, AUGMENTATIONS["none"], seed=1, device="cpu")


def test_measures() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[4.0, 0], [0, 4.0], [0, 4.0], [0, 4.0]])
    assert accuracy(logits, labels) == 0.75
    assert accuracy_by_class(logits, labels, 3) == [0.5, 1.0, None]
    assert calibration_error(logits, labels) == pytest.approx(torch.tensor(4.0).sigmoid().item() - 0.75)
    assert calibration_error(torch.tensor([[1e3, 0], [0, 1e3]]), torch.tensor([0, 1])) == 0


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_what_they_must(name: str) -> None:
    pixels = torch.rand(8, 3, 12, 10, generator=seeded()) * 2 - 1
    targets = one_hot(torch.arange(8) % 3, 3).float()
    before = pixels.clone(), targets.clone()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    made, wanted = AUGMENTATIONS[name](pixels, targets, seeded())
    again, _ = AUGMENTATIONS[name](pixels, targets, seeded())
    other, _ = AUGMENTATIONS[name](pixels, targets, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(pixels, before[0])
    assert torch.equal(targets, before[1])
    assert made.shape == pixels.shape
    assert torch.equal(made, again)
    assert torch.equal(made, other) == (name == "none")
    assert made.abs().max() <= 1
    torch.testing.assert_close(wanted.sum(1), torch.ones(8))


def test_a_crop_moves_whole_images_and_each_its_own_way() -> None:
    pixels = torch.full((64, 1, 16, 16), -1.0)
    pixels[:, :, 8, 8] = 1
    made, _ = AUGMENTATIONS["flip_crop"](pixels, torch.zeros(64, 1), seeded())
    places = (made[:, 0] == 1).nonzero()[:, 1:]
    assert len(places) == 64
    down = places[:, 0] - 8
    assert down.abs().max() == 2
    assert len(places.unique(dim=0)) > 10


def test_cutmix_labels_are_shares_of_area(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentations, "flip_crop", augmentations.none)
    pixels = torch.zeros(2, 1, 16, 16)
    pixels[1] = 1
    shares = []
    for seed in range(20):
        made, wanted = AUGMENTATIONS["cutmix"](pixels, torch.eye(2), seeded(seed))
        shares.append(wanted[0, 1].item())
        assert shares[-1] == pytest.approx(made[0].double().mean().item(), abs=1e-6)
    assert max(shares) - min(shares) > 0.5


def test_every_classical_name_is_known() -> None:
    assert set(AUGMENTATIONS) == set(Classical.__args__)  # type: ignore[attr-defined]
