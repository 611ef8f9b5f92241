"""`doppel filter`: how much each stored neighbour counts, by what a baseline classifier still sees in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.hooks.store import NeighbourStore, StoredImage
from pipeline.media.fitting import Fit, fitted
from pipeline.report.progress import looking
from pipeline.section import Section
from training.calibrate.calibrate import judge_for, write
from training.calibrate.locality import JUDGED_AT_ONCE, count_right, judged
from training.classifier.filtering import rejected_share, weights
from training.data.images import load_images
from training.filter.config import StoreFilterConfig

WEIGHTS, REPORT = "weights.json", "filter.json"
"""The files that it writes."""


class NamedStore(NeighbourStore):
    """A store, opened without weights, that also tells what its neighbours are called."""

    def __init__(
        self, shards: Mapping[Path, Sequence[StoredImage]], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(shards, weights)
        self.entries: dict[str, list[StoredImage]] = {}
        """Of a key, in the order of `get`: a job may have lost the first copy and kept the second."""
        for entry in sorted(chain.from_iterable(shards.values()), key=lambda entry: entry.copy):
            self.entries.setdefault(entry.key, []).append(entry)


class FilterReport(Section):
    """What filter.json says; rates are fractions of the neighbours that were judged."""

    rejected: float
    rejected_by_class: dict[str, float]
    rejected_by_copy: dict[str, float]
    neighbours: int
    """How many neighbours were judged."""
    neighbours_without_original: int
    originals: int
    originals_without_neighbour: int
    originals_that_the_judge_sees_right: float
    config: StoreFilterConfig


def filter_store(config: StoreFilterConfig) -> FilterReport:
    """Writes the weights that `NeighbourStore.open` takes, and a report, into `config.output`; returns the report.

    Neighbours without an original in `data` are not judged: they get no weight there, and so count in full. Raises
    `UserError` where store, data and judge don't fit together.
    """
    output, device = Path(config.output), "cuda" if torch.cuda.is_available() else "cpu"
    store = NamedStore.open(config.store)
    assert isinstance(store, NamedStore)
    images = load_images(config.data, output / "cache" / "data", config.size, config.rules, name="data")
    found = [(row, at) for row, key in enumerate(images.keys) for at in enumerate(store.entries.get(key, ()))]
    if not found:
        raise UserError(
            f"{config.store}: none of its {len(store)} neighbours is of a key in data, the first of which is "
            f"{images.keys[0]!r}; it is the store of another data set"
        )
    judge = judge_for(config.judge, output, config.size, config.rules, names=images.names).to(device)
    before = judged(judge, images.pixels)
    right = count_right(before, images.labels)
    after = list[Tensor]()
    with looking() as on_images:
        for first in range(0, len(found), JUDGED_AT_ONCE):
            part = found[first : first + JUDGED_AT_ONCE]
            near = [store.get(entry.key, index) for _, (index, entry) in part]
            after.append(judged(judge, pixels_of(near, config.size, config.fit)).logits)
            on_images("neighbours", len(part))
    rows = torch.tensor([row for row, _ in found])
    labels = images.labels[rows]
    kept = weights(config.filter, before.logits[rows], torch.cat(after), labels)
    report = FilterReport(
        rejected=rejected_share(kept),
        rejected_by_class=by(labels, kept),
        rejected_by_copy=by(torch.tensor([entry.copy for _, (_, entry) in found]), kept),
        neighbours=len(found),
        neighbours_without_original=len(store) - len(found),
        originals=len(images),
        originals_without_neighbour=len(images) - len(rows.unique()),
        originals_that_the_judge_sees_right=right,
        config=config,
    )
    by_name = {entry.name: weight for (_, (_, entry)), weight in zip(found, kept.tolist(), strict=True)}
    write(output / WEIGHTS, json.dumps(by_name, ensure_ascii=False).encode())
    write(output / REPORT, (json.dumps(report.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode())
    return report


def pixels_of(images: Sequence[Image.Image | None], size: tuple[int, int], fit: Fit) -> Tensor:
    """The images as uint8 `[N, 3, H, W]`, brought to `size` (height, width) just as originals are."""
    pixels = [fitted(image, size, fit, Image.Resampling.BICUBIC)[0] for image in images if image is not None]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def by(groups: Tensor, kept: Tensor) -> dict[str, float]:
    """The rejected fraction in each group, by its number; `groups` are int64 `[N]`."""
    return {str(group): rejected_share(kept[groups == group]) for group in groups.unique().tolist()}
