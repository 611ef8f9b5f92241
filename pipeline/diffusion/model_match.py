"""Whether two models can take over a trajectory from one another. Their schedules may differ: both speak σ."""

from __future__ import annotations

from pipeline.diffusion.model import Outline


def mismatch(model: Outline, second: Outline, *, own_labels: bool) -> str | None:
    """Why two models can't, as the predicate of a sentence about the second; None where they can.

    `own_labels` says that the second model will be given the labels of the samples.
    """
    if model.size != second.size:
        return "works on {1}×{0} pixels, the model on {3}×{2}".format(*second.size, *model.size)
    if model.space != second.space:
        return f"lives in {second.space} space, the model in {model.space} space"
    if model.shape != second.shape:
        return f"has {second.shape[0]} channels, the model {model.shape[0]}"
    if own_labels and "none" != second.conditioning != model.conditioning:
        return f"takes {second.conditioning}, the model {model.conditioning}: condition own means two things"
    if own_labels and second.classes not in (None, model.classes):
        return f"knows {second.classes} classes, the model {model.classes or 'none'}: condition own means two things"
    if own_labels and second.class_names is not None and model.class_names not in (None, second.class_names):
        return "names its classes otherwise than the model: condition own means two things"
    return None
