"""Whether two models can take over a trajectory from one another. Their schedules may differ: both speak σ."""

from __future__ import annotations

import torch

from pipeline.diffusion.model import Model


def mismatch(model: Model, second: Model, *, own_labels: bool) -> str | None:
    """Why not, as half a sentence. `own_labels`: the second model will be given the labels of the samples."""
    if model.size != second.size:
        return "works on {1}×{0} pixels, the model on {3}×{2}".format(*second.size, *model.size)
    if model.space != second.space:
        return f"lives in {second.space} space, the model in {model.space} space"
    depths = [m.encode(torch.zeros(1, 3, *m.size)).shape[1] for m in (model, second)]
    if depths[0] != depths[1]:
        return f"has {depths[1]} channels, the model {depths[0]}"
    if own_labels and second.classes not in (None, model.classes):
        return f"knows {second.classes} classes, the model {model.classes or 'none'}: condition own means two things"
    return None
