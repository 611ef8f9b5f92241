"""How far neighbours are from their originals: what a judge sees in both, in figures, and the level to pick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import UserError
from training.calibrate.plot import Interval, LevelFound
from training.classifier.filtering import FilterConfig, check_labels, confidence, rejected_share, weights

if TYPE_CHECKING:
    from training.classifier.judge import SmallCNN
    from training.data.images import Images

JUDGED_AT_ONCE = 500
"""Images that the judge sees at a time."""
Z = 1.96
"""Half the width of a normal 95 % interval, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class MadeNeighbours:
    """C neighbours of each of N images."""

    pixels: Tensor
    """uint8 `[C, N, 3, H, W]`."""
    sound: Tensor
    """bool `[C, N]`: whether the output was finite; where it was not, the pixels are those of the original."""
    rate: float
    """Images a second that went through the model, including those that fill up a batch."""


@dataclass(frozen=True, kw_only=True)
class JudgedImages:
    """What the judge sees in N images, on the CPU: features `[N, D]`, logits `[N, K]`."""

    features: Tensor
    logits: Tensor


@torch.inference_mode()
def judged(judge: SmallCNN, pixels: Tensor) -> JudgedImages:
    """What the judge sees in `pixels`, uint8 `[N, 3, H, W]`."""
    device = judge.head.weight.device
    parts = [judge.features(part.to(device).float() / 127.5 - 1) for part in pixels.split(JUDGED_AT_ONCE)]
    features = torch.cat(parts)
    return JudgedImages(features=features.cpu(), logits=judge.head(features).cpu())


def count_right(before: JudgedImages, labels: Tensor) -> int:
    """Counts the originals in which the judge sees the label.

    Raises `UserError` for a label that it does not know, and where always answering the commonest label would do as
    well.
    """
    check_labels(labels, before.logits.shape[1])
    right, counts = int((before.logits.argmax(1) == labels).sum()), labels.bincount()
    if right <= counts.max() < len(labels):
        raise UserError(
            f"judge: it sees the label in {right} of {len(labels)} originals, and always saying {int(counts.argmax())} "
            f"would be right in {int(counts.max())}; train it better"
        )
    return right


def measure(
    level: float, made: MadeNeighbours, images: Images, before: JudgedImages, after: JudgedImages, unit: float,
    filtered: FilterConfig | None = None,
) -> LevelFound:  # fmt: skip
    """Measures one level from what the judge sees `before` in the N originals and `after` in their C·N neighbours.

    Neighbours are given copy by copy; `unit` comes from `class_spread`. The target concerns originals in which the
    judge sees the label. In the others it cannot tell what a neighbour shows, so that even perfect neighbours would
    never exceed its own accuracy. Copies of one image are not independent, so that the interval counts images. Raises
    `UserError` where no output is finite, or the judge sees the label in no original.
    """
    sound, labels, copies = made.sound, images.labels, len(made.pixels)
    right = before.logits.argmax(1) == labels
    agrees = (after.logits.argmax(1).view(sound.shape) == labels).double()
    sure = sound & right
    if not sure.any():
        why = "the judge sees the label in none of the originals" if sound.any() else "no output is finite"
        raise UserError(f"level {level:g}: {why}, so nothing can be measured")
    fallen = confidence(before.logits, labels) - confidence(after.logits, labels.repeat(copies)).view(sound.shape)
    features = after.features.view(*sound.shape, -1)
    pairs = combinations(range(copies), 2)
    apart = [(features[a] - features[b]).norm(dim=1)[sound[a] & sound[b]] for a, b in pairs]
    between = torch.cat([*apart, torch.empty(0)])
    squares = (made.pixels.float() - images.pixels.float()).square().flatten(2).mean(2)
    share = agrees[sure].mean().item()
    rejected = None
    if filtered:
        kept = weights(filtered, before.logits.repeat(copies, 1), after.logits, labels.repeat(copies))
        rejected = rejected_share(kept[sound.flatten()])
    return LevelFound(
        level=level,
        agreement=wilson(share, int(sure.any(0).sum())),
        agreement_of_all=agrees[sound].mean().item(),
        confidence_drop=fallen[sound].mean().item(),
        distance=(features - before.features).norm(dim=2)[sound].mean().item() / unit,
        diversity=between.mean().item() / unit if len(between) else None,
        rmse=math.sqrt(squares[sound].mean().item()),
        images_per_second=made.rate,
        unsound=int((~sound).sum()),
        rejected=rejected,
    )


def wilson(share: float, count: int) -> Interval:
    """The 95 % interval of a fraction `share` of `count` trials (Wilson 1927): low, the fraction itself, high."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return max(0.0, min(share, middle - half)), share, min(1.0, max(share, middle + half))


def class_spread(features: Tensor, labels: Tensor) -> float:
    """The mean distance of all pairs in one class, of features `[N, D]` and labels int64 `[N]`.

    Raises `UserError` where there is no such pair, or none that differs.
    """
    pairs = torch.cat([torch.pdist(features[labels == label]) for label in labels.unique()])
    if not len(pairs) or not pairs.any():
        raise UserError(f"data: in {len(features)} images no two of one class differ, so distances have no unit")
    return pairs.mean().item()


def pick(agreement: Sequence[tuple[float, float]], target: float) -> float | None:
    """The last level before the first that misses the target; None where already the first one misses it.

    `agreement` holds (level, agreement), ascending.
    """
    held = [level for level, _ in takewhile(lambda at: at[1] >= target, agreement)]
    return held[-1] if held else None
