"""Neighbours of a labelled subset: made or retrieved, labelled, and weighed by the baseline classifier."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pipeline.diffusion.model import Model
from pipeline.hooks.neighbours import Neighbours, classes_of_labels
from pipeline.hooks.soft_labels import fractions, soft_labels
from pipeline.identity import PUBLIC_SALT, hash_json
from pipeline.models.families import load_model, sketch_model
from pipeline.source_code import code_hash
from pipeline.tensors import read_tensors, write_tensors
from training.classifier.filtering import weights
from training.classifier.fitting import EVALUATED, NeighbourPool, logits_of
from training.compare.config import NearConfig
from training.data.cache import PixelCache
from training.data.images import Images, pixel_marks

BATCH = 64
"""Images in one call of a model whose batch size is auto."""


def pool_of(
    near: NearConfig, subset: Images, baseline: nn.Module | None, classes: int, device: str, folder: Path,
    others: PixelCache | None,
) -> NeighbourPool:  # fmt: skip
    """The neighbours of a subset, with targets and weights.

    `others` are the images to retrieve from, and `baseline` is the classifier where `near.judged`. Pixels that were
    made are kept in `folder` and found again.
    """
    own = one_hot(subset.labels, classes).float()
    if others is not None and baseline is not None:
        pixels = retrieved(subset, others, baseline, near.copies, device)
        kept = torch.ones(pixels.shape[:2])
    else:
        pixels, sound = made(near, subset, device, folder)
        kept = sound.float()  # what could not be made is no neighbour
    targets = own.expand(len(pixels), -1, -1)
    if near.gamma is not None:
        assert near.model is not None
        maker = neighbours(near, cast(Model, sketch_model(near.model)), subset.names)
        drawn = [fractions(maker, subset.keys, copy, torch.device("cpu")) for copy in range(near.copies)]
        targets = torch.stack([soft_labels(subset.labels, level, near.gamma, classes) for level in drawn])
    if baseline is not None and (near.filter is not None or near.labels == "baseline"):
        after = torch.stack([logits_of(baseline, copy, device) for copy in pixels])
        targets = after.softmax(2) if near.labels == "baseline" else targets
        if near.filter is not None:
            before = logits_of(baseline, subset.pixels, device)
            kept *= torch.stack([weights(near.filter, before, copy, subset.labels) for copy in after])
    return NeighbourPool(pixels=pixels, targets=targets, weights=kept)


def made(near: NearConfig, subset: Images, device: str, folder: Path) -> tuple[Tensor, Tensor]:
    """Makes the neighbours' pixels, uint8 `[C, N, 3, H, W]`, and bool `[C, N]`: whether the output was finite.

    Where it was not, the pixels are those of the original. Copy c of a key has the pixels that an offline job with the
    public salt writes.
    """
    file = folder / f"{pool_hash(near, subset)}.safetensors"
    if file.exists():
        found = read_tensors(file)
        return found["pixels"], found["made"]
    assert near.model is not None
    maker, labels = neighbours(near, load_model(near.model, device), subset.names), subset.labels.to(device)
    copies, begun = [], time.monotonic()
    for copy in range(near.copies):
        source = subset.pixels if near.blend is None else blended(subset, near.blend, copy)
        copies.append(maker(source.to(device), subset.keys, labels=labels, copy=copy))
    pixels, sound = (torch.stack([part.cpu() for part in parts]) for parts in zip(*copies, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    seconds = torch.tensor(time.monotonic() - begun, dtype=torch.float64)
    write_tensors({"pixels": pixels, "made": sound, "seconds": seconds}, part)
    part.replace(file)
    return pixels, sound


def making_seconds(near: NearConfig, subset: Images, folder: Path) -> float:
    """The seconds that `made` took for these pixels, in one process."""
    from safetensors import safe_open

    with safe_open(folder / f"{pool_hash(near, subset)}.safetensors", "pt") as file:
        return float(file.get_tensor("seconds"))


def pool_hash(near: NearConfig, subset: Images) -> str:
    """A hash of everything that decides the pixels of `made`."""
    what = [subset.keys, pixel_marks(subset.pixels).tolist(), subset.labels.tolist(), subset.names]
    return hash_json([code_hash(__name__), source_hash(near), *what])[:32]


def source_hash(near: NearConfig) -> str:
    """A hash of model, operator, copies, blend and class_map."""
    assert near.model is not None
    assert near.operator is not None
    places = {"path", "revision", "local_files_only"}
    how = [
        near.operator.model_dump(mode="json"),
        near.copies,
        near.blend,
        near.class_map,
        near.model.model_dump(mode="json", exclude=places),
    ]
    return hash_json([sketch_model(near.model).hash, *how])


def blended(subset: Images, shares: tuple[float, float], copy: int) -> Tensor:
    """Blends each image with another one of its class, where there is one: uint8 `[N, 3, H, W]`.

    The fraction of the image itself is drawn from the range `shares`.
    """
    rng = torch.Generator().manual_seed(copy)
    partners = torch.arange(len(subset))
    for label in subset.labels.unique():
        rows = (subset.labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=rng)]
        partners[rows] = rows.roll(1)
    low, high = shares
    share = (low + (high - low) * torch.rand(len(subset), generator=rng))[:, None, None, None]
    return (share * subset.pixels + (1 - share) * subset.pixels[partners]).round().to(torch.uint8)


def neighbours(near: NearConfig, model: Model, names: Sequence[str] | None) -> Neighbours:
    """What makes the neighbours, just as an offline job with the public salt does.

    A sketch of the model is enough where only the levels are asked for. `names` are those of the labels' classes.
    Raises `UserError` where it is not known what these are for the model.
    """
    assert near.operator is not None
    classes = classes_of_labels(near.operator, model, near.class_map, names)
    return Neighbours(
        operator=near.operator, model=model, salt=PUBLIC_SALT, batch_size=batch_size(near), classes=classes
    )


def batch_size(near: NearConfig) -> int:
    """Images in one call of the model."""
    assert near.model is not None
    return BATCH if near.model.batch_size == "auto" else near.model.batch_size


@torch.inference_mode()
def retrieved(subset: Images, others: PixelCache, baseline: nn.Module, copies: int, device: str) -> Tensor:
    """The nearest of `others` by the baseline's features (Euclidean), without the image: uint8 `[C, N, 3, H, W]`."""
    pool = others.images()
    own, known = features_of(baseline, subset.pixels, device), features_of(baseline, pool, device)
    marks, keys = pixel_marks(subset.pixels), {key: i for i, key in enumerate(others.keys)}
    pool_marks = pixel_marks(pool)
    nearest = []
    for rows in torch.arange(len(subset)).split(EVALUATED):
        distance = torch.cdist(own[rows], known)
        distance[pool_marks[None] == marks[rows, None]] = torch.inf
        itself = [(i, keys[subset.keys[row]]) for i, row in enumerate(rows.tolist()) if subset.keys[row] in keys]
        for i, j in itself:
            distance[i, j] = torch.inf
        nearest.append(distance.topk(copies, largest=False).indices)
    return pool[torch.cat(nearest).T]


@torch.inference_mode()
def features_of(network: nn.Module, images: Tensor, device: str) -> Tensor:
    """The features of uint8 images `[N, 3, H, W]`: float32 `[N, D]` on the CPU."""
    parts = (part.to(device).float() / 127.5 - 1 for part in images.split(EVALUATED))
    return torch.cat([network.features(part).float().cpu() for part in parts])  # type: ignore[operator]
